"""Theta files: ``model.safetensors`` with the weights, ``card.json`` with the rest.

Both are written atomically, and so that a crash in between loses nothing. `save` puts
first a card that describes the new weights and, under ``previous``, the old ones; then
the weights; then the card alone. Whenever it stops, the weights' sha256 picks the card
that belongs to them, and weights that belong to no card are an error, never a guess.
The card is also kept inside the weights' file, for when that is copied alone.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from mulo import _cards
from mulo import _files as files
from mulo import _hints as hints
from mulo import _legacy_thetas as _legacy
from mulo import _pylo_thetas as _pylo
from mulo._pretrained import Pretrained as Pretrained
from mulo._rule import Rule

MODEL_NAME = "model.safetensors"
CARD_NAME = "card.json"

_PICKLES = (".pickle", ".pkl", ".pt", ".pth", ".bin")
_HUB_PREFIX = "hf://"
_HEADER_ALIGNMENT = 8  # Bytes, of the data in a safetensors file.
_PYLO_VELO = ("VeLO_RNN", "VeLO_MLP")


def save(
    directory: str | os.PathLike[str],
    rule: Rule,
    theta: Any,
    *,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write theta and its card, atomically, over what the directory held.

    Args:
      directory: Created if missing.
      rule: The architecture theta belongs to.
      theta: Meta-parameters; arrays of the shapes ``rule.init`` gives.
      card: Free-form additions such as ``license`` and ``meta_training``; JSON values
        and arrays.

    Returns:
      The directory.

    Raises:
      ValueError: If theta does not fit the architecture or is not finite, or the card
        has a reserved key or no JSON form. Nothing is written then.
      OSError: If the directory cannot be written; what it held stays readable.
    """
    described = _cards.build(rule, card)
    rule.check_theta(theta)
    tensors = _cards.to_tensors(theta, rule)
    _cards.from_tensors(tensors, rule, "theta")  # Names a leaf that is not finite.
    model = _with_card(tensors, described)
    new = {**described, "sha256": hashlib.sha256(model).hexdigest()}

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    previous = _card_in_use(directory)
    if previous is not None:
        both = _cards.dump({**new, "previous": previous})
        files.write(directory / CARD_NAME, both)
    else:
        files.write(directory / CARD_NAME, _cards.dump(new))
    files.write(directory / MODEL_NAME, model)
    if previous is not None:
        files.write(directory / CARD_NAME, _cards.dump(new))
    return directory


def load(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    rule: Rule | None = None,
) -> Pretrained:
    """Load a theta.

    Args:
      name_or_path: A released name; one that ``python -m mulo.fetch`` has fetched
        (``"velo"``, ``"celo2"``, ``"mulo_public"``); a directory as `save` writes it,
        or laid out as the public μLO checkpoint (``config.json`` instead of a card:
        published decays and step size are filled in, with a warning if the decays are
        missing and it is another theta) or as PyLO's Celo2 or ELO, or one that holds
        PyLO's ``VeLO_RNN`` and ``VeLO_MLP``; a ``.safetensors`` file; a flax msgpack
        file of learned_optimization or Celo (VeLO's settings are read from a
        ``config.gin`` beside it); or ``hf://owner/name`` (needs the extra ``hub``). A
        released name goes before a directory of that name, a directory before what was
        fetched; write ``./name`` for the directory.
      revision: Branch, tag or commit, for ``hf://`` only.
      rule: Architecture of a flax msgpack file, such as ``mulo.SmallFC(step_mult=…)``,
        where its settings are not the published ones; such files do not hold them. A
        theta of Celo2 is taken for the orthogonalized form unless
        ``mulo.Celo2(orthogonalize=False)`` is given: no file says which. PyLO's ELO
        needs ``mulo.ELO()``.

    Returns:
      The architecture, theta and card.

    Raises:
      ValueError: If the name is unknown, a file is missing, corrupted or of another
        format, or weights and card do not belong together.
      ImportError: If ``hf://`` is asked for without ``huggingface_hub``.
    """
    from mulo import fetch  # Also run as a program; importing it earlier is noise.

    given = os.fspath(name_or_path)
    if not given:
        raise ValueError(
            "load needs a name or a path, got ''; write '.' for the current directory."
        )
    hub = given.startswith(_HUB_PREFIX)
    directory = _download(given, revision) if hub else Path(given)
    source = fetch.SOURCES.get(given)
    as_flax = source is not None and source.file_name != MODEL_NAME
    silent = as_flax or _is_legacy(directory) or _is_public(directory)
    if rule is not None and not silent:
        raise ValueError(
            "rule is for flax msgpack files and PyLO's, which do not say what they "
            f"belong to; {given} is none."
        )
    if hub:
        return _load_directory(directory, given, rule)
    if revision is not None:
        raise ValueError(f"revision is for hf:// names; got {revision!r} with {given}.")
    names = released()
    if isinstance(name_or_path, str) and given in names:
        return _load_directory(names[given], given)
    path = Path(given)
    if path.is_dir():
        return _load_directory(path, str(path), rule)
    if path.is_file():
        return _load_legacy(path, rule) if _is_legacy(path) else _load_file(path)
    if source is not None:
        path = fetch.fetched(given)
        if as_flax:
            return _load_legacy(path, source.rule if rule is None else rule)
        return _load_directory(path.parent, given)
    raise ValueError(
        f"No theta called {given!r}, and no such file or directory"
        f"{hints.nearest(given, [*names, *fetch.SOURCES])} Released: "
        f"{', '.join(names) or 'none'}. Public, after python -m mulo.fetch NAME: "
        f"{', '.join(fetch.SOURCES)}."
    )


def _load_file(path: Path) -> Pretrained:
    if path.name == MODEL_NAME:
        return _load_directory(path.parent, str(path))
    _refuse_pickle(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is not a .safetensors file, nor flax msgpack; load reads "
            f"{MODEL_NAME} and {CARD_NAME} as mulo.save writes them, or the directory "
            "that holds them."
        )
    return _load_alone(path.read_bytes(), str(path))


def _load_directory(
    directory: Path, where: str, rule: Rule | None = None
) -> Pretrained:
    model_path, card_path = directory / MODEL_NAME, directory / CARD_NAME
    if not model_path.is_file():
        if all((directory / name / MODEL_NAME).is_file() for name in _PYLO_VELO):
            return _load_pylo_velo(directory)
        names = sorted(p.name for p in directory.iterdir())
        for name in names:
            _refuse_pickle(directory / name)
        raise ValueError(
            f"{where} holds no {MODEL_NAME}; it holds {', '.join(names) or 'nothing'}. "
            "Give the directory that mulo.save wrote, such as runs/x/theta."
        )
    if card_path.is_file():
        model, card = _read_pair(model_path, card_path)
        return _finish(read_tensors(model, str(model_path)), card, str(card_path))
    model = model_path.read_bytes()
    if _is_public(directory):
        tensors = read_tensors(model, str(model_path))
        if rule is not None or _pylo.is_celo2(tensors):
            rule, theta = _pylo.read(tensors, rule, str(model_path))
            return _without_card(rule, theta, model, "PyLO")
        path = directory / "config.json"
        rule, theta = _pylo.read_public(
            tensors,
            path.read_bytes(),
            str(model_path),
            str(path),
            sha256=hashlib.sha256(model).hexdigest(),
        )
        return _without_card(rule, theta, model, "public μLO layout")
    return _load_alone(model, str(model_path))


def _read_pair(model_path: Path, card_path: Path) -> tuple[bytes, dict[str, Any]]:
    """Read weights and the card that belongs to them, also while `save` runs."""
    text = card_path.read_bytes()
    while True:
        model = model_path.read_bytes()
        digest = hashlib.sha256(model).hexdigest()
        card = _cards.parse(text, str(card_path))
        previous = card.pop("previous", None)
        if "sha256" not in card:
            raise ValueError(f"{card_path} lacks 'sha256'; mulo.save writes it.")
        if card["sha256"] == digest:
            return model, card
        if isinstance(previous, dict) and previous.get("sha256") == digest:
            return model, previous
        text, before = card_path.read_bytes(), text
        if text == before:
            raise ValueError(
                f"{model_path} has sha256 {digest}, its card {card_path} says "
                f"{card['sha256']}: the file is corrupted, truncated, or belongs to "
                "another card. Copy or download both again."
            )


def _load_alone(model: bytes, where: str) -> Pretrained:
    metadata, data = _metadata(model, where)
    if "mulo_card" not in metadata:
        raise ValueError(
            f"{where} has no card: neither {CARD_NAME} nor config.json lies beside it "
            "and it was not written by mulo.save. Keep the card with the weights."
        )
    if hashlib.sha256(data).hexdigest() != metadata.get("data_sha256"):
        raise ValueError(
            f"{where}: the weights do not have the sha256 stored with them; the file "
            "is corrupted. Copy or download it again."
        )
    card = _cards.parse(metadata["mulo_card"], f"The card in {where}")
    card["sha256"] = hashlib.sha256(model).hexdigest()
    return _finish(read_tensors(model, where), card, f"The card in {where}")


def _is_public(directory: Path) -> bool:
    """Whether a directory has a public project's config in place of a card."""
    names = {p.name for p in directory.iterdir()} if directory.is_dir() else set()
    return {MODEL_NAME, "config.json"} <= names and CARD_NAME not in names


def _is_legacy(path: Path) -> bool:
    if not path.is_file() or path.suffix == ".safetensors":
        return False
    with path.open("rb") as file:
        return _legacy.looks_like_msgpack(file.read(1))


def _load_legacy(path: Path, rule: Rule | None) -> Pretrained:
    """Load flax msgpack, with the settings of a config.gin beside it."""
    content = path.read_bytes()
    gin = path.with_name("config.gin")
    rule, theta = _legacy.read(
        content,
        str(path),
        rule=rule,
        gin=gin.read_bytes() if gin.is_file() else None,
    )
    return _without_card(rule, theta, content, "flax msgpack")


def _load_pylo_velo(directory: Path) -> Pretrained:
    contents = [(directory / name / MODEL_NAME).read_bytes() for name in _PYLO_VELO]
    rnn, mlp = (
        read_tensors(content, str(directory / name / MODEL_NAME))
        for name, content in zip(_PYLO_VELO, contents, strict=True)
    )
    rule, theta = _legacy.from_pylo_velo(rnn, mlp, str(directory))
    return _without_card(rule, theta, b"".join(contents), "PyLO's VeLO")


def _without_card(rule: Rule, theta: Any, content: bytes, source: str) -> Pretrained:
    card = _cards.build(rule, {"source": source, "git_commit": None})
    card["sha256"] = hashlib.sha256(content).hexdigest()
    return Pretrained(rule, jax.tree.map(jnp.asarray, theta), card)


def _finish(
    tensors: dict[str, np.ndarray], card: dict[str, Any], where: str
) -> Pretrained:
    rule = _cards.rule_of(card, where)
    theta = _cards.from_tensors(tensors, rule, where)
    return Pretrained(rule, jax.tree.map(jnp.asarray, theta), card)


def _with_card(tensors: dict[str, np.ndarray], card: Mapping[str, Any]) -> bytes:
    header, data = _split(safetensors.numpy.save(tensors), "theta")
    metadata = {
        "mulo_card": json.dumps(card, ensure_ascii=False),
        "data_sha256": hashlib.sha256(data).hexdigest(),
    }
    # Written here, since the library puts metadata in another order in every process.
    text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":"))
    text += " " * (-len(text) % _HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text.encode() + data


def _metadata(model: bytes, where: str) -> tuple[dict[str, str], bytes]:
    """Free-form metadata of a safetensors file, and its data."""
    header, data = _split(model, where)
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError(
            f"The header of {where} must hold an object of strings under "
            f"'__metadata__', got {_cards.shown(metadata)}."
        )
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ValueError(
                f"The header of {where} must hold a string under '__metadata__' "
                f"{key!r}, got {_cards.shown(value)}."
            )
    return metadata, data


def _split(model: bytes, where: str) -> tuple[dict[str, Any], bytes]:
    """Split a safetensors file into its header and its data."""
    length = int.from_bytes(model[:8], "little")
    if len(model) < 8 + length:
        raise ValueError(
            f"{where} is not a whole safetensors file: it has {len(model)} bytes."
        )
    header = _cards.parse(model[8 : 8 + length], f"The header of {where}")
    return header, model[8 + length :]


def read_tensors(model: bytes, where: str) -> dict[str, np.ndarray]:
    """Read a safetensors file; raise ValueError if it is none."""
    try:
        return safetensors.numpy.load(model)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(
            f"{where} is not a valid safetensors file ({error}); it is truncated or "
            "of another format."
        ) from error


def _card_in_use(directory: Path) -> dict[str, Any] | None:
    """The card of the weights that lie there now; None if there is no sound pair."""
    try:
        return _read_pair(directory / MODEL_NAME, directory / CARD_NAME)[1]
    except (OSError, ValueError):
        return None


def _refuse_pickle(path: Path) -> None:
    if path.suffix in _PICKLES or (path.is_file() and _starts_like_pickle(path)):
        raise ValueError(
            f"{path} looks like a pickle, which runs code when read; mulo never opens "
            "one. Convert it where you trust it: read it there, then "
            "mulo.save(directory, rule, theta)."
        )


def _starts_like_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(2)
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5


def released() -> dict[str, Path]:
    """Released names: in an installed wheel, and in a checkout."""
    package = Path(__file__).resolve().parent
    roots = [package / "checkpoints"]
    if (package.parent / "pyproject.toml").is_file():
        roots.append(package.parent / "checkpoints")
    return {
        model.parent.name: model.parent
        for root in roots
        for model in sorted(root.glob(f"*/{MODEL_NAME}"))
    }


def _download(name: str, revision: str | None) -> Path:
    repository = name.removeprefix(_HUB_PREFIX)
    if len([part for part in repository.split("/") if part]) != 2:
        raise ValueError(f"A Hub name is hf://owner/name, got {name!r}.")
    try:
        import huggingface_hub  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise ImportError(
            f'{name} needs huggingface_hub: pip install "mulo[hub]".'
        ) from error
    directory = huggingface_hub.snapshot_download(
        repository,
        revision=revision,
        allow_patterns=[MODEL_NAME, CARD_NAME, "config.json"],
    )
    return Path(directory)
