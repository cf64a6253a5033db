"""The plots of a sweep: final loss against width, loss curves, tuning curves."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import tasks
from evaluate import cells as cells_lib
from evaluate import optimizers, style, summary, sweep


def all_plots(
    config: sweep.SweepConfig,
    results: Sequence[cells_lib.CellResult],
    chosen: Sequence[summary.Entry],
) -> dict[str, bytes]:
    """Draw every plot of a report.

    Args:
      config: The sweep.
      results: Of all its cells.
      chosen: Its entries, at least one.

    Returns:
      PNG images by name: ``final_loss``, ``curves`` and, where something was tuned,
      ``tuning``.
    """
    images = {
        "final_loss": style.png(final_loss(config, chosen)),
        "curves": style.png(curves(config, chosen)),
    }
    tuned = [name for name in config.optimizers if len(config.grid(name)) > 1]
    if tuned:
        images["tuning"] = style.png(tuning(config, results, chosen, tuned))
    return images


def final_loss(config: sweep.SweepConfig, chosen: Sequence[summary.Entry]) -> Figure:
    """Draw final training and validation loss against width, with intervals."""
    fig, panels = style.figure(1, 2, (5.6, 4.3))
    for axes, (field, title) in zip(
        panels,
        (
            ("final_train_loss", "Final training loss"),
            ("final_valid_loss", "Final validation loss"),
        ),
        strict=True,
    ):
        style.dress(axes, title=title, xlabel="width", ylabel=_loss(config))
        visible = []
        for label, entries in _by_label(chosen).items():
            found = [(e, summary.interval(config, e, field)) for e in entries]
            # Widths where every seed diverged are gaps in the line.
            shown = [
                (e.width,)
                + ((math.nan,) * 3 if i is None else (i.estimate, i.low, i.high))
                for e, i in found
            ]
            widths, middle, low, high = np.array(shown, np.float64).T
            visible += [*low, *high]
            look = _look(config, entries[0])
            axes.plot(widths, middle, label=label, **look)
            axes.fill_between(
                widths, low, high, color=look["color"], alpha=0.15, linewidth=0
            )
        style.loss_axis(axes, visible)
        style.size_axis(axes, sorted(config.widths))
        _mark_diverged(config, axes, chosen)
    handles, labels = panels[0].get_legend_handles_labels()
    _legend(fig, handles, labels)
    return fig


def curves(config: sweep.SweepConfig, chosen: Sequence[summary.Entry]) -> Figure:
    """Draw training loss over steps, a panel per width, with bands over seeds."""
    by_width = {w: list(g) for w, g in itertools.groupby(chosen, key=lambda e: e.width)}
    columns = 2 if len(by_width) in (2, 4) else min(3, len(by_width))
    rows = math.ceil(len(by_width) / columns)
    fig, panels = style.figure(rows, columns, (4.4, 3.3))
    for axes in panels[len(by_width) :]:
        axes.set_visible(False)
    handles, labels = {}, []
    for axes, (width, group) in zip(panels, by_width.items(), strict=False):
        style.dress(
            axes,
            title=f"width {width}",
            xlabel="step",
            ylabel=f"training {_loss(config)}",
        )
        visible = []
        for entry in group:
            losses = _smooth(np.stack([r.curve_losses for r in entry.results]))
            steps = entry.results[0].curve_steps[-losses.shape[1] :]
            look = _look(config, entry) | {"marker": None, "linewidth": 1.6}
            # Where a seed is not finite any more, so is the mean: the line ends.
            middle = np.mean(losses, axis=0)
            (line,) = axes.plot(steps, middle, label=entry.label, **look)
            axes.fill_between(
                steps,
                losses.min(axis=0),
                losses.max(axis=0),
                color=look["color"],
                alpha=0.15,
                linewidth=0,
            )
            handles.setdefault(entry.label, line)
            first = [r.initial_train_loss for r in entry.results]
            # An entry that blows up must not squeeze the others.
            visible += [min(x, 1.3 * max(first)) for x in middle if math.isfinite(x)]
        style.loss_axis(axes, visible)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=6))
        axes.set_xlim(0, config.horizon_steps)
    labels = list(handles)
    _legend(fig, [handles[label] for label in labels], labels)
    return fig


def tuning(
    config: sweep.SweepConfig,
    results: Sequence[cells_lib.CellResult],
    chosen: Sequence[summary.Entry],
    tuned: Sequence[str],
) -> Figure:
    """Draw final training loss against learning rate, a line per width.

    Rates at which a seed diverged are left out; a ring marks the tuned one.
    """
    columns = min(4, len(tuned))
    fig, panels = style.figure(-(-len(tuned) // columns), columns, (4.8, 3.9))
    for axes in panels[len(tuned) :]:
        axes.set_visible(False)
    widths = sorted(config.widths)
    for axes, name in zip(panels, tuned, strict=False):
        style.dress(
            axes,
            title=f"{name}: {optimizers.get(name).summary}",
            xlabel="learning rate",
            ylabel="final training loss",
        )
        axes.set_xscale("log")
        visible = []
        for i, width in enumerate(widths):
            points = {}
            for rate in config.grid(name):
                here = [
                    r
                    for r in results
                    if r.cell.program.optimizer == name
                    and r.cell.learning_rate == rate
                    and summary.width_of(r) == width
                ]
                if here and not any(r.diverged for r in here):
                    points[rate] = np.mean([r.final_train_loss for r in here])
            visible += points.values()
            colour = style.width_colour(i, len(widths))
            axes.plot(
                list(points),
                list(points.values()),
                color=colour,
                marker="o",
                markersize=3.5,
                linewidth=1.5,
                label=f"width {width}",
            )
            best = [
                e
                for e in chosen
                if (e.optimizer, e.width, e.untuned) == (name, width, False)
            ]
            for entry in best:
                if entry.learning_rate in points:
                    axes.plot(
                        [entry.learning_rate],
                        [points[entry.learning_rate]],
                        marker="o",
                        markersize=10,
                        markerfacecolor="none",
                        markeredgecolor=colour,
                        linestyle="none",
                    )
        style.loss_axis(axes, visible)
    handles, labels = panels[0].get_legend_handles_labels()
    _legend(fig, handles, labels)
    return fig


def _loss(config: sweep.SweepConfig) -> str:
    kind = tasks.names.KINDS[tasks.names.parse(config.task).kind]
    return f"loss ({kind.loss_unit})"


def _look(config: sweep.SweepConfig, entry: summary.Entry) -> dict:
    colour, marker = style.looks(config.optimizers)[entry.optimizer]
    return {
        "color": colour,
        "marker": marker,
        "markersize": 6,
        "markerfacecolor": "white" if entry.untuned else colour,
        "linewidth": 1.9,
        "linestyle": (0, (4, 2)) if entry.untuned else "-",
    }


def _by_label(
    chosen: Sequence[summary.Entry],
) -> Mapping[str, list[summary.Entry]]:
    found: dict[str, list[summary.Entry]] = {}
    for entry in chosen:
        found.setdefault(entry.label, []).append(entry)
    return found


def _mark_diverged(
    config: sweep.SweepConfig, axes: Axes, chosen: Sequence[summary.Entry]
) -> None:
    """Put a cross at the top edge where seeds of an entry diverged."""
    for entry in chosen:
        if entry.num_diverged:
            axes.plot(
                [entry.width],
                [0.985],
                transform=axes.get_xaxis_transform(),
                marker="x",
                markersize=8,
                markeredgewidth=2,
                color=_look(config, entry)["color"],
                linestyle="none",
                clip_on=False,
            )


def _smooth(losses: np.ndarray) -> np.ndarray:
    """Average each row over a trailing 2 % of its points; (S, B) to (S, <= B)."""
    window = max(1, losses.shape[1] // 50)
    kernel = np.full(window, 1 / window)
    return np.stack([np.convolve(row, kernel, mode="valid") for row in losses])


def _legend(fig: Figure, handles: Sequence, labels: Sequence[str]) -> None:
    fig.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(6, len(labels)),
        frameon=False,
        fontsize=10,
    )
