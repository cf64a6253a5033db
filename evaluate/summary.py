"""From the cells of a sweep to tuned results, comparisons and warnings.

An *entry* is one line of a plot at one width: an optimizer at its tuned learning rate,
or at an untuned one that the configuration names.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import tasks
from evaluate import cells as cells_lib
from evaluate import optimizers, statistics, sweep

TUNING_RULE = (
    "tuned = the learning rate with the lowest final training loss, averaged over "
    "seeds, among those at which no seed diverged; if seeds diverged at every rate, "
    "the one with fewest divergences"
)
STATISTICS_RULE = (
    "interquartile mean over the seeds that did not diverge, with a stratified "
    "bootstrap percentile interval; divergences are counted beside it"
)
SPEEDUP_RULE = (
    "speed-up = horizon / first step at which the mean training loss of the last 5 % "
    "of steps so far is at or below the other's final training loss; in time, "
    "multiplied by the ratio of wall-clock seconds per step"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """An optimizer at one width and the learning rate chosen for it."""

    label: str  # The optimizer's name, with " (untuned)" where that is so.
    optimizer: str
    width: int
    untuned: bool
    learning_rate: float
    lr_at_edge: str | None  # "lowest" or "highest" of a grid of several, or None.
    results: tuple[cells_lib.CellResult, ...]  # (S,), by seed.

    @property
    def num_diverged(self) -> int:
        """Seeds that diverged."""
        return sum(result.diverged for result in self.results)

    def scores(self, field: str) -> np.ndarray:
        """Return a field of the results that did not diverge, shape=(<= S,)."""
        return np.array([getattr(r, field) for r in self.results if not r.diverged])

    def secs_per_step(self) -> float:
        """Return the median wall-clock seconds of a step."""
        return float(np.median([r.secs_per_step for r in self.results]))


def width_of(result: cells_lib.CellResult) -> int:
    """Return the width of the task a result belongs to."""
    width = tasks.names.parse(result.cell.program.task).width
    assert width is not None
    return width


def tune(
    by_rate: Mapping[float, Sequence[cells_lib.CellResult]],
) -> float:
    """Return the learning rate that ``TUNING_RULE`` picks; the lowest of equals."""

    def badness(rate: float) -> tuple[float, float, float]:
        results = by_rate[rate]
        losses = [r.final_train_loss for r in results if not r.diverged]
        mean = float(np.mean(losses)) if losses else math.inf
        return len(results) - len(losses), mean, rate

    return min(by_rate, key=badness)


def entries(
    config: sweep.SweepConfig, results: Sequence[cells_lib.CellResult]
) -> list[Entry]:
    """Choose learning rates: entries by width, then in the configuration's order.

    Args:
      config: The sweep.
      results: Of its cells; a width or optimizer without any is left out.
    """
    found: dict[tuple[int, str], dict[float, list[cells_lib.CellResult]]] = {}
    for result in sorted(results, key=lambda r: r.cell):
        key = (width_of(result), result.cell.program.optimizer)
        rates = found.setdefault(key, {})
        rates.setdefault(result.cell.learning_rate, []).append(result)
    chosen = []
    for width, name in itertools.product(sorted(config.widths), config.optimizers):
        rates = found.get((width, name), {})
        grid = {rate: rates[rate] for rate in config.grid(name) if rate in rates}
        if grid:
            rate = tune(grid)
            chosen.append(
                Entry(
                    label=name,
                    optimizer=name,
                    width=width,
                    untuned=False,
                    learning_rate=rate,
                    lr_at_edge=_edge(rate, config.grid(name)),
                    results=tuple(grid[rate]),
                )
            )
        untuned = config.untuned_learning_rates.get(name)
        if untuned in rates:
            chosen.append(
                Entry(
                    label=f"{name} (untuned)",
                    optimizer=name,
                    width=width,
                    untuned=True,
                    learning_rate=untuned,
                    lr_at_edge=None,
                    results=tuple(rates[untuned]),
                )
            )
    return chosen


def summarize(
    config: sweep.SweepConfig,
    results: Sequence[cells_lib.CellResult],
    chosen: Sequence[Entry],
) -> dict[str, Any]:
    """Return the content of summary.json: plain values, None for what is undefined."""
    by_width = {
        width: list(group)
        for width, group in itertools.groupby(chosen, key=lambda e: e.width)
    }
    return {
        "task": config.task,
        "horizon_steps": config.horizon_steps,
        "num_cells": len(results),
        "num_diverged_cells": sum(r.diverged for r in results),
        "rules": {
            "divergence": cells_lib.DIVERGENCE_RULE,
            "final_loss": cells_lib.FINAL_LOSS_RULE,
            "tuning": TUNING_RULE,
            "statistics": STATISTICS_RULE,
            "speedup": SPEEDUP_RULE,
        },
        "entries": [_entry_values(config, entry, results) for entry in chosen],
        "comparisons": [
            _compare(config, subject, other)
            for group in by_width.values()
            for subject in group
            if is_subject(config, subject)
            for other in group
            if other is not subject
        ],
        "average_rank": _average_rank(list(by_width.values())),
        "warnings": warnings(config, chosen),
    }


def is_subject(config: sweep.SweepConfig, entry: Entry) -> bool:
    """Whether to compare an entry with the others: the learned, else the first."""
    learned = [n for n in config.optimizers if optimizers.get(n).learned]
    return not entry.untuned and entry.optimizer in (learned or config.optimizers[:1])


def interval(
    config: sweep.SweepConfig, entry: Entry, field: str
) -> statistics.Interval | None:
    """Return the statistic of a result's field.

    None when every seed diverged, or the task has no such thing (accuracy).
    """
    scores = entry.scores(field)
    if not len(scores) or np.isnan(scores).all():
        return None
    return statistics.bootstrap_interval(scores, **_bootstrap(config))


def warnings(config: sweep.SweepConfig, chosen: Sequence[Entry]) -> list[str]:
    """Return what a reader must know before trusting the numbers."""
    found = []
    for entry in chosen:
        where = f"{entry.label} at width {entry.width}"
        if entry.lr_at_edge:
            found.append(
                f"{where}: the tuned learning rate {entry.learning_rate:g} is the "
                f"{entry.lr_at_edge} of its grid; a better one may lie beyond it."
            )
        if entry.num_diverged:
            found.append(
                f"{where}: {entry.num_diverged} of {len(entry.results)} seeds diverged "
                f"at learning rate {entry.learning_rate:g}."
            )
    if config.num_seeds < 3:
        found.append(
            f"{config.num_seeds} seed{'s' * (config.num_seeds > 1)} per entry: the "
            "intervals say little about the spread."
        )
    return found


def _edge(rate: float, grid: Sequence[float]) -> str | None:
    if len(grid) < 2 or grid[0] < rate < grid[-1]:
        return None
    return "lowest" if rate == grid[0] else "highest"


def _bootstrap(config: sweep.SweepConfig) -> dict[str, Any]:
    return {
        "num_samples": config.bootstrap_samples,
        "confidence": config.confidence_frac,
        "seed": config.bootstrap_seed,
    }


def _entry_values(
    config: sweep.SweepConfig,
    entry: Entry,
    results: Sequence[cells_lib.CellResult],
) -> dict[str, Any]:
    def values(field: str) -> dict[str, Any] | None:
        found = interval(config, entry, field)
        if found is None:
            return None
        return {**dataclasses.asdict(found), "seeds": entry.scores(field).tolist()}

    of_grid = [
        r
        for r in results
        if width_of(r) == entry.width and r.cell.program.optimizer == entry.optimizer
    ]
    return {
        "width": entry.width,
        "label": entry.label,
        "optimizer": entry.optimizer,
        "task": entry.results[0].cell.program.task,
        "untuned": entry.untuned,
        "learning_rate": entry.learning_rate,
        "grid": [] if entry.untuned else list(config.grid(entry.optimizer)),
        "lr_at_edge": entry.lr_at_edge,
        "train_loss": values("final_train_loss"),
        "valid_loss": values("final_valid_loss"),
        "valid_accuracy": values("final_valid_accuracy"),
        "num_seeds": len(entry.results),
        "num_diverged": entry.num_diverged,
        "num_diverged_all_rates": sum(r.diverged for r in of_grid),
        "secs_per_step": entry.secs_per_step(),
    }


def _compare(config: sweep.SweepConfig, subject: Entry, other: Entry) -> dict[str, Any]:
    """Compare two entries of one width; negative differences favour the subject."""
    values: dict[str, Any] = {
        "width": subject.width,
        "label": subject.label,
        "against": other.label,
    }
    for name, field in (
        ("train_difference", "final_train_loss"),
        ("valid_difference", "final_valid_loss"),
    ):
        mine, theirs = subject.scores(field), other.scores(field)
        values[name] = None
        if len(mine) and len(theirs):
            values[name] = dataclasses.asdict(
                statistics.bootstrap_difference(mine, theirs, **_bootstrap(config))
            )
    steps = _steps_to_reach(subject, other)
    speedup = None if steps is None else config.horizon_steps / steps
    values["speedup_steps"] = speedup
    values["speedup_time"] = (
        None
        if speedup is None
        else speedup * other.secs_per_step() / subject.secs_per_step()
    )
    return values


def _steps_to_reach(subject: Entry, other: Entry) -> float | None:
    """Return the step at which ``subject`` has reached ``other``'s final loss."""
    finite = [r for r in subject.results if not r.diverged]
    scores = other.scores("final_train_loss")
    if not finite or not len(scores):
        return None
    curve = np.mean([r.curve_losses for r in finite], axis=0)
    steps = finite[0].curve_steps
    window = max(1, math.ceil(0.05 * len(curve)))
    trailing = np.convolve(curve, np.full(window, 1 / window), mode="valid")
    reached = np.flatnonzero(trailing <= statistics.interquartile_mean(scores))
    return float(steps[window - 1 :][reached[0]] + 1) if len(reached) else None


def _average_rank(by_width: Sequence[Sequence[Entry]]) -> dict[str, float]:
    """Rank the entries' training losses at each width; only where all are there."""
    labels = list(dict.fromkeys(e.label for group in by_width for e in group))
    rows = []
    for group in by_width:
        losses = {}
        for entry in group:
            scores = entry.scores("final_train_loss")
            losses[entry.label] = (
                float(statistics.interquartile_mean(scores)) if len(scores) else np.inf
            )
        if len(losses) == len(labels):
            rows.append([losses[label] for label in labels])
    if not rows:
        return {}
    ranks = statistics.average_ranks(np.array(rows))
    return dict(zip(labels, ranks.tolist(), strict=True))
