"""Thetas of learned_optimization and Celo: flax msgpack, read without their code.

Nested maps whose arrays are extension type 1, a packed (shape, dtype name, bytes);
bare, or inside the wrapper of ``ParameterCheckpoint`` (``params``, ``gen_id``,
``step``) or of a tuple.

A file does not say which optimizer it belongs to, nor any setting but sizes. Names and
shapes tell the architecture; other settings are the published ones, those of a
``config.gin`` that lies beside the file, or those the caller gives. Celo2 and
Celo2-base have the same names and shapes: a theta of either is taken for Celo2's unless
the caller says more.
"""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import msgpack
import numpy as np

from mulo._checks.leaf_names import named_leaves
from mulo._learned import velo_features
from mulo._learned.celo import Celo, CeloAdam
from mulo._learned.celo2 import Celo2
from mulo._learned.elo import ELO
from mulo._learned.lstm_ff import LSTMFF
from mulo._learned.rule import Rule
from mulo._learned.small_fc import SmallFC
from mulo._learned.velo import VeLO
from mulo._thetas import card as cards

GIN_NAME = "config.gin"
_ARRAY, _SCALAR = 1, 3  # Extension types of flax.
_DTYPES = ("float16", "float32", "float64", "int32", "int64", "uint32")

# Settings of the public class HyperV2 that VeLO here has, at the class's defaults,
# where those are not VeLO's own.
_GIN_DEFAULTS = {
    "lstm_hidden_size": 128,
    "param_inits": 64,
    "use_bugged_loss_features": True,
}
# Settings that change what it computes and have one value here.
_GIN_FIXED = {
    "mix_layers": True,
    "with_validation_feature_dim": False,
    "adafactor_accumulator": True,
    "precondition_output": False,
    "rnn_state_decay": 0.0,
    "constant_loss": False,
    "clip_param_scale_amount": None,
}
_GIN_LINE = re.compile(r"^(?:[\w./]*[./])?HyperV2\.(\w+)\s*=\s*(.+?)\s*$", re.MULTILINE)


def is_msgpack(path: Path) -> bool:
    """Whether the file at a path starts as a msgpack map does."""
    with path.open("rb") as file:
        first = file.read(1)
    return b"\x81" <= first <= b"\x8f" or first in (b"\xde", b"\xdf")


def read(
    content: bytes,
    beside: Mapping[str, bytes],
    where: str,
    rule: Rule | None = None,
) -> cards.Read:
    """Read a theta from flax msgpack.

    Args:
      content: The file's bytes.
      beside: Content of the ``config.gin`` beside the file, if there is one; settings
        of VeLO are read from it.
      where: The file, for messages.
      rule: The architecture with all its settings; None to tell it from the names and
        shapes.

    Returns:
      Tensors and a card, to be checked.

    Raises:
      ValueError: If the file is damaged or of another format.
    """
    tree = unpack(content, where)
    if isinstance(tree, Mapping) and {"params", "gen_id", "step"} <= set(tree):
        tree = tree["params"]
    elif isinstance(tree, Mapping) and set(tree) == {"0", "1", "2"}:
        tree = tree["0"]  # A tuple (theta, generation, step).
    gin = beside.get(GIN_NAME)
    try:
        rule, theta = from_public(tree, where, rule=rule, gin=gin)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{where} is no theta known here: {error}.") from error
    card = cards.of_foreign(rule, "flax msgpack", content)
    return cards.to_tensors(theta, rule), card


def from_public(
    tree: Any, where: str, *, rule: Rule | None = None, gin: bytes | None = None
) -> tuple[Rule, Any]:
    """Turn a theta under its public names into an architecture and our theta.

    Args:
      tree: Nested maps of arrays under haiku's names, such as
        ``ff_mod_stack/~/w0__0``.
      where: The file, for messages.
      rule: As in `read`.
      gin: Content of a ``config.gin``.

    Returns:
      The architecture and theta, numpy float32; whether they fit is not checked.

    Raises:
      ValueError: If a leaf holds no numbers, or no architecture has these names.
    """
    theta = _plain_names(tree)
    for name, leaf in named_leaves(theta):
        if np.asarray(leaf).dtype.kind not in "fiu":
            raise ValueError(f"{where}: leaf {name!r} must hold numbers, got {leaf!r}.")
        if not np.size(leaf):
            raise ValueError(
                f"{where}: leaf {name!r} has no entries, shape {np.shape(leaf)}; no "
                "architecture has a layer without units."
            )
    known = _recognize(theta, where)
    if rule is None:
        rule = _from_gin(known, gin, where) if gin is not None else known
    return rule, jax.tree.map(lambda x: np.asarray(x, np.float32), theta)


def unpack(content: bytes, where: str) -> Any:
    """Unpack flax msgpack into nested dicts and numpy arrays; runs no code of it."""

    def extension(code, data):
        if code not in (_ARRAY, _SCALAR):
            raise ValueError(f"extension type {code} is not one of an array")
        shape, dtype, values = msgpack.unpackb(data, raw=False)
        if dtype not in _DTYPES:
            raise ValueError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
        return np.frombuffer(values, dtype).reshape(shape)

    try:
        return msgpack.unpackb(content, ext_hook=extension, raw=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(
            f"{where} is not a whole flax msgpack file ({error or 'truncated'}); copy "
            "or download it again."
        ) from error


def _plain_names(tree: Any) -> Any:
    """Drop haiku's ``~`` and doubled names, and name the parts of an LSTM's state."""
    if not isinstance(tree, Mapping):
        return tree
    out = {}
    for key, value in tree.items():
        value = _plain_names(value)
        name = str(key).removeprefix("mlp/~/").removesuffix("/linear")
        if key in ("~", "rnn_to_ff", "rnn_to_in"):  # The only one at its level.
            out |= value
        elif key == "lstm_init_state" and set(value) == {"0", "1"}:
            out[name] = {"hidden": value["0"], "cell": value["1"]}
        else:
            out[name] = value
    return out


def _recognize(theta: Any, where: str) -> Rule:
    """The architecture these names and shapes belong to, published settings."""
    keys = set(theta) if isinstance(theta, Mapping) else set()
    try:
        if keys in ({"nn"}, {"nn", *cards.DECAYS}):
            cls = ELO if keys == {"nn"} else SmallFC
            return cls(
                hidden_size=theta["nn"]["b0"].shape[0],
                hidden_layers=len(theta["nn"]) // 2 - 1,
            )
        if "initial_from_lstm" in keys:
            return LSTMFF(
                hidden_size=theta["ffmod_params"]["linear_0"]["b"].shape[0],
                hidden_layers=len(theta["ffmod_params"]) - 1,
                lstm_hidden_size=theta["lstm_init_state"]["hidden"].shape[-1],
                from_mlp_size=theta["initial_from_mlp"].shape[0],
                from_lstm_size=theta["initial_from_lstm"].shape[0],
                lstm_to_ff=theta["rnn_to_ff_params"]["b"].shape[0],
            )
        if keys == {"ff_mod_stack"}:
            bank = theta["ff_mod_stack"]
            return Celo2(
                hidden_size=bank["b0"].shape[0],
                hidden_layers=sum(name.startswith("b") for name in bank) - 1,
            )
        if {"lstm_init_state", "rnn_params"} <= keys:
            units = theta["lstm_init_state"]["hidden"].shape[-1]
            if "ff_mod_stack" not in keys:
                return CeloAdam(lstm_hidden_size=units)
            bank = theta["ff_mod_stack"]
            read = theta["rnn_params"]["linear_1"]["w"].shape[0]
            cls = Celo if read == velo_features.NUM_COMMON else VeLO
            return cls(
                lstm_hidden_size=units,
                param_inits=bank["b0"].shape[0],
                ff_hidden_size=bank["b0"].shape[1],
                ff_hidden_layers=sum(name.startswith("b") for name in bank) - 1,
            )
    except (KeyError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where} is no theta of a known optimizer: {error!r} while reading sizes."
        ) from error
    raise ValueError(
        f"{where} is no theta of a known optimizer; it holds "
        f"{', '.join(sorted(map(str, keys))) or 'no names'}."
    )


def _from_gin(known: Rule, content: bytes, where: str) -> Rule:
    """VeLO's settings from a gin file; what it does not mention is at its default."""
    if not isinstance(known, VeLO):
        return known
    try:
        text = content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"config.gin of {where} is no UTF-8 text ({error}); copy or download it "
            "again."
        ) from error
    settings: dict[str, Any] = dict(_GIN_DEFAULTS)
    for name, literal in _GIN_LINE.findall(text.replace("\\\n", " ")):
        try:
            value = ast.literal_eval(literal.partition("#")[0].strip())
        except (ValueError, SyntaxError, TypeError, RecursionError) as error:
            raise ValueError(
                f"config.gin of {where}: HyperV2.{name} must be a plain value, got "
                f"{literal[:100]!r}."
            ) from error
        if name in VeLO.__dataclass_fields__:
            settings[name] = tuple(value) if isinstance(value, list) else value
        elif name in _GIN_FIXED or name.startswith("with_"):
            if value != _GIN_FIXED.get(name, True):
                raise ValueError(
                    f"config.gin of {where}: HyperV2.{name} = {value!r} is not "
                    f"implemented here, only {_GIN_FIXED.get(name, True)!r}."
                )
    try:
        return VeLO(**settings)
    except ValueError as error:
        raise ValueError(f"config.gin of {where}: HyperV2.{error}") from error
