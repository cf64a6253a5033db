"""What a sweep has to run: programs, and which of their cells are wanted by now.

A *unit* is a compiled program and the settings it serves. Which cells it needs depends
on what has been found so far (tuning, and rates transferred from the base setting), so
:func:`wanted` is asked again and again until it names nothing that is missing.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import tasks
from evaluate.optimizers import published
from evaluate.sweep import axes, contenders, readings, tuning
from evaluate.sweep import cells as cells_lib

Results = Mapping[tuple[float, int], cells_lib.CellResult]  # By rate and seed.
Sizes = Mapping[tasks.names.TaskName, tuple[int, int]]  # Training and validation.
Failed = frozenset[tuple[float, int]]  # Rates and seeds that could not be run.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """Cells of one program, and the settings whose numbers come from them."""

    contender: contenders.Contender
    program: cells_lib.Program
    settings: tuple[axes.Setting, ...]  # More than one: horizons read off one run.
    published_rate: float | None = None  # Of a program that repeats published numbers.

    @property
    def label(self) -> str:
        """For people: the task, the contender and the schedule."""
        kind = "" if self.published_rate is None else " (published)"
        return (
            f"{self.program.task} {self.contender.label}{kind} "
            f"{self.program.schedule} × {self.program.horizon_steps:,}"
        )

    def cell(self, rate: float, seed: int) -> cells_lib.Cell:
        """Return the cell of a rate and a seed."""
        return cells_lib.Cell(program=self.program, learning_rate=rate, seed=seed)


def units(
    config: axes.SweepConfig,
    entered: Sequence[contenders.Contender],
    sizes: Sizes,
) -> list[Unit]:
    """List the programs of a sweep, those of the base setting first.

    Args:
      config: The sweep.
      entered: Its contenders.
      sizes: Examples of every task's data, as :func:`data_sizes` gives them.
    """
    found: dict[tuple[str, cells_lib.Program], list[axes.Setting]] = {}
    rates: dict[tuple[str, cells_lib.Program], float] = {}
    who = {contender.label: contender for contender in entered}
    for contender in entered:
        for setting in config.settings:
            for schedule in contender.schedules:
                program = _program(config, contender, setting, schedule, sizes)
                found.setdefault((contender.label, program), []).append(setting)
            row = None
            # With the rule's usual schedule only.
            usual = contender.spec.schedule
            if config.published and contender.spec.step_size == "rate":
                row = published.find(contender.optimizer, setting.task)
            if row is not None and usual in contender.schedules:
                program = _program(config, contender, setting, usual, sizes)
                hyper = dict(contender.hyper) | dict(row.hyper)
                program = dataclasses.replace(
                    program, hyper=tuple(sorted(hyper.items()))
                )
                key = (f"{contender.label} published", program)
                who[key[0]] = contender
                found.setdefault(key, []).append(setting)
                rates[key] = row.learning_rate
    made = [
        Unit(
            contender=who[key[0]],
            program=key[1],
            settings=tuple(served),
            published_rate=rates.get(key),
        )
        for key, served in found.items()
    ]
    return sorted(made, key=lambda unit: config.base not in unit.settings)


def _program(
    config: axes.SweepConfig,
    contender: contenders.Contender,
    setting: axes.Setting,
    schedule: str,
    sizes: Sizes,
) -> cells_lib.Program:
    horizon = setting.horizon_steps
    if schedule == "constant" and not contender.needs_num_steps:
        # The run of the longest horizon serves the shorter ones.
        same = [s for s in config.settings if s.task == setting.task]
        horizon = max(s.horizon_steps for s in same)
    task = setting.task.twin() if contender.spec.standard else setting.task
    train, valid = sizes[setting.task]
    return cells_lib.Program(
        task=task,
        optimizer=contender.optimizer,
        schedule=schedule,
        hyper=contender.hyper,
        horizon_steps=horizon,
        batch_size=setting.batch_examples,
        theta_sha256=contender.theta_sha256,
        num_train_examples=train,
        num_valid_examples=valid,
        activations=config.activations,
    )


def data_sizes(config: axes.SweepConfig) -> Sizes:
    """Return training and validation examples of every task's data.

    Raises:
      ValueError: If data are missing or too large, or a task cannot have its size.
    """
    found: dict[tasks.names.TaskName, tuple[int, int]] = {}
    for setting in config.settings:
        if setting.task not in found:
            dataset = tasks.get(
                setting.task,
                data_dir=config.data_dir or None,
                data_budget_bytes=config.data_budget_bytes,
            ).dataset
            train, valid = (
                dataset.num_examples(dataset.arrays(s)) for s in ("train", "valid")
            )
            found[setting.task] = train, valid
    return found


def valid_steps(config: axes.SweepConfig, unit: Unit) -> list[int]:
    """Return when a unit's runs are validated: evenly along every horizon served."""
    horizons = {setting.horizon_steps for setting in unit.settings}
    even = {
        max(1, round(horizon * (i + 1) / config.valid_points))
        for horizon in (*horizons, unit.program.horizon_steps)
        for i in range(config.valid_points)
    }
    return sorted(even | horizons)


def tuning_losses(
    config: axes.SweepConfig, setting: axes.Setting, results: Results
) -> dict[float, float]:
    """Return the loss that rates are chosen by, at a setting.

    Args:
      config: Says how many seeds tuning looks at.
      setting: Served by the results' program.
      results: Of one unit.

    Returns:
      Mean final training loss over the tuning seeds by rate, infinite where one
      diverged; only of rates with all of these seeds.
    """
    found = {}
    for rate in sorted({rate for rate, _ in results}):
        runs = [results.get((rate, seed)) for seed in range(config.tuning_seeds)]
        read = [
            readings.read_off(run, setting.horizon_steps)
            for run in runs
            if run is not None
        ]
        if len(read) == config.tuning_seeds:
            bad = any(reading.diverged for reading in read)
            mean = sum(reading.final_train_loss for reading in read) / len(read)
            found[rate] = math.inf if bad else mean
    return found


def wanted(
    config: axes.SweepConfig,
    unit: Unit,
    results: Results,
    *,
    transferred: Mapping[axes.Setting, float],
    failed: Failed = frozenset(),
) -> list[cells_lib.Cell]:
    """Return the cells that a unit needs, as far as can be said by now.

    Args:
      config: The sweep.
      unit: Whose cells.
      results: What it has.
      transferred: Rates found at the base setting, by setting served; left out while
        they are not known.
      failed: Rates and seeds that could not be run; their rates count as diverged.

    Returns:
      Cells, those that are there included; a unit is done when none is missing.
    """
    every_seed = range(config.num_seeds)
    tuning_seeds = range(config.tuning_seeds)
    pairs: dict[tuple[float, int], None] = {}

    def want(rates: Sequence[float], seeds: Sequence[int]) -> None:
        pairs.update({(rate, seed): None for rate in rates for seed in seeds})

    contender = unit.contender
    step_size = contender.spec.step_size
    if unit.published_rate is not None:
        want([unit.published_rate], every_seed)
    elif step_size == "fixed":
        want(contender.grid, every_seed)
    elif step_size == "lambda":
        if any(_has_lambdas(config, setting) for setting in unit.settings):
            want(contender.grid, tuning_seeds)
        want([1.0], every_seed)
    else:
        for setting in unit.settings:
            looked = search(config, unit, setting, results, failed)
            want(looked.rates, tuning_seeds)
            if looked.reported is not None:
                want([looked.reported], every_seed)
            if setting in transferred:
                want([transferred[setting]], every_seed)
    return [unit.cell(rate, seed) for rate, seed in pairs]


@dataclasses.dataclass(frozen=True)
class Search:
    """How far the search for a learning rate has come at a setting."""

    rates: tuple[float, ...]  # Looked at, and those to look at next.
    losses: Mapping[float, float]  # Tuning loss of those known; infinite: diverged.

    @property
    def done(self) -> bool:
        """Whether nothing is left to look at."""
        return len(self.losses) == len(self.rates)

    @property
    def found(self) -> float | None:
        """The best rate; None while not done, or where every rate diverged."""
        return tuning.best_rate(self.losses) if self.done else None

    @property
    def reported(self) -> float | None:
        """The rate that a report shows: where all diverged, the smallest."""
        return (self.found or min(self.rates)) if self.done else None

    @property
    def interior(self) -> bool:
        """Whether the best rate is bracketed."""
        return tuning.is_interior(self.losses)


def search(
    config: axes.SweepConfig,
    unit: Unit,
    setting: axes.Setting,
    results: Results,
    failed: Failed = frozenset(),
) -> Search:
    """Replay the search at a setting as far as results go.

    Rates run for another horizon, or as transferred ones, are no part of it unless it
    asks for them: else it would depend on their order.

    Args:
      config: The sweep.
      unit: One that tunes.
      setting: Served by it.
      results: What it has.
      failed: Rates and seeds that could not be run; their rates count as diverged.
    """
    losses = tuning_losses(config, setting, results)
    losses |= {rate: math.inf for rate, _ in failed}
    known: dict[float, float] = {}
    while True:
        following = tuning.next_rates(
            known, unit.contender.grid, config.tuning_refinements
        )
        if any(rate not in losses for rate in following):
            looked = (*known, *following)
            return Search(looked, {r: losses[r] for r in looked if r in losses})
        if not following:
            return Search(tuple(known), known)
        known |= {rate: losses[rate] for rate in following}


def transfers(config: axes.SweepConfig, unit: Unit) -> bool:
    """Whether a unit needs rates from the base setting."""
    return (
        config.transfer
        and unit.contender.spec.step_size == "rate"
        and unit.published_rate is None
    )


def rates_for(
    config: axes.SweepConfig,
    unit: Unit,
    rates: Mapping[tuple[str, str], float],
) -> dict[axes.Setting, float]:
    """Return a unit's transferred rates by setting.

    Args:
      config: The sweep.
      unit: Of it.
      rates: Found at the base setting, by contender's label and schedule.
    """
    rate = rates.get((unit.contender.label, unit.program.schedule))
    if rate is None or not transfers(config, unit):
        return {}
    return {setting: rate for setting in unit.settings}


def _has_lambdas(config: axes.SweepConfig, setting: axes.Setting) -> bool:
    return config.lambdas_at == "all" or (
        config.lambdas_at == "base" and setting == config.base
    )


def expected_cells(config: axes.SweepConfig, unit: Unit) -> int:
    """Guess how many cells a unit will have run in the end: a typical search."""
    seeds = config.num_seeds
    contender = unit.contender
    if unit.published_rate is not None or contender.spec.step_size == "fixed":
        return seeds
    if contender.spec.step_size == "lambda":
        has = any(_has_lambdas(config, setting) for setting in unit.settings)
        extra = (len(contender.grid) - 1) * config.tuning_seeds if has else 0
        return seeds + extra
    looks = len(contender.grid) + min(2, config.tuning_refinements)
    count = looks * config.tuning_seeds + (seeds - config.tuning_seeds)
    if config.transfer and config.base not in unit.settings:
        count += seeds // 2  # Often the rate is the one found, or was looked at.
    return count
