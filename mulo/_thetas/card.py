"""Cards: what a theta file says about itself, and the names of its tensors.

A card is a JSON object. `build` writes it, `rule_of` turns it back into the
architecture; `to_tensors` and `from_tensors` translate between theta and named
tensors: for SmallFC those of the public μLO checkpoint, whose weights are stored (out,
in), for the others theta's own paths, such as ``rnn_params/rnn/w``.
"""

import dataclasses
import hashlib
import json
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mulo import _hints as hints
from mulo import _provenance as provenance
from mulo._checks import rule_inputs as inputs
from mulo._checks.leaf_names import named_leaves
from mulo._learned.annealed_fc import AnnealedFC
from mulo._learned.celo import Celo, CeloAdam
from mulo._learned.celo2 import Celo2
from mulo._learned.elo import ELO
from mulo._learned.learned_adam import LearnedAdam
from mulo._learned.learned_muon import LearnedMuon
from mulo._learned.lstm_ff import LSTMFF
from mulo._learned.rule import Rule
from mulo._learned.small_fc import SmallFC
from mulo._learned.velo import VeLO

# By the name their cards use.
ARCHITECTURES: dict[str, type[Rule]] = {
    rule.__name__: rule
    for rule in (
        SmallFC,
        AnnealedFC,
        VeLO,
        Celo,
        CeloAdam,
        LSTMFF,
        Celo2,
        ELO,
        LearnedAdam,
        LearnedMuon,
    )
}

DECAYS = ("momentum_decays", "rms_decays", "adafactor_decays")
DECAY_PARAMETRIZATION = (
    "offset: decay = 1 - exp(10 * (log(1 - initial) / 10 + offset)) "
    "= 1 - (1 - initial) * exp(10 * offset)"
)
FACTORED_DIMS = "stable argsort"

# What `build` fills in itself; a user's card may set the last two.
RESERVED = (
    "architecture",
    "config",
    "feature_version",
    "base_width",
    "decay_parametrization",
    "factored_dims",
    "sha256",
)

# What a file holds: arrays as `to_tensors` names them, and a card.
Read = tuple[dict[str, np.ndarray], dict[str, Any]]


def build(rule: Rule, extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """Make the card of a theta, without its checksum.

    Args:
      rule: The architecture, a frozen dataclass of one of `ARCHITECTURES`.
      extra: Free-form additions: ``license``, ``meta_training``, data, hardware and
        hours. Arrays become lists, non-finite numbers become strings.

    Returns:
      A dict that `json` can write.

    Raises:
      ValueError: If the architecture is unknown, or an addition has a reserved name
        or no JSON form.
    """
    name = type(rule).__name__
    _known_architecture(name)
    card = {
        "architecture": name,
        "config": plain(dataclasses.asdict(rule), "config"),
        "feature_version": rule.FEATURE_VERSION,
        "base_width": plain(rule.base_width, "base_width"),
        # Rules without learned decays have none to describe.
        **(
            {"decay_parametrization": DECAY_PARAMETRIZATION}
            if isinstance(rule, SmallFC)
            else {}
        ),
        "factored_dims": FACTORED_DIMS,
        "license": None,
        "git_commit": provenance.git_commit(),
    }
    for key, value in (extra or {}).items():
        if key in RESERVED:
            raise ValueError(
                f"card[{key!r}] is written by mulo.save itself; use another key. "
                f"Reserved: {', '.join(RESERVED)}."
            )
        card[key] = plain(value, key)
    return card


def rule_of(card: Mapping[str, Any], where: str) -> Rule:
    """Rebuild the architecture a card describes.

    Args:
      card: As `build` made it.
      where: The card's file, for messages.

    Returns:
      The architecture's dataclass.

    Raises:
      ValueError: If a field is missing, unknown, or not what this version implements.
    """
    for key in ("architecture", "config", "feature_version", "factored_dims"):
        if key not in card:
            raise ValueError(f"{where} lacks {key!r}; mulo.save writes it.")
    cls = _known_architecture(card["architecture"], where)
    if card["feature_version"] != cls.FEATURE_VERSION:
        raise ValueError(
            f"{where}: feature_version {card['feature_version']!r} of "
            f"{card['architecture']} is not known to this version of mulo, which has "
            f"{cls.FEATURE_VERSION}. Install the version that wrote it."
        )
    for key, known in (
        ("factored_dims", FACTORED_DIMS),
        ("decay_parametrization", DECAY_PARAMETRIZATION),
    ):
        if card.get(key, known) != known:
            raise ValueError(
                f"{where}: {key} must be {known!r}, got {card[key]!r}. Install the "
                "version of mulo that wrote it."
            )
    config = card["config"]
    if not isinstance(config, Mapping):
        raise ValueError(f"{where}: config must be an object, got {config!r}.")
    fields = [field.name for field in dataclasses.fields(cls)]
    for key in config:
        if key not in fields:
            raise ValueError(
                f"{where}: {card['architecture']} has no setting {key!r}"
                f"{hints.nearest(key, fields)} It has: {', '.join(fields)}."
            )
    for key in fields:
        if key not in config and key not in cls.LATER_FIELDS:
            raise ValueError(f"{where}: config lacks {key!r}.")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    if card.get("base_width", config["base_width"]) != config["base_width"]:
        raise ValueError(
            f"{where}: base_width is {card['base_width']!r} and config.base_width is "
            f"{config['base_width']!r}; they must agree."
        )
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def of_foreign(rule: Rule, source: str, content: bytes) -> dict[str, Any]:
    """The card of another project's file: the rule it was taken for, whose layout."""
    card = build(rule, {"source": source, "git_commit": None})
    return {**card, "sha256": hashlib.sha256(content).hexdigest()}


def to_tensors(theta: Any, rule: Rule) -> dict[str, np.ndarray]:
    """Name the arrays; SmallFC's as the public μLO checkpoint, weights (out, in)."""
    named = named_leaves(theta)
    tensors = {name: np.asarray(leaf, np.float32) for name, leaf in named}
    if not isinstance(rule, SmallFC):
        return tensors
    names = _public_names(sum(name.startswith("nn/w") for name in tensors))
    return {
        names.get(name, name): np.ascontiguousarray(x.T) for name, x in tensors.items()
    }


def from_tensors(
    tensors: Mapping[str, np.ndarray], rule: Rule, where: str
) -> dict[str, Any]:
    """Rebuild theta from named tensors.

    Args:
      tensors: As `to_tensors` makes them.
      rule: The architecture, which says what must be there and in which shape.
      where: The file, for messages.

    Returns:
      Theta as ``rule.init`` returns it, numpy float32.

    Raises:
      ValueError: If a tensor is missing, unknown, or of another shape or dtype, or
        not finite; names it.
    """
    try:
        rule.check_extent({name: x.shape for name, x in tensors.items()})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    shapes = _tensor_shapes(rule)
    for name in tensors:
        if name not in shapes:
            raise ValueError(
                f"{where} holds a tensor {name!r} that {rule} does not have"
                f"{hints.nearest(name, shapes)}"
            )
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(
                f"{where} lacks tensor {name!r} of shape {shape}, which {rule} needs."
            )
        got = tensors[name]
        if got.shape != shape:
            raise ValueError(
                f"{where}: tensor {name!r} must have shape {shape} for {rule}, got "
                f"{got.shape}. Architecture and weights do not belong together."
            )
        if got.dtype != np.float32:
            raise ValueError(
                f"{where}: tensor {name!r} must be float32, got {got.dtype}."
            )
    for name in shapes:
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"{where}: tensor {name!r} has NaN or infinite entries.")
    theta, names = _expected(rule), _file_names(rule)
    arrays = [tensors[names.get(path, path)] for path in inputs.shapes(theta)]
    if isinstance(rule, SmallFC):
        arrays = [x.T for x in arrays]
    return jax.tree.unflatten(jax.tree.structure(theta), arrays)


def plain(value: Any, name: str) -> Any:
    """Turn a value into what JSON can hold; ValueError names the one that cannot."""
    if hasattr(value, "to_dict"):  # ml_collections.ConfigDict
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, f"{name}[{k}]") for k, v in enumerate(value)]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and jax scalars and arrays
        return plain(value.tolist(), name)
    raise ValueError(
        f"card[{name!r}] must have a JSON form, got {type(value).__name__}: {value!r}."
    )


def parse(text: bytes | str, where: str) -> dict[str, Any]:
    """Read a JSON object; ValueError names the file."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} must hold a JSON object, got {shown(value)}.")
    return value


def shown(value: Any) -> str:
    """What a damaged file holds instead, cut short for a message."""
    return reprlib.repr(value)


def neighbour(where: str, name: str) -> str:
    """The path or address of a file beside another."""
    return where.removesuffix(Path(where).name) + name


def dump(card: Mapping[str, Any]) -> bytes:
    """Write a card as indented JSON that ends in a newline."""
    return (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode()


def _expected(rule: Rule) -> Any:
    return jax.eval_shape(rule.init, jax.random.key(0))


def _tensor_shapes(rule: Rule) -> dict[str, tuple[int, ...]]:
    shapes, names = inputs.shapes(_expected(rule)), _file_names(rule)
    if not names:
        return shapes
    return {names.get(path, path): shapes[path][::-1] for path in (*names, *DECAYS)}


def _file_names(rule: Rule) -> dict[str, str]:
    """Names in a file of the leaves that have another there, by path."""
    return _public_names(rule.hidden_layers + 1) if isinstance(rule, SmallFC) else {}


def _public_names(num_layers: int) -> dict[str, str]:
    return {
        f"nn/{letter}{k}": f"{_layer(k, num_layers)}.{kind}"
        for k in range(num_layers)
        for letter, kind in (("w", "weight"), ("b", "bias"))
    }


def _layer(k: int, num_layers: int) -> str:
    if k == 0:
        return "network.input"
    return "network.output" if k == num_layers - 1 else f"network.linear_{k - 1}"


def _known_architecture(name: str, where: str = "mulo.save") -> type[Rule]:
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ValueError(
            f"{where}: unknown architecture {name!r}"
            f"{hints.nearest(str(name), ARCHITECTURES)} "
            f"Known: {', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[name]
