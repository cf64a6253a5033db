"""Names of tasks, read and written.

A task name is ``[sp-]<kind>-w<width>-d<depth>[-<option>...]-<data>``::

    mlp-w128-d3-cifar10              μP MLP, width 128, three matrices and a readout
    sp-mlp-w128-d3-digits            its twin in standard parametrization
    mlp-w32-d3-cifar10:8x8:gray      the images reduced to 8x8 and one channel
    mlp-w128-d3-tanh-ln-cifar10      tanh and layer norm
    transformer-w192-d3-h3-s64-lm1b  three heads, windows of 64 tokens
    vit-w192-d3-p4-cifar10           patches of 4x4 pixels
    mlp-d3-digits                    a template: the width is chosen by the caller
    mlp-w128+w512-d3-cifar10         two tasks, of width 128 and 512; see `expand`

:data:`KINDS` lists the kinds and which options each takes, :data:`OPTIONS` how they are
written, :mod:`tasks.data.names` the names of data sets. Nothing is opened here.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mulo import _hints as hints
from tasks.data import names

ACTIVATIONS = ("relu", "tanh", "gelu", "silu", "elu", "sigmoid")


@dataclasses.dataclass(frozen=True)
class Option:
    """How a field of a task is written in its name."""

    form: str  # As shown to people.
    pattern: str  # Regular expression; group 1 is the value, without one it is a flag.
    read: Callable[[str], Any]
    write: Callable[[Any], str]


def _number(letter: str, what: str) -> Option:
    return Option(f"{letter}<{what}>", rf"{letter}(\d+)", int, lambda x: f"{letter}{x}")


def _flag(text: str) -> Option:
    return Option(text, f"({text})", lambda _: True, lambda _: text)


OPTIONS: Mapping[str, Option] = {
    "heads": _number("h", "heads"),
    "head_dim": _number("k", "units per head"),
    "length": _number("s", "tokens"),
    "patch": _number("p", "pixels"),
    "alpha": Option(
        "a<exponent>",
        r"a(\d+(?:\.\d+)?)",
        float,
        lambda alpha: "a" + np.format_float_positional(alpha, trim="-"),
    ),
    "class_token": _flag("cls"),
    "bf16": _flag("bf16"),
    "layer_norm": _flag("ln"),
    "activation": Option("|".join(ACTIVATIONS), f"({'|'.join(ACTIVATIONS)})", str, str),
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of model."""

    modality: names.Modality
    options: tuple[str, ...]  # Keys of OPTIONS, in the order they are written.
    widths: tuple[int, ...]  # What a check over widths uses unless told.
    depths: tuple[int, ...] = (2, 4, 8, 16)  # Likewise over depths.


_HEADS = ("heads", "head_dim")
KINDS: Mapping[str, Kind] = {
    "mlp": Kind("images", ("activation", "layer_norm"), (32, 64, 128, 256, 512, 1024)),
    "mlpae": Kind(
        "images",
        ("activation",),
        (32, 64, 128, 256, 512),
        depths=(3, 5, 9, 17),
    ),
    "conv": Kind("images", ("activation",), (16, 32, 64, 128)),
    "resnet": Kind(
        "images", ("activation", "alpha"), (16, 32, 64, 128), depths=(3, 6, 12)
    ),
    "vit": Kind(
        "images",
        ("patch", "class_token", *_HEADS, "alpha", "bf16"),
        (64, 128, 256, 512),
    ),
    "transformer": Kind(
        "text",
        (*_HEADS, "length", "alpha", "bf16"),
        (64, 128, 256, 512),
    ),
}

_FORM = "[sp-]<kind>-w<width>-d<depth>[-<option>...]-<data>, as in 'mlp-w128-d3-digits'"
_TASK = re.compile(
    r"(?P<sp>sp-)?(?P<kind>[a-z][a-z0-9_]*)(?:-w(?P<width>-?\d+))?"
    r"(?:-d(?P<depth>-?\d+))?-(?P<rest>.+)",
    re.ASCII | re.DOTALL,
)
_SIZE = re.compile(r"[wd]-?\d+", re.ASCII)  # No data set: it is missing.
_WIDTHS = re.compile(r"(?<=[a-z])-w\d+(?:\+w\d+)+(?=-)", re.ASCII)


@dataclasses.dataclass(frozen=True)
class TaskName:
    """The parts of a task name; ``str()`` gives the name back.

    Raises:
      ValueError: If the kind or an option is unknown, or the width or the depth
        below 1.
    """

    kind: str  # A key of KINDS.
    width: int | None  # Units per hidden layer; None in a template.
    depth: int | None  # Layers before the readout; None in a template.
    data: names.DataName
    sp: bool = False  # Standard parametrization instead of μP.
    options: tuple[tuple[str, Any], ...] = ()  # (field, value), as the kind orders them

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"task kind must be one of {list(KINDS)}, got {self.kind!r}."
                f"{hints.question(self.kind, KINDS)}"
            )
        for field in ("width", "depth"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} must be at least 1, got {value}.")
        if self.width is None and self.depth is None:
            raise ValueError(
                f"a task name must have a width or a depth, got {str(self)!r}."
            )
        known = KINDS[self.kind].options
        for field, _ in self.options:
            if field not in known:
                raise ValueError(
                    f"{field} is not an option of {self.kind!r}; it takes "
                    f"{', '.join(known)}."
                )
        ordered = sorted(self.options, key=lambda option: known.index(option[0]))
        object.__setattr__(self, "options", tuple(ordered))

    def __str__(self) -> str:
        sp = "sp-" if self.sp else ""
        width = "" if self.width is None else f"-w{self.width}"
        depth = "" if self.depth is None else f"-d{self.depth}"
        return f"{sp}{self.kind}{width}{depth}{self.written_options}-{self.data}"

    @property
    def written_options(self) -> str:
        """The options as the name holds them, each with a dash before it."""
        return "".join(f"-{OPTIONS[k].write(value)}" for k, value in self.options)

    @property
    def modality(self) -> names.Modality:
        """What the model reads: images or text."""
        return KINDS[self.kind].modality

    def at_width(self, width: int) -> "TaskName":
        """Return the same task at another width (fills in a template)."""
        return dataclasses.replace(self, width=width)

    def at_depth(self, depth: int) -> "TaskName":
        """Return the same task at another depth (fills in a template)."""
        return dataclasses.replace(self, depth=depth)

    def twin(self) -> "TaskName":
        """Return the same shapes in the other parametrization (μP or SP)."""
        return dataclasses.replace(self, sp=not self.sp)


def parse(name: str) -> TaskName:
    """Read a task name.

    Args:
      name: A name of the form that the module's docstring gives.

    Returns:
      Its parts; ``parse(str(parts)) == parts``.

    Raises:
      ValueError: If the name has another form, an unknown kind or option, or a size
        below 1.
    """
    if _WIDTHS.search(name.partition(":")[0]):
        raise ValueError(
            f"{name!r} stands for several tasks; name one, or expand it with "
            "tasks.names.expand."
        )
    match = _TASK.fullmatch(name)
    kind = name.removeprefix("sp-").split("-")[0]
    if match is None or kind not in KINDS or _SIZE.fullmatch(match["rest"].rstrip("-")):
        hint = "" if kind in KINDS else f" Known kinds: {list(KINDS)}."
        hint += hints.question(kind, KINDS) if kind not in KINDS else ""
        raise ValueError(f"a task name must read {_FORM}, got {name!r}.{hint}")
    options, data = _split_options(kind, match["rest"], name)
    return TaskName(
        kind=kind,
        width=None if match["width"] is None else int(match["width"]),
        depth=None if match["depth"] is None else int(match["depth"]),
        data=names.parse(data),
        sp=match["sp"] is not None,
        options=tuple(options.items()),
    )


def expand(name: str) -> tuple[TaskName, ...]:
    """Return the task names that one with a mixture of widths stands for.

    >>> [str(part) for part in expand("mlp-w128+w512-d3-digits")]
    ['mlp-w128-d3-digits', 'mlp-w512-d3-digits']

    Raises:
      ValueError: As :func:`parse`, for any of them.
    """
    match = _WIDTHS.search(name.partition(":")[0])
    if match is None:
        return (parse(name),)
    widths = match[0][1:].split("+")
    before, after = name[: match.start()], name[match.end() :]
    return tuple(parse(f"{before}-{width}{after}") for width in widths)


def _split_options(kind: str, rest: str, name: str) -> tuple[dict[str, Any], str]:
    """Split what follows the depth into options and the data set's name."""
    known = KINDS[kind].options
    options: dict[str, Any] = {}
    while "-" in rest:
        # The source of a data set holds no "-", so what precedes one is an option.
        token, after = rest.split("-", 1)
        if not re.fullmatch(r"[a-z0-9.]+", token):
            break
        for field in known:
            match = re.fullmatch(OPTIONS[field].pattern, token, re.ASCII)
            if match:
                break
        else:
            if ":" in token or "/" in token:
                break
            forms = [OPTIONS[field].form for field in known]
            raise ValueError(
                f"options of {kind!r} must be among {forms}, got {token!r} in {name!r}."
                f"{hints.question(token, '|'.join(forms).split('|'))}"
            )
        if field in options:
            raise ValueError(f"option {token!r} is given twice in {name!r}.")
        options[field], rest = OPTIONS[field].read(match[1]), after
    return options, rest
