"""One look for every plot: light background, colours all readers can tell apart.

Colours are Okabe and Ito's, then Tol's muted ones; each optimizer also has a marker, so
that plots of a few can be read without colour.
"""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Optimizer: (colour, marker); the others get what :func:`looks` finds for them.
LOOKS = {
    "mulo": ("#0072B2", "o"),
    "small_fc": ("#CC79A7", "X"),
    "mu_adam": ("#D55E00", "s"),
    "mu_sgd": ("#000000", "P"),
    "adamw": ("#009E73", "^"),
    "adam": ("#56B4E9", "v"),
    "sgd": ("#E69F00", "D"),
}
_MUTED = "#332288 #44AA99 #882255 #DDCC77 #88CCEE #117733 #CC6677 #999933 #AA4499"
_MARKERS = "*hp<>dH8"
INK, GRID, ALARM = "#333333", "#E4E4E4", "#B3261E"
_DPI = 130


def looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return a colour and a marker for each optimizer of a plot, no two alike."""
    known = {name: LOOKS[name] for name in names if name in LOOKS}
    colours = _MUTED.split()
    others = [name for name in names if name not in known]
    found = {
        # The next round through the colours has its markers shifted.
        name: (colours[i % 9], _MARKERS[(i + i // 9) % len(_MARKERS)])
        for i, name in enumerate(others)
    }
    return known | found


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
    axes.set_xlabel(xlabel, fontsize=10, color=INK)
    axes.set_ylabel(ylabel, fontsize=10, color=INK)
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")


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
    else:
        axes.set_ylim(*loss_limits(values))


def loss_limits(values: Sequence[float]) -> tuple[float, float]:
    """Return y limits a little around the finite values."""
    finite = [v for v in values if np.isfinite(v)] or [0.0, 1.0]
    low, high = float(min(finite)), float(max(finite))
    pad = 0.06 * ((high - low) or 1.0)
    return low - pad, high + pad


def png(fig: Figure) -> bytes:
    """Render a figure."""
    buffer = io.BytesIO()
    # No metadata: equal inputs give equal bytes.
    fig.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
