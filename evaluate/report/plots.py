"""Draws charts: whole figures for files, and panel by panel for a page.

A page lays panels out by its own width and gives them titles and legends of its own; in
a file they stand in a grid with both drawn.
"""

import collections
import re
from collections.abc import Collection

import matplotlib
import numpy as np
from matplotlib import lines as mpl_lines
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluate.report import charts, style

# Inches; 72 units of an SVG each. Fixed margins: fitting them takes most of the time.
_PANEL = (4.4, 3.1)
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.84, 0.24, 0.1, 0.6
_TITLE, _TITLE_LINE, _TITLE_LETTERS = 0.14, 0.18, 42
_MARKS = 5  # Markers along a line with many points.
_CROSS = 0.045  # Of the height of a panel.
_ROW = 0.44
_LEGEND_ROW = 0.26
_DASHES = {"--": (4.5, 2.2), ":": (1.2, 1.8), "-.": (5, 2, 1.2, 2)}
_NAMES = {light: name for name, (light, _) in style.COLOURS.items()}


def draw(chart: charts.Chart) -> Figure:
    """Return a chart as one figure, for files."""
    count = len(chart.panels)
    columns = 1 if count == 1 else 2 if count in (2, 4) else 3
    rows = [chart.panels[i : i + columns] for i in range(0, count, columns)]
    titles = [
        _TITLE + _TITLE_LINE * max(_title(p).count("\n") + 1 for p in r) for r in rows
    ]
    heights = [
        title + max(_height(p) + _legend_height(p) for p in r)
        for r, title in zip(rows, titles, strict=True)
    ]
    legend = chart.legend
    in_row = _columns(legend, columns * _PANEL[0])
    below = 0.15 + _LEGEND_ROW * -(-len(legend) // in_row)
    size = (columns * _PANEL[0], sum(heights) + below)
    fig = Figure(figsize=size, facecolor="white")
    top = size[1]
    for row, title, height in zip(rows, titles, heights, strict=True):
        for i, panel in enumerate(row):
            axes = _add(fig, panel, i * _PANEL[0], top - title)
            draw_panel(axes, panel)
            axes.set_title(
                _title(panel), fontsize=11, color=style.INK, loc="left", x=0.0
            )
            if isinstance(panel, charts.LinePanel) and panel.own_legend:
                _own_legend(axes, panel)
        top -= height
    if legend:
        fig.legend(
            [_handle(look) for look in legend.values()],
            list(legend),
            loc="lower center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=in_row,
            frameon=False,
            fontsize=10,
            labelcolor=style.INK,
        )
    return fig


def panel_figure(panel: charts.LinePanel | charts.RowPanel) -> Figure:
    """Return a panel as a figure of its own, without title and legend."""
    fig = Figure(figsize=(_PANEL[0], _height(panel)))
    draw_panel(_add(fig, panel, 0.0, _height(panel)), panel)
    return fig


def inline(panel: charts.LinePanel | charts.RowPanel, salt: str, alt: str) -> str:
    """Return a panel as SVG to be part of a page that defines the colours by name.

    Args:
      panel: What to draw.
      salt: Unique on the page.
      alt: What it shows, in words, as HTML text.
    """
    text = style.svg(panel_figure(panel), salt)
    text = text[text.index("<svg") :]
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    text = re.sub(
        r"<svg[^>]*>",
        f'<svg viewBox="{box[1]}" role="img"><title>{alt}</title>',
        text,
        count=1,
    )
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    # The page's background shows through.
    text = re.sub(r'<path [^>]*style="fill: #ffffff"/>', "", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r"#[0-9a-f]{6}\b(?=[;\"])", _named, text)
    text = re.sub(r' (d|x|y|transform)="[^"]*"', _rounded, text)
    text = re.sub(r"<defs>\s*</defs>", "", text)
    return re.sub(r">\s+<", "><", text).strip()


def draw_panel(axes: Axes, panel: charts.LinePanel | charts.RowPanel) -> None:
    """Draw a panel without its title."""
    if isinstance(panel, charts.RowPanel):
        _draw_rows(axes, panel)
    else:
        _draw_lines(axes, panel)


def _add(
    fig: Figure, panel: charts.LinePanel | charts.RowPanel, left: float, top: float
) -> Axes:
    """Add a panel's axes; ``left`` and ``top`` are its corner, in inches."""
    inner = _RIGHT if isinstance(panel, charts.RowPanel) else _LEFT
    width, height = fig.get_size_inches()
    own_height = _height(panel)
    box = (
        (left + inner) / width,
        (top - own_height + _BOTTOM) / height,
        (_PANEL[0] - inner - _RIGHT) / width,
        (own_height - _TOP - _BOTTOM) / height,
    )
    return fig.add_axes(box)


def _title(panel: charts.LinePanel | charts.RowPanel) -> str:
    return style.wrapped(panel.title, _TITLE_LETTERS)


def _height(panel: charts.LinePanel | charts.RowPanel) -> float:
    if isinstance(panel, charts.RowPanel):
        return _TOP + _BOTTOM + _ROW * len(panel.rows)
    return _PANEL[1]


def _legend_height(panel: charts.LinePanel | charts.RowPanel) -> float:
    if isinstance(panel, charts.LinePanel) and panel.own_legend:
        return 0.1 + 0.2 * len(panel.lines)
    return 0.0


def _own_legend(axes: Axes, panel: charts.LinePanel) -> None:
    axes.legend(
        [_handle(line.look) for line in panel.lines],
        [line.label for line in panel.lines],
        loc="upper left",
        bbox_to_anchor=(0.0, -0.2),
        frameon=False,
        fontsize=9,
        labelspacing=0.3,
        labelcolor=style.INK,
    )


def _columns(legend: Collection[str], width: float) -> int:
    """Return how many labels of a legend fit into a row of so many inches."""
    longest = max((len(label) for label in legend), default=1)
    return max(1, min(len(legend), int(width / (0.65 + 0.085 * longest))))


def _draw_lines(axes: Axes, panel: charts.LinePanel) -> None:
    style.dress(axes, title="", xlabel=panel.xlabel, ylabel=panel.ylabel)
    visible: list[float] = []
    crosses: collections.Counter[float] = collections.Counter()
    for i, line in reversed(list(enumerate(panel.lines))):  # The first lies on top.
        x, y = np.array(line.x, np.float64), np.array(line.y, np.float64)
        shown = np.where(np.isfinite(y), y, np.nan)
        (drawn,) = axes.plot(
            x,
            shown,
            label=line.label,
            color=line.look.colour,
            marker=line.look.marker,
            markevery=_marked(len(x), i, len(panel.lines)) if line.sparse else None,
            markersize=5,
            markerfacecolor=line.look.colour if line.look.dash == "-" else "white",
            linewidth=1.8,
        )
        if line.look.dash in _DASHES:
            drawn.set_dashes(_DASHES[line.look.dash])
        visible += shown[np.isfinite(shown)].tolist()
        if line.low:
            low, high = np.array(line.low), np.array(line.high)
            axes.fill_between(
                x, low, high, color=line.look.colour, alpha=0.15, linewidth=0
            )
            visible += [v for v in (*line.low, *line.high) if np.isfinite(v)]
        if line.ring is not None:
            axes.plot(
                x[line.ring],
                shown[line.ring],
                marker="o",
                markersize=11,
                markerfacecolor="none",
                markeredgecolor=line.look.colour,
                linestyle="none",
            )
        diverged = x[np.isposinf(y)]
        if not len(diverged):
            continue
        above = [crosses[at] for at in diverged.tolist()]
        crosses.update(diverged.tolist())
        axes.plot(
            diverged,
            0.97 - _CROSS * np.array(above),  # Of several lines, below each other.
            transform=axes.get_xaxis_transform(),
            marker="x",
            markersize=7,
            markeredgewidth=2,
            color=line.look.colour,
            linestyle="none",
            clip_on=False,
        )
    _y_axis(axes, panel, visible)
    _x_axis(axes, panel)
    if panel.reference is not None:
        axes.axhline(panel.reference, color=style.AXIS, linewidth=1)


def _marked(points: int, index: int, lines: int) -> tuple[int, int]:
    """Return where a line's markers begin and how far apart they are.

    Those of a panel's lines lie beside each other, so that none hides another.
    """
    apart = max(1, points // _MARKS)
    return (2 * index + 1) * apart // (2 * lines), apart


def _y_axis(axes: Axes, panel: charts.LinePanel, visible: list[float]) -> None:
    if panel.y_scale == "log":
        positive = [v for v in visible if v > 0] or [1.0]
        axes.set_yscale("log")
        axes.set_ylim(min(positive) / 1.3, max(positive) * 1.3)
        style.few_ticks(axes.yaxis)
    elif panel.y_scale == "loss":
        low, high = panel.y_limits or (-np.inf, np.inf)
        style.loss_axis(axes, [v for v in visible if low <= v <= high])
    else:
        axes.set_ylim(*(panel.y_limits or style.loss_limits(visible)))
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
        axes.yaxis.set_major_formatter(style.number)


def _x_axis(axes: Axes, panel: charts.LinePanel) -> None:
    values = sorted({x for line in panel.lines for x in line.x}) or [1.0]
    low, high = values[0], values[-1]
    if panel.x_scale == "linear":
        axes.set_xlim(low, high if high > low else low + 1)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(style.number)
        return
    pad = (high / low) ** 0.05 if high > low else 1.5
    axes.set_xscale("log")
    axes.set_xlim(low / pad, high * pad)
    if panel.x_scale == "sizes":
        axes.set_xticks(values, _labels(values, low / pad, high * pad))
        axes.minorticks_off()
    else:
        style.few_ticks(axes.xaxis)
    if panel.shade:
        left, right = panel.shade
        # A single size has a width too.
        left, right = left / pad**0.4, right * pad**0.4
        axes.axvspan(left, right, color=style.SHADE, linewidth=0, zorder=0)


def _labels(values: list[float], low: float, high: float) -> list[str]:
    """Name the ticks of a logarithmic axis, leaving out those without room."""
    found, end = [], -np.inf
    span = np.log(high / low)
    for value in values:
        text = style.number(value)
        # In inches: an axis is about four long, a digit a fourteenth of one.
        centre = 4.0 * np.log(value / low) / span
        half = (len(text) + 1) / 28
        fits = centre - half > end
        found.append(text if fits else "")
        end = centre + half if fits else end
    return found


def _draw_rows(axes: Axes, panel: charts.RowPanel) -> None:
    style.dress(axes, title="", xlabel=panel.xlabel, ylabel="")
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.set_ylim(len(panel.rows) - 0.4, -0.6)
    if panel.log:
        axes.set_xscale("log")
    values = [panel.origin] if panel.bars or panel.log else []
    across = axes.get_yaxis_transform()  # x in parts of the axes, y in rows.
    for i, row in enumerate(panel.rows):
        values += [
            v for v in (row.value, row.low, row.high, row.second) if v is not None
        ]
        colour = row.look.colour
        if row.value is not None and panel.bars:
            axes.barh(
                i + 0.18,
                row.value - panel.origin,
                0.26,
                left=panel.origin,
                color=colour,
                alpha=1.0 if row.look.dash == "-" else 0.55,
            )
        elif row.value is not None:
            axes.plot(row.value, i + 0.2, marker=row.look.marker, color=colour)
        if row.low is not None and row.high is not None:
            axes.plot(
                [row.low, row.high],
                [i + 0.2] * 2,
                color=style.INK if panel.bars else colour,
                linewidth=1.4 if panel.bars else 2.6,
                alpha=1.0 if panel.bars else 0.45,
                solid_capstyle="butt",
            )
        if row.second is not None:
            axes.plot(row.second, i + 0.18, marker="D", color=style.INK, markersize=5)
        if panel.bars or panel.log or panel.limits:
            ends = [i + 0.02, i + 0.34]  # Not through the names.
            axes.plot([panel.origin] * 2, ends, color=style.AXIS, linewidth=1)
        name = charts.shortened(row.label, max(12, 44 - len(row.text)))
        words = {"fontsize": 10, "va": "center", "transform": across}
        axes.text(0.0, i - 0.22, name, color=style.INK, ha="left", **words)
        axes.text(1.0, i - 0.22, row.text, color=style.QUIET, ha="right", **words)
    _row_axis(axes, panel, values or [0.0, 1.0])


def _row_axis(axes: Axes, panel: charts.RowPanel, values: list[float]) -> None:
    low, high = panel.limits or (min(values), max(values))
    if panel.log:
        low, high = min(low, panel.origin / 1.5), max(high, panel.origin * 1.5)
        axes.set_xlim(low / 1.1, high * 1.1)
        style.few_ticks(axes.xaxis)
    else:
        pad = 0.04 * ((high - low) or 1.0)
        axes.set_xlim(low if low == panel.origin else low - pad, high + pad)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
        axes.xaxis.set_major_formatter(style.number)


def _handle(look: style.Look) -> mpl_lines.Line2D:
    line = mpl_lines.Line2D(
        [],
        [],
        color=look.colour,
        marker=look.marker,
        markersize=5,
        markerfacecolor=look.colour if look.dash == "-" else "white",
        linewidth=1.8,
    )
    if look.dash in _DASHES:
        line.set_dashes(_DASHES[look.dash])
    return line


def _named(match: re.Match[str]) -> str:
    if match[0] == matplotlib.colors.to_hex("white"):
        return "var(--paper)"
    name = _NAMES.get(match[0])
    return match[0] if name is None else f"var(--{name})"


def _rounded(match: re.Match[str]) -> str:
    text = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.1f}", match[0])
    return re.sub(r"\s+", " ", text)
