"""Names of data sets, read and written; nothing is opened here.

``<source>[:<option>...]``, where the source is an embedded set (``digits``,
``pystdlib``, and the made-up ``synthetic:HxWxC:classes`` and
``synthetic_text:vocabulary``) or the name a set has in tensorflow-datasets
(``imagenet_resized/32x32``).

Options of images::

    :8x8          resized by area
    :gray         one channel, luma
    :crop4        training images padded by 4 pixels and cropped at random
    :flip         training images mirrored at random
    :velodrome    VeLOdrome's preparation: x/255, first 80 % of the train split

of text::

    :sp32k=path   pieces of a SentencePiece model of 32k instead of bytes; goes last

of both::

    :first=10000  only the first examples (text: tokens) of the train split
"""

import dataclasses
import re
from typing import Any, Literal

Modality = Literal["images", "text"]

EMBEDDED: dict[Modality, tuple[str, ...]] = {
    "images": ("digits", "synthetic:HxWxC:classes"),
    "text": ("pystdlib", "synthetic_text:vocabulary"),
}

MAX_VOCABULARY = 1 << 16  # Of uint16, the widest tokens kept.

_SOURCE = re.compile(r"[A-Za-z][\w.+]*(?:/[\w.+-]+)*", re.ASCII)
_SIZE = re.compile(r"(\d+)x(\d+)", re.ASCII)
_SYNTHETIC = re.compile(r"(\d+)x(\d+)x(\d+):(\d+)", re.ASCII)
_CROP = re.compile(r"crop(\d+)", re.ASCII)
_FIRST = re.compile(r"first=(\d+)", re.ASCII)
_PIECES = re.compile(r"sp(\d+)k=(.+)", re.ASCII | re.DOTALL)
_IMAGE_OPTIONS = "':HxW', ':gray', ':crop<pixels>', ':flip', ':velodrome'"
_TEXT_OPTIONS = "':sp<thousands>k=<model file>' (last)"


@dataclasses.dataclass(frozen=True)
class DataName:
    """The parts of a data set's name; ``str()`` gives the canonical name."""

    source: str  # Embedded set without its sizes, or a name of tensorflow-datasets.
    synthetic: tuple[int, int, int, int] | None = None  # (h, w, c, classes).
    vocabulary: int | None = None  # Of synthetic text.
    size: tuple[int, int] | None = None  # (h, w) after resizing, in pixels.
    gray: bool = False
    crop: int | None = None  # Pixels of padding on every side before a random crop.
    flip: bool = False
    velodrome: bool = False
    first: int | None = None  # Examples or tokens kept of the train split.
    pieces: tuple[int, str] | None = None  # (thousands, path of the model file)

    def __str__(self) -> str:
        parts = [self.source]
        if self.synthetic is not None:
            h, w, c, classes = self.synthetic
            parts += [f"{h}x{w}x{c}", str(classes)]
        if self.vocabulary is not None:
            parts.append(str(self.vocabulary))
        if self.size is not None:
            parts.append(f"{self.size[0]}x{self.size[1]}")
        parts += ["gray"] * self.gray
        if self.crop is not None:
            parts.append(f"crop{self.crop}")
        parts += ["flip"] * self.flip + ["velodrome"] * self.velodrome
        if self.first is not None:
            parts.append(f"first={self.first}")
        if self.pieces is not None:
            parts.append(f"sp{self.pieces[0]}k={self.pieces[1]}")
        return ":".join(parts)

    @property
    def image_options(self) -> tuple[str, ...]:
        """The options given that only images have, as they are written."""
        shown = dataclasses.replace(
            self, source="x", synthetic=None, vocabulary=None, first=None, pieces=None
        )
        return tuple(str(shown).split(":")[1:])


def parse(name: str) -> DataName:
    """Read a data set's name and options; does not ask whether the set exists.

    Args:
      name: A name of the form that the module's docstring gives.

    Returns:
      Its parts.

    Raises:
      ValueError: If an option is unknown or given twice, or a size is below 1.
    """
    source, *options = name.split(":")
    if not _SOURCE.fullmatch(source) or ".." in source:
        raise ValueError(
            "a data set's name must be letters, digits and '_.+', with '/' before a "
            f"configuration; got {source!r}."
        )
    found: dict[str, Any] = {}
    if source == "synthetic":
        match = _SYNTHETIC.fullmatch(":".join(options[:2]))
        if match is None:
            raise ValueError(
                "synthetic data must be named synthetic:HxWxC:classes, as in "
                f"'synthetic:8x8x1:10', got {name!r}."
            )
        found["synthetic"] = tuple(int(x) for x in match.groups())
        options = options[2:]
    elif source == "synthetic_text":
        if not options or not options[0].isdecimal():
            raise ValueError(
                "synthetic text must be named synthetic_text:vocabulary, as in "
                f"'synthetic_text:16', got {name!r}."
            )
        found["vocabulary"] = int(options[0])
        options = options[1:]
    while options:
        option = options.pop(0)
        if option.startswith("sp") and "=" in option:  # A path may hold colons.
            option, options = ":".join([option, *options]), []
        field, value = _parse_option(option, name)
        if field in found:
            raise ValueError(f"{':' + option!r} is given twice in {name!r}.")
        found[field] = value
    parsed = DataName(source, **found)
    _check(parsed, name)
    return parsed


def _parse_option(option: str, name: str) -> tuple[str, object]:
    if option in ("gray", "flip", "velodrome"):
        return option, True
    if match := _SIZE.fullmatch(option):
        return "size", (int(match[1]), int(match[2]))
    if match := _CROP.fullmatch(option):
        return "crop", int(match[1])
    if match := _FIRST.fullmatch(option):
        return "first", int(match[1])
    if match := _PIECES.fullmatch(option):
        return "pieces", (int(match[1]), match[2])
    raise ValueError(
        f"options of a data set must be {_IMAGE_OPTIONS} for images, {_TEXT_OPTIONS} "
        f"for text and ':first=<n>', each at most once; got {':' + option!r} in "
        f"{name!r}."
    )


def _check(parsed: DataName, name: str) -> None:
    if parsed.synthetic is not None and min(parsed.synthetic) < 1:
        raise ValueError(f"sizes of synthetic data must be >= 1, got {name!r}.")
    if parsed.vocabulary is not None and parsed.vocabulary < 2:
        raise ValueError(f"the vocabulary must have at least 2 tokens, got {name!r}.")
    tokens = parsed.vocabulary or (1000 * parsed.pieces[0] if parsed.pieces else 0)
    if tokens > MAX_VOCABULARY:
        raise ValueError(
            f"the vocabulary must have at most {MAX_VOCABULARY} tokens, got {tokens} "
            f"in {name!r}."
        )
    if parsed.size is not None and min(parsed.size) < 1:
        raise ValueError(f"image size must be at least 1x1, got {name!r}.")
    for field in ("crop", "first"):
        value = getattr(parsed, field)
        if value is not None and value < 1:
            raise ValueError(f"{field} must be at least 1, got {value} in {name!r}.")
    if parsed.pieces is not None and parsed.pieces[0] < 1:
        raise ValueError(f"sp<thousands>k must be at least sp1k, got {name!r}.")
    if parsed.pieces is not None and parsed.image_options:
        raise ValueError(
            f"{name!r} has options of images {list(parsed.image_options)} and of text."
        )
