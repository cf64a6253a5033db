"""Theta files: ``model.safetensors``, whose header holds the card, and other layouts.

`save` writes the weights and their card as one file that takes its name at once; a
crash leaves the old pair or the new one. ``card.json`` beside it is a copy for people:
`load` goes by the header, and warns of a copy that was edited. A format that `load`
reads is a reader, a line of `FORMATS` and one of `_format`.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from mulo import _files as files
from mulo import _hints as hints
from mulo._learned.rule import Rule
from mulo._thetas import card as cards
from mulo._thetas import fetched, hugging_face, pylo, tensor_files
from mulo._thetas import msgpack as legacy
from mulo._thetas.pretrained import Pretrained
from mulo._thetas.tensor_files import MODEL_NAME

CARD_NAME = "card.json"

_LACKS = object()  # No JSON value.
_PICKLES = (".pickle", ".pkl", ".pt", ".pth", ".bin")


def _read_own(
    content: bytes, beside: Mapping[str, bytes], where: str, rule: Rule | None
) -> cards.Read:
    del rule
    card = tensor_files.card_of(content, where)
    card["sha256"] = hashlib.sha256(content).hexdigest()
    if CARD_NAME in beside and Path(where).name == MODEL_NAME:
        _warn_if_edited(beside[CARD_NAME], card, where)
    return tensor_files.tensors_of(content, where), card


def _warn_if_edited(copy: bytes, card: Mapping[str, Any], where: str) -> None:
    """Warn if a card beside a file is of it and says something else than its own."""
    path = cards.neighbour(where, CARD_NAME)
    try:
        found = cards.parse(copy, path)
    except ValueError as error:
        said = str(error)
    else:
        keys = sorted(found.keys() | card.keys())
        differ = [k for k in keys if found.get(k, _LACKS) != card.get(k, _LACKS)]
        # A card of other bytes is no edited one: a save was interrupted, or goes on.
        if not differ or found.get("sha256") != card["sha256"]:
            return
        said = f"{path} differs from the card inside {where} in {', '.join(differ)}."
    warnings.warn(
        f"{said} It is a copy for people to read, the card inside the file holds. To "
        "change a card, write both with mulo.save(directory, rule, theta, card=…); "
        f"delete {CARD_NAME} to be rid of this warning.",
        stacklevel=5,
    )


def _read_card_beside(
    content: bytes, beside: Mapping[str, bytes], where: str, rule: Rule | None
) -> cards.Read:
    """Weights that another program wrote, with the card of these very bytes."""
    del rule
    path = cards.neighbour(where, CARD_NAME)
    card = cards.parse(beside[CARD_NAME], path)
    if "sha256" not in card:
        raise ValueError(f"{path} lacks 'sha256'; mulo.save writes it.")
    digest = hashlib.sha256(content).hexdigest()
    if card["sha256"] != digest:
        raise ValueError(
            f"{where} has sha256 {digest}, its card {path} says {card['sha256']}: the "
            "file is corrupted, truncated, or belongs to another card. Copy or "
            "download both again."
        )
    return tensor_files.tensors_of(content, where), card


class Format(NamedTuple):
    """How files of one layout are read.

    Attributes:
      read: From a file's content, that of files beside it, its path or address and the
        architecture if one was given, to tensors by the names `save` gives them and a
        card. What they hold is checked later, once for all formats.
      beside: Files that belong to it, relative to it; those that exist are read.
      takes_rule: Whether the files do not say all about the architecture.
    """

    read: Callable[[bytes, Mapping[str, bytes], str, Rule | None], cards.Read]
    beside: tuple[str, ...] = ()
    takes_rule: bool = False


FORMATS = {
    "mulo": Format(_read_own, (CARD_NAME,)),
    "card beside": Format(_read_card_beside, (CARD_NAME,)),
    "PyLO": Format(pylo.read, (pylo.CONFIG_NAME,), takes_rule=True),
    "PyLO's VeLO": Format(pylo.read_velo, (pylo.VELO_MLP,)),
    "flax msgpack": Format(legacy.read, (legacy.GIN_NAME,), takes_rule=True),
}


def _format(path: Path) -> tuple[str | None, Path]:
    """Which of `FORMATS` lies at a path, None for none, and the file to read."""
    model = path / MODEL_NAME if path.is_dir() else path
    if path.is_file() and path.suffix != ".safetensors":
        return ("flax msgpack" if legacy.is_msgpack(path) else None), path
    if not model.is_file():
        model = path / pylo.VELO_RNN
        pair = model.is_file() and _beside(model, pylo.VELO_MLP).is_file()
        return ("PyLO's VeLO" if pair else None), model
    if model.name == MODEL_NAME and not tensor_files.has_card(model):
        if _beside(model, CARD_NAME).is_file():
            return "card beside", model
        if _beside(model, pylo.CONFIG_NAME).is_file():
            return "PyLO", model
    return "mulo", model


def _beside(path: Path, name: str) -> Path:
    return Path(os.path.normpath(path.parent / name))


def read(
    name: str,
    content: bytes,
    beside: Mapping[str, bytes],
    where: str,
    rule: Rule | None = None,
) -> Pretrained:
    """Read a theta and check it.

    Args:
      name: Of the format, one of `FORMATS`.
      content: Of its file.
      beside: Content of the files beside it, by the names in `FORMATS`.
      where: The file's path or address, for messages.
      rule: As in `load`.

    Raises:
      ValueError: As `load`.
    """
    tensors, card = FORMATS[name].read(content, beside, where, rule)
    described = cards.rule_of(card, f"The card of {where}")
    theta = cards.from_tensors(tensors, described, where)
    return Pretrained(described, jax.tree.map(jnp.asarray, theta), card)


def save(
    directory: str | os.PathLike[str],
    rule: Rule,
    theta: Any,
    *,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write theta with its card, at once, over what the directory held.

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
    described = cards.build(rule, card)
    rule.check_theta(theta)
    tensors = cards.to_tensors(theta, rule)
    cards.from_tensors(tensors, rule, "theta")  # Names a leaf that is not finite.
    model = tensor_files.pack(tensors, described)
    copy = cards.dump({**described, "sha256": hashlib.sha256(model).hexdigest()})
    directory = Path(directory)
    files.write(directory / MODEL_NAME, model)
    files.write(directory / CARD_NAME, copy)
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
    given = os.fspath(name_or_path)
    if not given:
        raise ValueError(
            "load needs a name or a path, got ''; write '.' for the current directory."
        )
    hub = hugging_face.is_address(given)
    if revision is not None and not hub:
        raise ValueError(f"revision is for hf:// names; got {revision!r} with {given}.")
    path, names = Path(given), released()
    source = None  # Of a theta that was fetched.
    if hub:
        wanted = (MODEL_NAME, CARD_NAME, pylo.CONFIG_NAME)
        path = hugging_face.download(given, revision, wanted)
    elif isinstance(name_or_path, str) and given in names:
        path = names[given]
    elif not path.is_dir() and not path.is_file():
        source = fetched.SOURCES.get(given)
        if source is None:
            raise ValueError(
                f"No theta called {given!r}, and no such file or directory"
                f"{hints.nearest(given, [*names, *fetched.SOURCES])} Released: "
                f"{', '.join(names) or 'none'}. Public, after python -m mulo.fetch "
                f"NAME: {', '.join(fetched.SOURCES)}."
            )
        path = fetched.fetched(given)
    name, file = _format(path)
    # What was fetched under a name in PyLO's layout is the public μLO.
    takes_rule = name and FORMATS[name].takes_rule and not (source and name == "PyLO")
    if rule is not None and not takes_rule:
        raise ValueError(
            "rule is for flax msgpack files and PyLO's, which do not say what they "
            f"belong to; {given} is none."
        )
    if name is None:
        _refuse(path, given)
    if rule is None and source is not None:
        rule = source.rule
    paths = {each: _beside(file, each) for each in FORMATS[name].beside}
    content = file.read_bytes()
    beside = {each: p.read_bytes() for each, p in paths.items() if p.is_file()}
    return read(name, content, beside, str(file), rule)


def _refuse(path: Path, given: str) -> NoReturn:
    """Say why nothing can be read at a path."""
    if path.is_file():
        _refuse_pickle(path)
        raise ValueError(
            f"{path} is not a .safetensors file, nor flax msgpack; load reads "
            f"{MODEL_NAME} as mulo.save writes it, or the directory that holds it."
        )
    names = sorted(p.name for p in path.iterdir())
    for name in names:
        _refuse_pickle(path / name)
    raise ValueError(
        f"{given} holds no {MODEL_NAME}; it holds {', '.join(names) or 'nothing'}. "
        "Give the directory that mulo.save wrote, such as runs/x/theta."
    )


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
    package = Path(__file__).resolve().parents[1]
    roots = [package / "checkpoints"]
    if (package.parent / "pyproject.toml").is_file():
        roots.append(package.parent / "checkpoints")
    return {
        model.parent.name: model.parent
        for root in roots
        for model in sorted(root.glob(f"*/{MODEL_NAME}"))
    }
