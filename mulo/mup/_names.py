"""What a leaf's name tells that its shape does not."""

import re
from collections.abc import Sequence

from mulo._checks import leaf_names as trees

_HEADS = (
    *("head", "lm_head", "readout", "logits", "classifier", "unembed", "output"),
    *("output_layer", "out", "out_proj", "proj_out", "fc", "decoder", "actor"),
    *("critic", "policy_head", "value_head"),
)
_ROUTERS = ("router", "gate", "gating")
_TABLE = re.compile(r"\w*embed\w*|(\w+_)?emb(_\w+)?|wte|wpe", re.IGNORECASE)
_PROJECTION = ("kernel", "w", "W")  # Never the name of a table.
# Weights, and what their bias is called: in_proj_weight and in_proj_bias, w1 and b1.
_WEIGHT = re.compile(r"\w*(weight|kernel)\w*|[wW]\d*")
_ONLY_BIAS = re.compile(r"(weight|kernel)(_\w+)?|[wW]")  # Beside "bias" or "b".


def is_head(name: str) -> bool:
    """Whether a leaf's module is called as readouts are."""
    return _module(name) in _HEADS


def is_router(name: str) -> bool:
    """Whether a leaf's module is called as routers of experts are."""
    return _module(name) in _ROUTERS


def is_embedding(name: str, shape: Sequence[int]) -> bool:
    """Whether a leaf is called as tables are that are looked up, (vocabulary, width).

    flax's and haiku's leaves say so themselves, equinox's and torch's in the module.
    """
    leaf = trees.cut(name)[1]
    if len(shape) != 2 or leaf in _PROJECTION:
        return False
    called = _module(name) if leaf == "weight" else leaf
    return _TABLE.fullmatch(called) is not None


def biases_of(name: str) -> list[str]:
    """Paths where the bias of a weight may be; none for what is called no weight."""
    module, leaf = trees.cut(name)
    if not _WEIGHT.fullmatch(leaf):
        return []
    own = re.sub("weight|kernel", "bias", leaf)
    if own == leaf:
        own = re.sub("^[wW]", "b", leaf)
    biases = [own, "bias", "b"] if _ONLY_BIAS.fullmatch(leaf) else [own]
    box = "/value" if name.endswith("/value") else ""
    return [f"{module}{bias}{box}" for bias in dict.fromkeys(biases)]


def _module(name: str) -> str:
    return next(reversed(trees.keys_of(trees.cut(name)[0])), "")
