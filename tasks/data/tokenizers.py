"""From text to tokens, and back: bytes, or the pieces of a SentencePiece model.

Every document is followed by a separator, which occurs nowhere else.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tasks.data import names

_INSTALL = "pip install 'mulo[text]'"
_THOUSANDS = (1000, 1024)  # What "k" stands for: models of 32k have either 32k.


class Tokenizer(Protocol):
    """What turns documents into tokens."""

    @property
    def vocabulary(self) -> int:
        """Tokens are in [0, vocabulary)."""
        ...

    @property
    def identity(self) -> str:
        """Two tokenizers of the same identity give the same tokens."""
        ...

    def encode(self, documents: Sequence[bytes]) -> np.ndarray:
        """Return the tokens of documents, each with its separator: integers (n,)."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """Return the text of tokens; separators become line breaks."""
        ...


@dataclasses.dataclass(frozen=True)
class Bytes:
    """A token per byte; the separator is NUL, and NULs of documents become spaces."""

    vocabulary: int = dataclasses.field(default=256, init=False)
    identity: str = dataclasses.field(default="bytes", init=False)

    def encode(self, documents: Sequence[bytes]) -> np.ndarray:
        """Return the tokens of documents, each with its separator: uint8 (n,)."""
        joined = b"".join(d.replace(b"\0", b" ") + b"\0" for d in documents)
        return np.frombuffer(joined, np.uint8)

    def decode(self, tokens: np.ndarray) -> str:
        """Return the text; separators become line breaks, broken UTF-8 U+FFFD."""
        raw = np.asarray(tokens, np.uint8).tobytes()
        return raw.replace(b"\0", b"\n").decode(errors="replace")


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A token per piece of a SentencePiece model; the separator is its ``</s>``.

    Bytes that are not UTF-8 become U+FFFD before. What else a model changes (white
    space, Unicode forms) is its own affair; a token of text never is ``</s>``.
    """

    vocabulary: int
    identity: str  # A hash of the model file's content.
    _processor: Any = dataclasses.field(repr=False, compare=False)

    def encode(self, documents: Sequence[bytes]) -> np.ndarray:
        """Return the tokens of documents, each with its separator: uint16 (n,)."""
        texts = [document.decode(errors="replace") for document in documents]
        rows = self._processor.encode(texts, add_eos=True)
        return np.fromiter((token for row in rows for token in row), np.uint16)

    def decode(self, tokens: np.ndarray) -> str:
        """Return the text; separators become line breaks."""
        tokens = np.asarray(tokens)
        ends = np.flatnonzero(tokens == self._processor.eos_id())
        documents = [part.tolist() for part in np.split(tokens, ends + 1)]
        # Decoding leaves out the separators.
        return "\n".join(self._processor.decode(documents))


def get(name: names.DataName) -> Tokenizer:
    """Return the tokenizer that a data set's name asks for.

    Args:
      name: With ``pieces`` = (thousands, path of the model file), else bytes are taken.
        A relative path is one of the current folder.

    Raises:
      ValueError: If the file is missing, is no SentencePiece model, has a vocabulary of
        another size or no ``</s>``, or sentencepiece is not installed.
    """
    if name.pieces is None:
        return Bytes()
    thousands, given = name.pieces
    option = f"sp{thousands}k"
    path = pathlib.Path(given).expanduser().absolute()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"the model file of {str(name)!r} must be readable, got {path}: "
            f"{error.strerror}."
        ) from error
    try:
        import sentencepiece  # Only here: it belongs to the extra `text`.
    except ImportError as error:
        raise ValueError(
            f"{str(name)!r} needs the package sentencepiece: {_INSTALL}."
        ) from error
    processor = sentencepiece.SentencePieceProcessor()
    try:
        loaded = bool(content) and processor.LoadFromSerializedProto(content)
    except RuntimeError:
        loaded = False
    if not loaded:
        raise ValueError(
            f"{path} must be a SentencePiece model (spm_train writes it with the "
            "ending '.model'), got another file."
        )
    size = processor.get_piece_size()
    allowed = [thousands * k for k in _THOUSANDS]
    if size not in allowed:
        near = [k for k in (1000, 1024) if size % k == 0]
        fix = f" Write ':sp{size // near[0]}k=' for it." if near else ""
        raise ValueError(
            f"a model for {option!r} must have {allowed[0]} or {allowed[1]} pieces, "
            f"{path} has {size}.{fix}"
        )
    if processor.eos_id() < 0:
        raise ValueError(
            f"{path} must have the piece '</s>', which separates documents; train it "
            "with --eos_id=2 or any other number that is not negative."
        )
    identity = f"{option}-{hashlib.sha256(content).hexdigest()[:16]}"
    return Pieces(size, identity, processor)
