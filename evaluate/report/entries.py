"""From the cells of a sweep to its entries: who did how well where, at which rate.

An *entry* is a contender at a setting with its learning rate found in one way:
``untouched``, ``per_cell``, ``transferred``, ``published`` or ``fixed``
(:data:`evaluate.sweep.tuning.TUNING_RULE`).
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from evaluate.sweep import axes, contenders, failures, plan, readings, worker

Tuning = Literal["untouched", "per_cell", "transferred", "published", "fixed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A contender at a setting; S seeds."""

    setting: axes.Setting
    contender: contenders.Contender
    tuning: Tuning
    schedule: str
    learning_rate: float  # λ for rules used as meta-trained.
    readings: tuple[readings.Reading, ...]  # By seed, of the runs there are.
    # Whether the optimum is bracketed, where it was found; None: nothing was tuned.
    interior: bool | None = None
    tuning_runs: int = 0  # Runs that finding the rate cost, at this setting.
    tuning_steps: int = 0  # Their steps, together.
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
        moved = plan.rates_for(config, unit, rates)
        failed[unit.label] = failures.pairs(broken, unit)
        found, _ = worker.present(config, unit, folder, moved, failed[unit.label])
        for result in found.values():
            everything[result.cell] = readings.read_off(
                result, unit.program.horizon_steps
            )
        for setting in unit.settings:
            per.setdefault((unit.contender.label, setting), []).append((unit, found))
    entries: list[Entry] = []
    curves: list[RateCurve] = []
    for contender in entered:
        at_base: list[Entry] = []
        for setting in config.settings:
            here = per.get((contender.label, setting), [])
            own = [(u, r) for u, r in here if u.published_rate is None]
            for unit, results in own:
                curve = _rate_curve(config, unit, setting, results)
                if curve is not None:
                    curves.append(curve)
            if contender.spec.step_size != "rate":
                entries += _untuned(config, contender, setting, own, failed)
                continue
            made = _tuned(config, contender, setting, own, failed)
            at_base = at_base or made
            entries += made
            others: list[tuple[plan.Unit, plan.Results, float, Tuning]] = []
            for unit, results in here:
                moved = rates.get((contender.label, unit.program.schedule))
                if unit.published_rate is not None:
                    others.append((unit, results, unit.published_rate, "published"))
                elif moved is not None and len(config.settings) > 1:
                    others.insert(0, (unit, results, moved, "transferred"))
            for unit, results, rate, kind in others:
                entry = _entry(config, unit, setting, results, rate, kind, failed)
                if entry is not None and kind == "transferred" and at_base:
                    # As sure as where it was found.
                    interior = at_base[0].interior
                    entry = dataclasses.replace(entry, interior=interior)
                entries += [] if entry is None else [entry]
    return entries, curves, list(everything.values())


def _untuned(config, contender, setting, units, failed) -> list[Entry]:
    """Make the entry of a contender with nothing to tune at a setting."""
    fixed = contender.spec.step_size == "fixed"
    rate = contender.grid[0] if fixed else 1.0
    kind: Tuning = "fixed" if fixed else "untouched"
    made = [_entry(config, u, setting, r, rate, kind, failed) for u, r in units]
    there = [entry for entry in made if entry is not None]
    # The schedule, of several, is chosen as where rates are tuned too.
    looked = slice(config.tuning_seeds)
    return sorted(there, key=lambda e: float(np.mean(e.scores()[looked])))[:1]


def _tuned(config, contender, setting, units, failed) -> list[Entry]:
    """Make the entry of a contender at the rate, and schedule, found at a setting."""
    # A grid of one rate that is not refined tunes nothing.
    alone = len(contender.grid) == 1 and not config.tuning_refinements
    kind: Tuning = "fixed" if alone else "per_cell"
    best, entry, runs = math.inf, None, 0
    for unit, results in units:
        search = plan.search(config, unit, setting, results, failed[unit.label])
        if search.reported is None:
            continue
        runs += 0 if alone else len(search.rates) * config.tuning_seeds
        made = _entry(config, unit, setting, results, search.reported, kind, failed)
        loss = min(search.losses.values())
        if made is not None and (entry is None or loss < best):
            best = loss
            interior = None if alone else search.interior
            entry = dataclasses.replace(made, interior=interior)
    if entry is None:
        return []
    steps = runs * setting.horizon_steps
    return [dataclasses.replace(entry, tuning_runs=runs, tuning_steps=steps)]


def _entry(
    config: axes.SweepConfig,
    unit: plan.Unit,
    setting: axes.Setting,
    results: plan.Results,
    rate: float,
    kind: Tuning,
    failed: Mapping[str, plan.Failed],
) -> Entry | None:
    """Make an entry; None while runs are missing that have not failed."""
    bad = failed[unit.label]
    seeds = [s for s in range(config.num_seeds) if (rate, s) not in bad]
    there = [results[rate, seed] for seed in seeds if (rate, seed) in results]
    if len(there) < len(seeds) or not there:
        return None
    return Entry(
        setting=setting,
        contender=unit.contender,
        tuning=kind,
        schedule=unit.program.schedule,
        learning_rate=rate,
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
