"""What an array is to LearnedMuon: its role, the matrix it is, its μP multiplier."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mulo import mup as mup_lib

ROLES = ("input", "hidden", "output", "vector")
HIDDEN = ROLES.index("hidden")
INPUT = ROLES.index("input")
MUP_RULE = "muon_rms"  # Of mulo.mup.update_multipliers.


class Kind(NamedTuple):
    """What a leaf is to the rule; leaves of one kind and shape step together."""

    role: int  # Index into `ROLES`.
    view: tuple[int, ...]  # (A, B) of a matrix to orthogonalize, or ().
    multiplier: float  # Of μP, on its step.


def kinds(tree: Any, mup: Any, base_width: float, max_input_dim: int) -> Any:
    """The kind of every leaf; MaskedNodes stay.

    Hidden and input matrices are to be orthogonalized. Kernels of convolutions count as
    matrices with all axes but the last on one side.

    Args:
      tree: Parameters or updates.
      mup: Tree of :class:`mulo.mup.Scaling`, one copy each; None to tell by shapes:
        arrays of two axes and more are hidden, with the last one as output side, the
        others vectors.
      base_width: Width at which a hidden matrix gets the plain step.
      max_input_dim: Input matrices with a longer side are not to be orthogonalized.

    Raises:
      ValueError: If a leaf has no μP scaling; names it.
    """
    if mup is None:
        scalings = jax.tree.map(_by_shape, tree)
    else:
        scalings = mup_lib.align(mup, tree, scalings=mup)
    multipliers = mup_lib.update_multipliers(
        scalings, optimizer=MUP_RULE, base_width=base_width
    )

    def kind(x, scaling, multiplier):
        shape = jnp.shape(x)
        if scaling.role == "output" and not scaling.finite:
            role = "output"
        elif len(shape) < 2:
            role = "vector"
        elif scaling.role == "hidden" and not scaling.finite:
            role = "hidden"
        else:
            role = "input"
        view: tuple[int, ...] = ()
        if role == "hidden":
            view = (scaling.fan_in, scaling.fan_out)
        elif role == "input":
            sides = (math.prod(shape[:-1]), shape[-1])
            view = sides if max(sides) <= max_input_dim else ()
        return Kind(ROLES.index(role), view, float(multiplier))

    return jax.tree.map(kind, tree, scalings, multipliers)


def _by_shape(x: Any) -> mup_lib.Scaling:
    shape = jnp.shape(x)
    if len(shape) < 2:
        return mup_lib.Scaling("input", 1, max(math.prod(shape), 1))
    fan_in, fan_out = math.prod(shape[:-1]), shape[-1]
    return mup_lib.Scaling("hidden", max(fan_in, 1), max(fan_out, 1))
