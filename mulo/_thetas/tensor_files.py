"""A safetensors file whose header holds the card of its tensors.

The header's metadata are ``mulo_card``, JSON, and the sha256 of that text and of the
tensors' bytes. One file, so one write: weights and card are both new or both old.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from mulo._thetas import card as cards

_CARD, _CARD_SUM, _DATA_SUM = "mulo_card", "card_sha256", "data_sha256"
_ALIGNMENT = 8  # Bytes, of the data.

MODEL_NAME = "model.safetensors"


def pack(tensors: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> bytes:
    """Write tensors and their card, the same bytes in every process."""
    header, data = _split(safetensors.numpy.save(dict(tensors)), "theta")
    described = json.dumps(card, ensure_ascii=False)
    metadata = {
        _CARD: described,
        _CARD_SUM: _sum_of_text(described),
        _DATA_SUM: hashlib.sha256(data).hexdigest(),
    }
    # Written here, since the library puts metadata in another order in every process.
    text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":"))
    text += " " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text.encode() + data


def has_card(path: Path) -> bool:
    """Whether the file at a path holds a card, sound or not."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return f'"{_CARD}"'.encode() in file.read(min(length, path.stat().st_size))


def card_of(content: bytes, where: str) -> dict[str, Any]:
    """Read the card; ValueError if there is none or a checksum differs."""
    header, data = _split(content, where)
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError(
            f"The header of {where} must hold an object of strings under "
            f"'__metadata__', got {cards.shown(metadata)}."
        )
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ValueError(
                f"The header of {where} must hold a string under '__metadata__' "
                f"{key!r}, got {cards.shown(value)}."
            )
    if _CARD not in metadata:
        raise ValueError(
            f"{where} has no card: neither card.json nor config.json lies beside it "
            "and it was not written by mulo.save. Keep the card with the weights."
        )
    card_sum = _sum_of_text(metadata[_CARD])
    for part, digest, stored in (
        ("weights do", hashlib.sha256(data).hexdigest(), metadata.get(_DATA_SUM)),
        # Files of before do not have the card's.
        ("card does", card_sum, metadata.get(_CARD_SUM, card_sum)),
    ):
        if digest != stored:
            raise ValueError(
                f"{where}: the {part} not have the sha256 stored with them; the file "
                "is corrupted. Copy or download it again."
            )
    return cards.parse(metadata[_CARD], f"The card of {where}")


def tensors_of(content: bytes, where: str) -> dict[str, np.ndarray]:
    """Read the tensors of any safetensors file; ValueError if it is none."""
    try:
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(
            f"{where} is not a valid safetensors file ({error}); it is truncated or "
            "of another format."
        ) from error


def _split(content: bytes, where: str) -> tuple[dict[str, Any], bytes]:
    """Split a file into its header and its data."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 + length:
        raise ValueError(
            f"{where} is not a whole safetensors file: it has {len(content)} bytes."
        )
    header = cards.parse(content[8 : 8 + length], f"The header of {where}")
    return header, content[8 + length :]


def _sum_of_text(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
