"""Thetas in PyLO's layouts: safetensors files that do not say what they are.

The public μLO checkpoint is one. ELO's file has the same names and shapes, so ELO must
be asked for. Celo2's names are its own, and its file is the same for both forms: it is
taken for the orthogonalized one, which is what its authors call Celo2, unless the other
is asked for. VeLO is two files. Linear layers are stored (out, in), Celo2's (in, out).
"""

import hashlib
import warnings
from collections.abc import Mapping

import numpy as np

from mulo._learned import features as features_lib
from mulo._learned.celo2 import Celo2
from mulo._learned.elo import ELO
from mulo._learned.features import GROUPS
from mulo._learned.rule import Rule
from mulo._learned.small_fc import SmallFC
from mulo._thetas import card as cards
from mulo._thetas import msgpack as legacy
from mulo._thetas import tensor_files

CONFIG_NAME = "config.json"
VELO_RNN = "VeLO_RNN/model.safetensors"
VELO_MLP = "../VeLO_MLP/model.safetensors"  # Relative to the other.

# Files of btherien/mulo on the Hub.
PUBLIC_MULO_SHA256 = {
    "model.safetensors": (
        "ad7c499d1bd389c768f20019a6e1a423c51c7d1db64774d038f4fe56bf21ccb3"
    ),
    CONFIG_NAME: "03ce572db3d332984fe31817c270d486a38ee26f68277b2f9911ef8284433b94",
}
# Offsets of that checkpoint. Its file holds the network alone; these are constants of
# PyLO (Belilovsky-Lab/pylo, MuLO_naive), learned with that network.
_PUBLIC_MULO_DECAYS = {
    "momentum_decays": (0.15216392, 0.14245212, 0.06812963),
    "rms_decays": (0.01079706,),
    "adafactor_decays": (0.18621896, -0.10864615, -0.06185547),
}


def read(
    content: bytes, beside: Mapping[str, bytes], where: str, rule: Rule | None
) -> cards.Read:
    """Read the public μLO checkpoint's layout, Celo2's or ELO's.

    Args:
      content: Of ``model.safetensors``.
      beside: Content of the ``config.json`` beside it, for μLO.
      where: The file, for messages.
      rule: The architecture, a :class:`mulo.Celo2` or :class:`mulo.ELO`; None for the
        orthogonalized Celo2 of the file's sizes or else μLO, whose missing decays are
        those published with the public checkpoint; if it is another file, a warning
        says so.

    Returns:
      Tensors and a card, to be checked.

    Raises:
      ValueError: If the architecture is missing or another, the config is none or does
        not belong to the tensors, or a tensor is unknown.
    """
    tensors = tensor_files.tensors_of(content, where)
    celo2 = "w0.0" in tensors and "b0" in tensors
    if rule is None and not celo2:
        rule = _of_config(beside[CONFIG_NAME], cards.neighbour(where, CONFIG_NAME))
        if not any(name in tensors for name in cards.DECAYS):
            digest = hashlib.sha256(content).hexdigest()
            if digest != PUBLIC_MULO_SHA256["model.safetensors"]:
                warnings.warn(
                    f"{where} holds no decays; the constants published with the public "
                    "μLO checkpoint are used. They belong to that network only.",
                    UserWarning,
                    stacklevel=4,
                )
            for name, values in _PUBLIC_MULO_DECAYS.items():
                tensors[name] = np.asarray(values, np.float32)
        return tensors, cards.of_foreign(rule, "public μLO layout", content)
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
    card = cards.of_foreign(rule, "PyLO", content)
    return cards.to_tensors(theta, rule), card


def read_velo(
    content: bytes, beside: Mapping[str, bytes], where: str, rule: Rule | None
) -> cards.Read:
    """Read VeLO's two files, whose settings are the published ones.

    Args:
      content: Of VeLO_RNN's file.
      beside: Content of VeLO_MLP's; working copies it may hold are not read.
      where: The first file, for messages.
      rule: Not used.

    Returns:
      Tensors and a card, to be checked.

    Raises:
      ValueError: If a tensor is missing or has an unexpected shape.
    """
    del rule
    mlp_where = where.removesuffix(VELO_RNN) + VELO_MLP.removeprefix("../")
    rnn = tensor_files.tensors_of(content, where)
    mlp = tensor_files.tensors_of(beside[VELO_MLP], mlp_where)

    def take(tensors, name):
        if name not in tensors:
            file = where if tensors is rnn else mlp_where
            raise ValueError(
                f"{file} lacks tensor {name!r} of PyLO's VeLO; it holds "
                f"{', '.join(sorted(tensors))}."
            )
        return tensors[name]

    def linear(name):
        return {"w": take(rnn, f"{name}.weight").T, "b": take(rnn, f"{name}.bias")}

    layers = sum(name.startswith("hidden_weights_.") for name in mlp)
    parts = [("input_weights_", "input_bias_")]
    parts += [(f"hidden_weights_.{i}", f"hidden_bias_.{i}") for i in range(layers)]
    parts += [("output_weights_", "output_bias_")]
    bank = {}
    for i, (weights, bias) in enumerate(parts):
        if np.ndim(take(mlp, weights)) != 3:
            raise ValueError(
                f"{mlp_where}: tensor {weights!r} must have 3 axes, got shape "
                f"{np.shape(mlp[weights])}."
            )
        bank[f"w{i}"] = np.swapaxes(mlp[weights], 1, 2)
        bank[f"b{i}"] = take(mlp, bias)
    first, start = bank.pop("w0"), 0
    for k, size in enumerate(features_lib.VELO.sizes(3)):
        bank[f"w0__{k}"] = first[:, start : start + size]
        start += size
    if start != first.shape[1]:
        raise ValueError(
            f"{mlp_where}: the MLP must have {start} inputs, got {first.shape[1]}."
        )
    rule, theta = legacy.from_public(
        {
            "lstm_init_state": {
                "hidden": take(rnn, "lstm_init_state.0"),
                "cell": take(rnn, "lstm_init_state.1"),
            },
            "rnn_params": {
                "linear": linear("mix_layer1"),
                "linear_1": linear("mix_layer2"),
                "linear_2": linear("final_mix_layer"),
                "rnn": linear("lstm.linear"),
                "rnn_to_controls": linear("rnn_to_controls"),
                "step_size": linear("step_size"),
            },
            "ff_mod_stack": bank,
        },
        where,
    )
    card = cards.of_foreign(rule, "PyLO's VeLO", content + beside[VELO_MLP])
    return cards.to_tensors(theta, rule), card


def _of_config(config: bytes, where: str) -> SmallFC:
    """The architecture that a ``config.json`` describes, published settings."""
    sizes = cards.parse(config, where)
    for key in ("hidden_layers", "hidden_size", "input_size"):
        value, least = sizes.get(key), 0 if key == "hidden_layers" else 1
        if type(value) is not int or value < least:
            raise ValueError(
                f"{where}: {key!r} must be an integer >= {least}, got {value!r}."
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
            f"{where}: input_size must be {rule.num_inputs}, the features of "
            f"SmallFC, got {sizes['input_size']}."
        )
    return rule


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
