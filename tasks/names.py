"""Names of tasks and of data sets, read and written.

A task name is ``[sp-]<kind>[-w<width>]-d<depth>-<data>``::

    mlp-w128-d3-cifar10            μP MLP, width 128, three matrices and a readout
    sp-mlp-w128-d3-digits          its twin in standard parametrization
    mlp-w32-d3-cifar10:8x8:gray    the images reduced to 8x8 and one channel
    mlp-d3-digits                  a template: the width is chosen by the caller

``<data>`` is an embedded set (``digits``, ``synthetic:HxWxC:classes``) or the name a
set has in tensorflow-datasets (``imagenet_resized/32x32``), followed by options:
``:HxW`` resizes, ``:gray`` reduces to one channel. Nothing is opened here.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable

KINDS = ("mlp",)
EMBEDDED = ("digits", "synthetic:HxWxC:classes")

_FORM = "[sp-]<kind>-w<width>-d<depth>-<data>, as in 'mlp-w128-d3-digits'"
_TASK = re.compile(
    r"(?P<sp>sp-)?(?P<kind>[a-z][a-z0-9_]*)(?:-w(?P<width>-?\d+))?"
    r"-d(?P<depth>-?\d+)-(?P<data>.+)",
    re.ASCII,
)
_SOURCE = re.compile(r"[A-Za-z][\w.+-]*(?:/[\w.+-]+)*", re.ASCII)
_SIZE = re.compile(r"(\d+)x(\d+)", re.ASCII)
_SYNTHETIC = re.compile(r"(\d+)x(\d+)x(\d+):(\d+)", re.ASCII)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"``, or nothing where no known name is near."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


@dataclasses.dataclass(frozen=True)
class TaskName:
    """The parts of a task name; ``str()`` gives the name back.

    Raises:
      ValueError: If the kind is unknown, or the width or the depth below 1.
    """

    kind: str  # One of KINDS.
    width: int | None  # Units per hidden layer; None in a template.
    depth: int  # Weight matrices before the readout.
    data: str  # Name of the data set with its options.
    sp: bool = False  # Standard parametrization instead of μP.

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"task kind must be one of {list(KINDS)}, got {self.kind!r}."
                f"{nearest(self.kind, KINDS)}"
            )
        if self.width is not None and self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}.")
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}.")
        parse_data(self.data)

    def __str__(self) -> str:
        sp = "sp-" if self.sp else ""
        width = "" if self.width is None else f"-w{self.width}"
        return f"{sp}{self.kind}{width}-d{self.depth}-{self.data}"

    def at_width(self, width: int) -> "TaskName":
        """Return the same task at another width (fills in a template)."""
        return dataclasses.replace(self, width=width)

    def twin(self) -> "TaskName":
        """Return the same shapes in the other parametrization (μP or SP)."""
        return dataclasses.replace(self, sp=not self.sp)


@dataclasses.dataclass(frozen=True)
class DataName:
    """The parts of a data set's name; ``str()`` gives the canonical name."""

    source: str  # "digits", "synthetic" or a name of tensorflow-datasets.
    synthetic: tuple[int, int, int, int] | None = None  # (h, w, c, classes)
    size: tuple[int, int] | None = None  # (h, w) after resizing, in pixels.
    gray: bool = False

    def __str__(self) -> str:
        parts = [self.source]
        if self.synthetic is not None:
            h, w, c, classes = self.synthetic
            parts += [f"{h}x{w}x{c}", str(classes)]
        if self.size is not None:
            parts.append(f"{self.size[0]}x{self.size[1]}")
        return ":".join(parts + ["gray"] * self.gray)


def parse(name: str) -> TaskName:
    """Read a task name.

    Args:
      name: A name of the form that the module's docstring gives.

    Returns:
      Its parts; ``parse(str(parts)) == parts``.

    Raises:
      ValueError: If the name has another form, an unknown kind or data option, or a
        size below 1.
    """
    match = _TASK.fullmatch(name)
    if match is None:
        kind = name.removeprefix("sp-").split("-")[0]
        hint = "" if kind in KINDS else f" Known kinds: {list(KINDS)}."
        raise ValueError(f"a task name must read {_FORM}, got {name!r}.{hint}")
    width = match["width"]
    return TaskName(
        kind=match["kind"],
        width=None if width is None else int(width),
        depth=int(match["depth"]),
        data=str(parse_data(match["data"])),
        sp=match["sp"] is not None,
    )


def parse_data(name: str) -> DataName:
    """Read a data set's name and options; does not ask whether the set exists.

    Args:
      name: ``<source>[:HxW][:gray]``, or ``synthetic:HxWxC:classes`` with the same
        options.

    Returns:
      Its parts.

    Raises:
      ValueError: If an option is unknown or given twice, or a size is below 1.
    """
    source, *options = name.split(":")
    if not _SOURCE.fullmatch(source) or ".." in source:
        raise ValueError(
            f"a data set's name must be letters, digits and '_.+-/', got {source!r}."
        )
    synthetic = None
    if source == "synthetic":
        match = _SYNTHETIC.fullmatch(":".join(options[:2]))
        if match is None:
            raise ValueError(
                "synthetic data must be named synthetic:HxWxC:classes, as in "
                f"'synthetic:8x8x1:10', got {name!r}."
            )
        h, w, c, classes = (int(x) for x in match.groups())
        synthetic = (h, w, c, classes)
        if min(synthetic) < 1:
            raise ValueError(f"sizes of synthetic data must be >= 1, got {name!r}.")
        options = options[2:]
    size, gray = None, False
    for option in options:
        match = _SIZE.fullmatch(option)
        if match and size is None:
            size = (int(match[1]), int(match[2]))
            if min(size) < 1:
                raise ValueError(f"image size must be at least 1x1, got {option!r}.")
        elif option == "gray" and not gray:
            gray = True
        else:
            raise ValueError(
                "options of a data set must be ':HxW' and ':gray', each at most once, "
                f"got {':' + option!r} in {name!r}."
            )
    return DataName(source, synthetic, size, gray)
