"""What a figure shows, as data: panels of lines, or of rows with a value each.

The same data are drawn (:mod:`evaluate.report.plots`) and written as CSV beside the
drawing.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Literal

from evaluate.report import style

Scale = Literal["linear", "log", "sizes"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """A line with N points; NaN is a gap, infinity a cross at the top: diverged."""

    label: str
    look: style.Look
    x: tuple[float, ...]  # (N,)
    y: tuple[float, ...]  # (N,)
    low: tuple[float, ...] = ()  # (N,) or none: a band.
    high: tuple[float, ...] = ()
    sparse: bool = False  # A few markers along it, not one per point.
    ring: int | None = None  # Index of a point to be marked: the best.


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinePanel:
    """Lines over a shared x axis."""

    title: str
    xlabel: str
    ylabel: str
    lines: tuple[Line, ...]
    x_scale: Scale = "linear"  # "sizes": logarithmic, with a tick at every x.
    y_scale: Literal["loss", "linear", "log"] = "loss"
    y_limits: tuple[float, float] | None = None
    shade: tuple[float, float] | None = None  # Range of x to be shaded.
    reference: float | None = None  # Of y: a thin line across.
    own_legend: bool = False  # Its lines' labels say more than the figure's legend.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A bar or a dot with its name above it; None: there is no value."""

    label: str
    look: style.Look
    value: float | None
    text: str  # The value in words.
    low: float | None = None
    high: float | None = None
    second: float | None = None  # Another value, marked on the same row.


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowPanel:
    """Rows over a shared x axis."""

    title: str
    xlabel: str
    rows: tuple[Row, ...]
    bars: bool = True  # Or dots.
    log: bool = False
    origin: float = 0.0  # Where bars begin; a thin line.
    limits: tuple[float, float] | None = None  # Of x.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure with its caption."""

    name: str  # Of its files.
    title: str
    caption: str
    panels: Sequence[LinePanel] | Sequence[RowPanel]
    x_name: str = "x"  # Columns of its CSV.
    y_name: str = "value"
    second_name: str = ""

    @property
    def legend(self) -> dict[str, style.Look]:
        """Looks by label, of all lines that share the figure's legend."""
        return {
            line.label: line.look
            for panel in self.panels
            if isinstance(panel, LinePanel) and not panel.own_legend
            for line in panel.lines
        }

    def csv(self) -> str:
        """Return the numbers drawn; an empty field is a gap, ``inf`` diverged."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        ends = [f"{self.y_name}_low", f"{self.y_name}_high"]
        if self.panels and isinstance(self.panels[0], RowPanel):
            second = [self.second_name] if self.second_name else []
            writer.writerow(["panel", "line", self.y_name, *ends, *second])
        else:
            writer.writerow(["panel", "line", self.x_name, self.y_name, *ends])
        for panel in self.panels:
            if isinstance(panel, RowPanel):
                for row in panel.rows:
                    numbers = [row.value, row.low, row.high]
                    numbers += [row.second] if self.second_name else []
                    writer.writerow([panel.title, row.label, *map(_field, numbers)])
                continue
            for line in panel.lines:
                blank = [math.nan] * len(line.x)
                low, high = line.low or blank, line.high or blank
                for numbers in zip(line.x, line.y, low, high, strict=True):
                    writer.writerow([panel.title, line.label, *map(_field, numbers)])
        return buffer.getvalue()


def _field(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.7g}"


def spread(count: int, most: int) -> list[int]:
    """Return at most ``most`` indices below ``count``: evenly, with both ends."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def part_of(shown: int, total: int, what: str) -> str:
    """Say in a caption how many are drawn of how many; nothing where all are."""
    return f" {shown} of {total} {what}." if shown < total else ""


def shortened(text: str, most: int) -> str:
    """Return a text with its middle left out where it is longer than ``most``."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[-tail:]}"
