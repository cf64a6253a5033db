"""Leaves there is something to do for: neither masked, nor empty, nor stand-ins."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optax


def is_placeholder(params: Any) -> bool:
    """Whether ``optax.tree.map_params`` asks init where the parameters' copies are.

    It calls init with an object without leaves in place of the parameters.
    """
    return type(params).__name__ == "_ParamsPlaceholder"


def is_masked(x: Any) -> bool:
    """Whether a leaf was left out by ``optax.masked`` or ``optax.partition``."""
    return isinstance(x, optax.MaskedNode)


def live(leaves: Sequence[Any]) -> list[int]:
    """Positions of the leaves there is something to do for: neither masked nor empty.

    The others do not exist for the rule: they have no row in an LSTM and no part in
    what tensors tell each other.
    """
    return [
        i for i, x in enumerate(leaves) if not is_masked(x) and math.prod(np.shape(x))
    ]
