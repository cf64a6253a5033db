"""From the cells of a sweep to its entries: who did how well where, at which rate.

An *entry* is a contender at a setting with its learning rate found in one way:
``untouched``, ``per_cell``, ``transferred``, ``published`` or ``fixed``
(:data:`evaluate.tuning.TUNING_RULE`).
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from evaluate import axes, contenders, failures, plan, readings, tuning, worker

Tuning = Literal["untouched", "per_cell", "transferred", "published", "fixed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A contender at a setting; S seeds."""

    setting: axes.Setting
    contender: contenders.Contender
    tuning: Tuning
    schedule: str
    learning_rate: float  # λ for rules used as meta-trained.
    interior: bool | None  # Whether the optimum is bracketed; None: nothing was tuned.
    tuning_runs: int  # Runs that finding the rate cost; 0: nothing was tuned here.
    tuning_steps: int  # Their steps, together.
    readings: tuple[readings.Reading, ...]  # By seed, of the runs there are.
    failed_seeds: tuple[int, ...] = ()  # Could not be run; S with those there are.

    @property
    def label(self) -> str:
        """The contender's name."""
        return self.contender.label

    @property
    def key(self) -> str:
        """The contender's name and how its rate was found: a line of a plot."""
        if self.tuning in ("untouched", "fixed"):
            return self.label
        return f"{self.label} ({self.tuning.replace('_', ' ')})"

    @property
    def num_diverged(self) -> int:
        """Seeds that diverged."""
        return sum(reading.diverged for reading in self.readings)

    def scores(self, field: str = "final_train_loss") -> np.ndarray:
        """Return a field of the readings by seed, (S,); infinite where it diverged.

        A run that could not be run counts like one that diverged.
        """
        by_seed = {seed: math.inf for seed in self.failed_seeds}
        for reading in self.readings:
            value = getattr(reading, field)
            by_seed[reading.seed] = math.inf if reading.diverged else value
        return np.array([by_seed[seed] for seed in sorted(by_seed)], np.float64)

    def secs_per_step(self) -> float:
        """Return the median wall-clock seconds of a step."""
        return float(np.median([reading.secs_per_step for reading in self.readings]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateCurve:
    """Final training loss over learning rates, or λ; R rates."""

    setting: axes.Setting
    contender: contenders.Contender
    schedule: str
    rates: tuple[float, ...]  # (R,), rising.
    losses: tuple[float, ...]  # (R,). Mean over the tuning seeds; inf: diverged.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """All that a sweep found: what summaries, reports and comparisons are made of."""

    config: axes.SweepConfig
    settings: tuple[axes.Setting, ...]  # The base first.
    contenders: tuple[contenders.Contender, ...]
    not_run: tuple[contenders.NotRun, ...]
    failures: tuple[str, ...]  # What could not be run, and why.
    entries: tuple[Entry, ...]
    rate_curves: tuple[RateCurve, ...]
    num_cells: int  # Runs, over all rates.
    num_diverged_cells: int
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def find(self, setting: axes.Setting, key: str) -> Entry | None:
        """Return the entry of a setting and a line (:attr:`Entry.key`), if it is."""
        for entry in self.entries:
            if entry.setting == setting and entry.key == key:
                return entry
        return None

    @property
    def keys(self) -> tuple[str, ...]:
        """Lines there are, in the order of the contenders."""
        return tuple(dict.fromkeys(entry.key for entry in self.entries))


def collect(
    config: axes.SweepConfig,
    entered: Sequence[contenders.Contender],
    units: Sequence[plan.Unit],
    folder: pathlib.Path,
    rates: Mapping[tuple[str, str], float],
) -> tuple[list[Entry], list[RateCurve], list[readings.Reading]]:
    """Read the cells of a sweep and choose learning rates.

    Args:
      config: The sweep.
      entered: Its contenders.
      units: Its units.
      folder: Holds the result files.
      rates: Found at the base setting, by contender's label and schedule.

    Returns:
      Entries by contender, then setting; the rate curves; and every run there is. An
      entry whose runs are not all there is left out.
    """
    everything: dict[Any, readings.Reading] = {}
    per: dict[tuple[str, axes.Setting], list[tuple[plan.Unit, plan.Results]]] = {}
    broken = failures.recorded(folder, units)
    failed: dict[str, plan.Failed] = {}
    for unit in units:
        rate = rates.get((unit.contender.label, unit.program.schedule))
        moved = plan.transfers(config, unit) and rate is not None
        failed[unit.label] = failures.pairs(broken, unit)
        found = worker.present(
            config,
            unit,
            folder,
            {s: rate for s in unit.settings} if moved else {},
            failed[unit.label],
        )
        for result in found.values():
            everything[result.cell] = readings.read_off(
                result, unit.program.horizon_steps
            )
        for setting in unit.settings:
            per.setdefault((unit.contender.label, setting), []).append((unit, found))
    entries: list[Entry] = []
    curves: list[RateCurve] = []
    for contender in entered:
        for setting in axes.settings(config):
            found = per.get((contender.label, setting), [])
            tuned = [(u, r) for u, r in found if u.published_rate is None]
            for unit, results in tuned:
                curve = _rate_curve(config, unit, setting, results)
                if curve is not None:
                    curves.append(curve)
            made = _chosen(config, contender, setting, tuned, rates, failed)
            for unit, results in found:
                if unit.published_rate is not None:
                    made.append(
                        _entry(
                            config,
                            unit,
                            setting,
                            results,
                            unit.published_rate,
                            "published",
                            failed[unit.label],
                        )
                    )
            entries += [entry for entry in made if entry is not None]
    return entries, curves, list(everything.values())


def _chosen(config, contender, setting, tuned, rates, failed) -> list[Entry | None]:
    """Make the entries of a contender at a setting, the better of its schedules."""
    if contender.step_size != "rate":
        kind: Tuning = "fixed" if contender.step_size == "fixed" else "untouched"
        rate = contender.grid[0] if kind == "fixed" else 1.0
        made = [
            _entry(config, u, setting, r, rate, kind, failed[u.label]) for u, r in tuned
        ]
        return [_better(made)]
    # A grid of one rate that is not refined tunes nothing.
    alone = len(contender.grid) == 1 and not config.tuning_refinements
    kind: Tuning = "fixed" if alone else "per_cell"
    per_cell, transferred = [], []
    for unit, results in tuned:
        bad = failed[unit.label]
        rate = plan.reported_rate(config, unit, setting, results, bad)
        if rate is not None:
            per_cell.append(_entry(config, unit, setting, results, rate, kind, bad))
        moved = rates.get((contender.label, unit.program.schedule))
        if config.transfer and moved is not None:
            transferred.append(
                _entry(config, unit, setting, results, moved, "transferred", bad)
            )
    found = [_better(per_cell)]
    if len(axes.settings(config)) > 1:
        found.append(_better(transferred))
    return found


def _better(made: Sequence[Entry | None]) -> Entry | None:
    """Return the entry with the lowest mean final training loss over the seeds."""
    there = [entry for entry in made if entry is not None]
    if not there:
        return None
    best = min(there, key=lambda e: float(np.mean(e.scores())))
    runs = sum(entry.tuning_runs for entry in there)
    steps = sum(entry.tuning_steps for entry in there)
    return dataclasses.replace(best, tuning_runs=runs, tuning_steps=steps)


def _entry(
    config: axes.SweepConfig,
    unit: plan.Unit,
    setting: axes.Setting,
    results: plan.Results,
    rate: float,
    kind: Tuning,
    failed: plan.Failed,
) -> Entry | None:
    """Make an entry; None while runs are missing that have not failed."""
    seeds = [s for s in range(config.num_seeds) if (rate, s) not in failed]
    there = [results[rate, seed] for seed in seeds if (rate, seed) in results]
    if len(there) < len(seeds) or not there:
        return None
    tuned = kind == "per_cell"
    looked = plan.searched(config, unit, setting, results, failed) if tuned else {}
    count = len(looked) * config.tuning_seeds
    return Entry(
        setting=setting,
        contender=unit.contender,
        tuning=kind,
        schedule=unit.program.schedule,
        learning_rate=rate,
        interior=tuning.is_interior(looked) if tuned else None,
        tuning_runs=count,
        tuning_steps=count * setting.horizon_steps,
        readings=tuple(readings.read_off(r, setting.horizon_steps) for r in there),
        failed_seeds=tuple(s for s in range(config.num_seeds) if s not in seeds),
    )


def _rate_curve(
    config: axes.SweepConfig,
    unit: plan.Unit,
    setting: axes.Setting,
    results: plan.Results,
) -> RateCurve | None:
    losses = plan.tuning_losses(config, setting, results)
    if len(losses) < 2:
        return None
    return RateCurve(
        setting=setting,
        contender=unit.contender,
        schedule=unit.program.schedule,
        rates=tuple(losses),
        losses=tuple(losses.values()),
    )
