"""Thetas in PyLO's layout: safetensors files that do not say what they are.

The public μLO checkpoint is one. ELO's file has the same names and shapes, so ELO must
be asked for. Celo2's names are its own, and its file is the same for both forms: it is
taken for the orthogonalized one, which is what its authors call Celo2, unless the other
is asked for.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from mulo import _cards
from mulo import _rule_inputs as inputs
from mulo._celo2 import Celo2
from mulo._celo2_leaf import GROUPS
from mulo._elo import ELO
from mulo._rule import Rule
from mulo._small_fc import SmallFC

# Files of btherien/mulo on the Hub.
PUBLIC_MULO_SHA256 = {
    "model.safetensors": (
        "ad7c499d1bd389c768f20019a6e1a423c51c7d1db64774d038f4fe56bf21ccb3"
    ),
    "config.json": "03ce572db3d332984fe31817c270d486a38ee26f68277b2f9911ef8284433b94",
}


def is_celo2(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether these are the names of PyLO's Celo2."""
    return "w0.0" in tensors and "b0" in tensors


def read(
    tensors: Mapping[str, np.ndarray], rule: Rule | None, where: str
) -> tuple[Celo2 | ELO, Any]:
    """Turn PyLO's tensors into a theta.

    Args:
      tensors: Of Celo2 (weights stored (in, out)) or ELO ((out, in)).
      rule: The architecture, a :class:`mulo.Celo2` or :class:`mulo.ELO`; None for the
        orthogonalized Celo2 of the file's sizes.
      where: The file, for messages.

    Returns:
      The architecture and theta, numpy float32.

    Raises:
      ValueError: If the architecture is missing or another, a tensor is missing or
        unknown, or theta does not fit.
    """
    celo2 = is_celo2(tensors)
    if celo2 and rule is None:
        layers = sum(name.startswith("dense_w.") for name in tensors)
        try:
            rule = Celo2(hidden_size=tensors["b0"].size, hidden_layers=layers)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
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


def read_public(
    tensors: Mapping[str, np.ndarray],
    config: bytes,
    where: str,
    config_where: str,
    *,
    sha256: str,
) -> tuple[SmallFC, Any]:
    """Turn tensors laid out as the public μLO checkpoint into a theta.

    Args:
      tensors: Weights stored (out, in), with or without decays.
      config: Content of the ``config.json`` beside them.
      where: The file, for messages.
      config_where: The config, for messages.
      sha256: Of the file. Decays that are missing are those published with the public
        checkpoint; if it is another file, a warning says so.

    Returns:
      The architecture, with the published settings, and theta, numpy float32.

    Raises:
      ValueError: If the config is none or does not belong to the tensors, or a tensor
        is missing, unknown or not finite.
    """
    sizes = _cards.parse(config, config_where)
    for key in ("hidden_layers", "hidden_size", "input_size"):
        value, least = sizes.get(key), 0 if key == "hidden_layers" else 1
        if type(value) is not int or value < least:
            raise ValueError(
                f"{config_where}: {key!r} must be an integer >= {least}, got {value!r}."
            )
    # PyLO does not count the input layer as hidden.
    rule = SmallFC(
        hidden_size=sizes["hidden_size"],
        hidden_layers=sizes["hidden_layers"] + 1,
        step_mult=0.01,
        exp_mult=0.001,
        base_width=1.0,
    )
    if sizes["input_size"] != rule.num_inputs:
        raise ValueError(
            f"{config_where}: input_size must be {rule.num_inputs}, the features of "
            f"SmallFC, got {sizes['input_size']}."
        )
    complete = dict(tensors)
    if not any(name in tensors for name in _cards.DECAYS):
        if sha256 != PUBLIC_MULO_SHA256["model.safetensors"]:
            warnings.warn(
                f"{where} holds no decays; the constants published with the public "
                "μLO checkpoint are used. They belong to that network only.",
                UserWarning,
                stacklevel=4,
            )
        for name, values in _cards.PUBLIC_MULO_DECAYS.items():
            complete[name] = np.asarray(values, np.float32)
    return rule, _cards.from_tensors(complete, rule, where)


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
