"""Thetas of PyLO's Celo2 and ELO: safetensors files that do not say what they are.

Celo2's file is the same for both of its forms, and ELO's has the names and shapes of
the public μLO checkpoint. What is meant must be given as an architecture.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mulo import _rule_inputs as inputs
from mulo._celo2 import Celo2
from mulo._celo2_leaf import GROUPS
from mulo._elo import ELO


def is_celo2(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether these are the names of PyLO's Celo2."""
    return "w0.0" in tensors and "b0" in tensors


def read(
    tensors: Mapping[str, np.ndarray], rule: Any, where: str
) -> tuple[Celo2 | ELO, Any]:
    """Turn PyLO's tensors into a theta.

    Args:
      tensors: Of Celo2 (weights stored (in, out)) or ELO ((out, in)).
      rule: The architecture, a :class:`mulo.Celo2` or :class:`mulo.ELO`.
      where: The file, for messages.

    Returns:
      The architecture and theta, numpy float32.

    Raises:
      ValueError: If the architecture is missing or another, a tensor is missing or
        unknown, or theta does not fit.
    """
    celo2 = is_celo2(tensors)
    expected = Celo2 if celo2 else ELO
    if not isinstance(rule, expected):
        which = (
            "mulo.Celo2() or mulo.Celo2(orthogonalize=False), whichever it was trained "
            "as"
            if celo2
            else "mulo.ELO()"
        )
        raise ValueError(
            f"{where} has the layout of {expected.__name__} and does not say more: "
            f"give rule={which}; got {rule!r}."
        )
    theta = _celo2(tensors, where) if celo2 else _elo(tensors)
    theta = {
        part: {k: np.asarray(v, np.float32) for k, v in layers.items()}
        for part, layers in theta.items()
    }
    try:
        rule.check_theta(theta)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for name, leaf in inputs.named_leaves(theta):
        if not np.isfinite(leaf).all():
            raise ValueError(f"{where}: leaf {name!r} has NaN or infinite entries.")
    return rule, theta


def _celo2(tensors, where):
    names = {f"w0.{i}": f"w0__{i}" for i in range(len(GROUPS))} | {"b0": "b0"}
    for i in range(sum(name.startswith("dense_w.") for name in tensors)):
        names |= {f"dense_w.{i}": f"w{i + 1}", f"dense_b.{i}": f"b{i + 1}"}
    for name in tensors:
        if name not in names:
            raise ValueError(f"{where} holds a tensor {name!r} that Celo2 has not.")
    return {
        "ff_mod_stack": {
            ours: tensors[name] for name, ours in names.items() if name in tensors
        }
    }


def _elo(tensors):
    hidden = sum(name.startswith("network.linear_") for name in tensors) // 2
    layers = ["input", *(f"linear_{i}" for i in range(hidden)), "output"]
    network = {}
    for i, layer in enumerate(layers):
        for ours, name in (("w", "weight"), ("b", "bias")):
            if f"network.{layer}.{name}" in tensors:
                network[f"{ours}{i}"] = tensors[f"network.{layer}.{name}"].T
    return {"nn": network}
