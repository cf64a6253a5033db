"""Checks that the best learning rate stays where it is as width grows; a module to run.

    python -m evaluate.lr_transfer --task=transformer-d2-k16-tiny_shakespeare \
        --optimizer=mu_adam --widths=64,128,256,512 --workdir=runs/transfer
    python -m evaluate.lr_transfer --optimizer=mu_celo2 --theta=celo2 \
        --schedule=cosine --workdir=runs/transfer_celo2

Trains every width at every learning rate and compares where the minima lie: passed when
the best rates of all widths are within one grid step of each other. Where one lies at
an end of the grid, the minimum may lie beyond: that is inconclusive. The sweep's own
cells are used (:mod:`evaluate.sweep.engine`), so a stopped run goes on where it was.
Optimizers of the standard parametrization train the task's ``sp-`` twin. Learned rules
that leave the step size to the user (Celo2, ELO) are checked like the others.

Exit status 0: the best rate transfers; 1: it moves; 2: bad input; 3: inconclusive.

Reference: Yang et al., `Tensor Programs V <https://arxiv.org/abs/2203.03466>`_, 2022,
figure 1.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import tasks
from evaluate.coord_check import report
from evaluate.optimizers import names, schedules
from evaluate.report import style, tables
from evaluate.sweep import axes, contenders, engine, plan, worker
from mulo import _files as files
from tasks import command

_TASK = flags.DEFINE_string("task", "mlp-d3-digits", "μP template without a width.")
_OPTIMIZER = flags.DEFINE_string("optimizer", "mu_adam", "One with a rate to tune.")
_THETA = flags.DEFINE_string("theta", None, "Of a learned one: name, folder or file.")
_SCHEDULE = flags.DEFINE_string("schedule", "constant", "Or cosine, wsd, linear.")
_WIDTHS = flags.DEFINE_list("widths", "64,128,256,512", "Widths.")
_RATES = flags.DEFINE_list(
    "learning_rates", "0.016,0.032,0.064,0.128,0.256,0.512", "By equal factors."
)
_STEPS = flags.DEFINE_integer("steps", 200, "Training steps.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Seeds, averaged over.")
_BATCH = flags.DEFINE_integer("batch_size", 16, "Examples per step.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Gets cells, numbers and plot.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Of tensorflow-datasets.")


_EXIT_STATUS = {"passed": 0, "FAILED": 1, "inconclusive": 3}


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Final training losses over widths and learning rates, and what they say."""

    widths: tuple[int, ...]  # (W,), rising.
    rates: tuple[float, ...]  # (R,), rising.
    losses: np.ndarray  # (W, R). Mean over seeds; inf where a seed diverged.

    @property
    def best(self) -> tuple[int, ...]:
        """Index of every width's best learning rate.

        Raises:
          ValueError: If every rate diverged at some width.
        """
        for width, losses in zip(self.widths, self.losses, strict=True):
            if not np.isfinite(losses).any():
                raise ValueError(
                    f"every learning rate diverged at width {width}; add smaller ones "
                    f"than {self.rates[0]:g}."
                )
        return tuple(int(i) for i in np.argmin(self.losses, axis=1))

    @property
    def moved(self) -> int:
        """Grid steps between the smallest and the largest best rate."""
        return max(self.best) - min(self.best)

    @property
    def verdict(self) -> str:
        """``passed``, ``FAILED`` or ``inconclusive``."""
        if self.on_edge:
            return "inconclusive"
        return "FAILED" if self.moved > 1 else "passed"

    @property
    def beyond(self) -> str:
        """Where the grid has to go on, if a best rate lies at an end of it."""
        below = f"below {self.rates[0]:g}" if 0 in self.best else ""
        last = len(self.rates) - 1
        above = f"above {self.rates[-1]:g}" if last in self.best else ""
        return " and ".join(side for side in (below, above) if side)

    @property
    def on_edge(self) -> tuple[int, ...]:
        """Widths whose best rate lies at an end of the grid."""
        ends = (0, len(self.rates) - 1)
        return tuple(
            width for width, i in zip(self.widths, self.best, strict=True) if i in ends
        )


def describe(transfer: Transfer, title: str) -> str:
    """Return the table of losses, each width's best marked, and the verdict."""
    rows = [["width", *[f"{rate:g}" for rate in transfer.rates], "best"]]
    for width, losses, best in zip(
        transfer.widths, transfer.losses, transfer.best, strict=True
    ):
        shown = [f"{x:.3f}" if np.isfinite(x) else "diverged" for x in losses]
        rows.append([str(width), *shown, f"{transfer.rates[best]:g}"])
    steps = f"{transfer.moved} grid step{'' if transfer.moved == 1 else 's'}"
    verdict = f"{transfer.verdict}: best rates lie {steps} apart"
    lines = [title, tables.format_table(rows)]
    if transfer.on_edge:
        plural = "s" * (len(transfer.on_edge) > 1)
        lines.append(
            f"{verdict}; at width{plural} {', '.join(map(str, transfer.on_edge))} the "
            "best rate is at an end of the grid, and the minimum may lie beyond: give "
            f"--learning_rates {transfer.beyond}."
        )
    else:
        lines.append(f"{verdict}.")
    return "\n".join(lines)


def draw(transfer: Transfer, title: str) -> Figure:
    """Draw loss against learning rate, a line per width, each one's best a star."""
    fig, (axes,) = style.figure(1, 1, (6.4, 4.4))
    steps = f"{transfer.moved} grid step{'s' * (transfer.moved != 1)}"
    style.dress(
        axes,
        title=f"{style.wrapped(title, 60)}\n"
        f"{transfer.verdict}: best rates {steps} apart",
        xlabel="learning rate",
        ylabel="final training loss",
        alarm=transfer.verdict == "FAILED",
    )
    for j, (width, losses, best) in enumerate(
        zip(transfer.widths, transfer.losses, transfer.best, strict=True)
    ):
        colour = style.width_colour(j, len(transfer.widths))
        shown = np.where(np.isfinite(losses), losses, np.nan)
        axes.plot(
            transfer.rates,
            shown,
            color=colour,
            marker=style.MARKERS[j % len(style.MARKERS)],
            markersize=5,
            label=f"width {width}",
        )
        lost = [r for r, x in zip(transfer.rates, losses, strict=True) if x == np.inf]
        axes.plot(  # At the upper edge, one width's beside the other's.
            lost,
            [0.98 - 0.035 * j] * len(lost),
            "x",
            color=colour,
            transform=axes.get_xaxis_transform(),
        )
        axes.plot(
            transfer.rates[best],
            losses[best],
            color=colour,
            marker="*",
            markersize=15,
            markeredgecolor="white",
        )
    axes.set_xscale("log")
    axes.set_xticks(transfer.rates, [style.number(rate) for rate in transfer.rates])
    axes.minorticks_off()
    if len(transfer.rates) > 6:
        axes.tick_params(axis="x", labelrotation=45)
    first, last = transfer.rates[0], transfer.rates[-1]
    margin = (last / first) ** 0.04
    axes.set_xlim(first / margin, last * margin)
    _loss_axis(axes, transfer.losses)
    if np.isinf(transfer.losses).any():
        axes.plot([], [], "x", color=style.QUIET, label="diverged")
    axes.legend(frameon=False, fontsize=10)
    return fig


def _loss_axis(axes: Axes, losses: np.ndarray) -> None:
    """Show every finite loss, with the minima apart and room for crosses above."""
    finite = losses[np.isfinite(losses)]
    low, high = style.loss_limits(finite.tolist())
    if finite.min() > 0 and finite.max() > 2 * finite.min():  # Some rates are far off.
        axes.set_yscale("log")
        low, high = finite.min() / 1.06, finite.max() * 1.06
    room = 0.15 if np.isinf(losses).any() else 0.0
    log = axes.get_yscale() == "log"
    high = high * (high / low) ** room if log else high + room * (high - low)
    axes.set_ylim(low, high)
    if log:
        style.few_ticks(axes.yaxis)


def run(
    config: axes.SweepConfig, workdir: pathlib.Path, theta: str | None = None
) -> Transfer:
    """Train what is missing of a sweep with one optimizer; return the losses.

    Args:
      config: As :meth:`evaluate.sweep.axes.SweepConfig.for_one` makes it.
      workdir: Gets ``cells/``.
      theta: Of a learned optimizer.

    Raises:
      ValueError: If the theta is missing or of another rule, there is bad input, or a
        run failed.
      OSError: If the workdir cannot be written.
    """
    given = [f"{config.optimizers[0]}={theta}"] if theta else []
    entered, _ = contenders.enter(config, given)
    units = plan.units(config, entered, plan.data_sizes(config))
    folder = workdir / "cells"
    outcome = engine.run(config, units, units, folder)
    if outcome.failures:
        first = outcome.failures[0]
        raise ValueError(f"{first.what} failed: {first.reason}")
    rates = config.grid(config.optimizers[0])
    by_width = {}
    for unit in units:
        (setting,) = unit.settings
        results, _ = worker.present(config, unit, folder, {})
        losses = plan.tuning_losses(config, setting, results)
        by_width[setting.width] = [losses[rate] for rate in rates]
    widths = tuple(sorted(by_width))
    return Transfer(widths, rates, np.array([by_width[width] for width in widths]))


def _rates(texts: Sequence[str]) -> tuple[float, ...]:
    try:
        return tuple(sorted(float(text) for text in texts))
    except ValueError:
        raise ValueError(
            f"learning_rates must be numbers, like 0.01,0.02; got {list(texts)}."
        ) from None


def _config() -> axes.SweepConfig:
    widths = report.parse_sizes("widths", _WIDTHS.value)
    rates = _rates(_RATES.value)
    if len(widths) < 2 or len(rates) < 3:
        raise ValueError(
            "widths must be two or more and learning_rates three or more, or nothing "
            f"can move; got {widths} and {rates}."
        )
    if names.get(_OPTIMIZER.value).step_size != "rate":
        raise ValueError(
            f"optimizer must be one with a learning rate to tune; {_OPTIMIZER.value!r} "
            "is used with the step it was meta-trained or made with."
        )
    schedules.check(_SCHEDULE.value, schedules.NAMES)
    return axes.SweepConfig.for_one(
        task=_TASK.value,
        optimizer=_OPTIMIZER.value,
        widths=widths,
        learning_rates=rates,
        schedule=_SCHEDULE.value,
        num_seeds=_SEEDS.value,
        horizon_steps=_STEPS.value,
        batch_examples=_BATCH.value,
        data_dir=_DATA_DIR.value,
    )


def main() -> int:
    """Run the check; return the exit status."""
    if not _WORKDIR.value:
        raise ValueError("--workdir must name a directory, got nothing.")
    workdir = pathlib.Path(_WORKDIR.value)
    config = _config()
    transfer = run(config, workdir, _THETA.value)
    sp = "sp-" if names.get(_OPTIMIZER.value).standard else ""
    title = f"{_OPTIMIZER.value} on {sp}{tasks.names.parse(_TASK.value)}"
    if _SCHEDULE.value != "constant":
        title += f", {_SCHEDULE.value}"
    text = describe(transfer, f"{title}, {_STEPS.value} steps: final training loss")
    plot = files.write(workdir / "lr_transfer.png", style.png(draw(transfer, title)))
    values = {
        "title": title,
        "widths": transfer.widths,
        "learning_rates": transfer.rates,
        "losses_by_width_rate": [
            [x if math.isfinite(x) else None for x in row]
            for row in transfer.losses.tolist()
        ],
        "best": [transfer.rates[i] for i in transfer.best],
        "grid_steps": transfer.moved,
        "verdict": transfer.verdict,
        "passed": transfer.verdict == "passed",
    }
    files.write(workdir / "lr_transfer.json", json.dumps(values, indent=1) + "\n")
    print(text)
    print(f"plot: {plot}")
    return _EXIT_STATUS[transfer.verdict]


if __name__ == "__main__":
    command.run("lr_transfer", main, "; finished cells are kept")
