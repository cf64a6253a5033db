"""One look for every plot: quiet axes, colours that all readers can tell apart.

Plots are drawn in the colours for light paper. Those of :data:`COLOURS` have names,
under which a page finds others that are legible on a dark ground. Nine colours times
seven markers: plots can be read without colour too.
"""

import io
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Name: (on light ground, on dark ground).
COLOURS = {
    "ink": ("#1f2328", "#e6e8eb"),
    "quiet": ("#59626c", "#a2abb5"),
    "axis": ("#8b949e", "#6f7883"),
    "grid": ("#e6e9ec", "#2a3038"),
    "shade": ("#dfe9f3", "#1c2b3b"),
    "line0": ("#0b62a8", "#6cb6ff"),
    "line1": ("#c4570a", "#ff9d5c"),
    "line2": ("#12805c", "#4fd1a5"),
    "line3": ("#b1447e", "#f08cc0"),
    "line4": ("#8a6d00", "#e0c341"),
    "line5": ("#5f4bb6", "#b3a4ff"),
    "line6": ("#0f8ca8", "#5fd3ea"),
    "line7": ("#5a5a5a", "#c8c8c8"),
    "line8": ("#6fa022", "#a5e06a"),
    "size0": ("#d98200", "#fff0a8"),
    "size1": ("#c65d21", "#ffd166"),
    "size2": ("#a8354f", "#ffa552"),
    "size3": ("#7d2178", "#f57d6e"),
    "size4": ("#4b1f86", "#d96bb0"),
    "size5": ("#22207a", "#a98bf0"),
    "size6": ("#0b0f4a", "#7fb2ff"),
}
INK, QUIET, AXIS, GRID, SHADE = (
    COLOURS[name][0] for name in ("ink", "quiet", "axis", "grid", "shade")
)
ALARM = "#B3261E"
_LINES = [light for name, (light, _) in COLOURS.items() if name.startswith("line")]
_SIZES = [light for name, (light, _) in COLOURS.items() if name.startswith("size")]
MARKERS = "os^vD<>"
_DPI = 130


class Look(NamedTuple):
    """How a line is drawn."""

    colour: str
    marker: str = "o"
    dash: str = "-"  # As matplotlib writes it: "-", "--", "-." or ":".


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Return a colour and a marker for each optimizer, no two of 63 alike."""
    return {
        name: Look(_LINES[i % len(_LINES)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(names)
    }


def size_look(index: int, count: int) -> Look:
    """Return the look of the index-th of ``count`` sizes, light to dark."""
    position = round((len(_SIZES) - 1) * index / max(1, count - 1))
    return Look(_SIZES[position], MARKERS[index % len(MARKERS)])


def figure(rows: int, columns: int, panel: tuple[float, float]) -> tuple[Figure, list]:
    """Return a figure with ``rows × columns`` panels of a size in inches.

    Returns:
      The figure and its axes, row by row.
    """
    width, height = panel
    fig = Figure(
        figsize=(columns * width, rows * height),
        facecolor="white",
        layout="constrained",
    )
    grid = fig.subplots(rows, columns, squeeze=False)
    return fig, list(grid.ravel())


def dress(
    axes: Axes, *, title: str, xlabel: str, ylabel: str, alarm: bool = False
) -> None:
    """Give a panel its title (red and bold for an alarm), labels and quiet grid."""
    axes.set_title(
        title,
        fontsize=11,
        color=ALARM if alarm else INK,
        fontweight="bold" if alarm else "normal",
        loc="left",
    )
    axes.set_xlabel(xlabel, fontsize=10.5, color=QUIET)
    axes.set_ylabel(ylabel, fontsize=10.5, color=QUIET)
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10.5, labelcolor=QUIET, color=AXIS)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(AXIS)


def wrapped(title: str, most: int) -> str:
    """Break a title into lines of at most so many characters; nothing is left out."""
    return "\n".join(textwrap.wrap(title, most))


def size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Make x logarithmic, with a tick at every width or depth that was run."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(sizes), [str(size) for size in sizes])
    axes.minorticks_off()


def width_colour(index: int, count: int) -> tuple[float, float, float, float]:
    """Return the colour of the index-th of ``count`` widths, dark to light."""
    # The far end of viridis is too pale on white.
    position = 0.88 * index / max(1, count - 1)
    return matplotlib.colormaps["viridis"](position)


def loss_axis(axes: Axes, values: Sequence[float]) -> None:
    """Make y logarithmic when the finite losses span more than a factor of 20."""
    finite = [v for v in values if np.isfinite(v) and v > 0]
    if finite and max(finite) > 20 * min(finite):
        axes.set_yscale("log")
        axes.set_ylim(min(finite) / 1.2, max(finite) * 1.2)
        few_ticks(axes.yaxis)
    else:
        axes.set_ylim(*loss_limits(values))
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
        axes.yaxis.set_major_formatter(number)


def loss_limits(values: Sequence[float]) -> tuple[float, float]:
    """Return y limits a little around the finite values."""
    finite = [v for v in values if np.isfinite(v)] or [0.0, 1.0]
    low, high = float(min(finite)), float(max(finite))
    pad = 0.06 * ((high - low) or 1.0)
    return low - pad, high + pad


def number(value: float, position: float | None = None) -> str:
    """Write a tick: ``0.001``, ``2,000``, ``3e-05``."""
    del position
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return f"{value:,.6g}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def few_ticks(axis: matplotlib.axis.Axis) -> None:
    """Give a logarithmic axis plain labels, at most about five of them."""
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low) if 0 < low < high else 1.0
    # One label per decade, fewer over many decades, more within a single one.
    if decades <= 0.7:
        axis.set_major_locator(ticker.MaxNLocator(4))
    else:
        subs = (1.0, 2.0, 5.0) if decades <= 1.7 else (1.0,)
        axis.set_major_locator(ticker.LogLocator(10, subs=subs, numticks=5))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(number)


def png(fig: Figure) -> bytes:
    """Render a figure."""
    buffer = io.BytesIO()
    # No metadata: equal inputs give equal bytes.
    fig.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def svg(fig: Figure, salt: str) -> str:
    """Render a figure as SVG with real text.

    Args:
      fig: What to render.
      salt: Makes the ids of the drawing's parts its own; equal ones, equal bytes.
    """
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        fig.savefig(buffer, format="svg", metadata=nothing)
    return buffer.getvalue()
