"""Small sweeps for tests, and made-up results of their cells: nothing is trained."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from configs.evaluate import base
from evaluate.optimizers import names, random_thetas
from evaluate.optimizers import thetas as thetas_lib
from evaluate.report import entries
from evaluate.sweep import axes, cells, contenders, plan, readings

TASK = "mlp-d1-synthetic:4x4x1:3"
CHANCE = math.log(3)
SIZES = (512, 128)  # Training and validation examples.

# Final training loss of a unit at a rate and a seed; NaN: the run overflows.
Loss = Callable[[plan.Unit, float, int], float]


def config_dict(**changes: Any):
    """Return a configuration of two widths and a few steps."""
    c = base.sweep()
    c.tasks = (TASK,)
    c.widths = (4, 8)
    c.horizons = (20,)
    c.optimizers = ("mu_adam",)
    c.num_seeds = 2
    c.batch_examples = 8
    c.tuning_refinements = 0
    c.lambdas = ()
    c.valid_points = 2
    c.bootstrap_samples = 50
    c.jobs = 1
    for field, value in changes.items():
        if isinstance(value, dict):
            for name, item in value.items():
                c[field][name] = item
        else:
            c[field] = value
    return c


def config(**changes: Any) -> axes.SweepConfig:
    """Return it as the sweep sees it."""
    return axes.SweepConfig.from_dict(config_dict(**changes).to_dict())


def contender(name: str, **changes: Any) -> contenders.Contender:
    """Make a contender without entering a sweep; learned ones get a random theta."""
    spec = names.get(name)
    theta = None
    if spec.learned and "theta" not in changes:
        theta = thetas_lib.Theta(random_thetas.pretrained(name), "made-up")
    values: dict[str, Any] = {
        "label": name,
        "spec": spec,
        "schedules": (spec.schedule,),
        "grid": spec.grid,
        "hyper": (),
        "theta": theta,
        "theta_sha256": "0" * 64 if theta else "",
        "needs_num_steps": spec.needs_num_steps,
    }
    return contenders.Contender(**(values | changes))


def units(
    config: axes.SweepConfig, entered: Sequence[contenders.Contender] | None = None
) -> list[plan.Unit]:
    """List the programs of a sweep, without looking at data."""
    if entered is None:
        entered, _ = contenders.enter(config)
    sizes = dict.fromkeys((s.task for s in config.settings), SIZES)
    return plan.units(config, entered, sizes)


def curve(final: float, steps: int) -> np.ndarray:
    """Fall from chance to the final loss at half time and stay; NaN: overflow there."""
    time = np.arange(steps) / max(1, steps // 2)
    if math.isnan(final):
        return np.where(time < 1, CHANCE, np.nan)
    return np.where(time < 1, CHANCE + (final - CHANCE) * time, final)


def result(
    cell: cells.Cell,
    final: float,
    valid_steps: Sequence[int] | None = None,
    secs: float = 0.01,
) -> cells.CellResult:
    """Make up a run; validation loss is a tenth above the final training loss."""
    steps = cell.program.horizon_steps
    at = np.array([steps] if valid_steps is None else valid_steps, np.int32)
    return cells.CellResult(
        cell=cell,
        losses=np.asarray(curve(final, steps), np.float32),
        valid_steps=at,
        valid_losses=np.full(len(at), final + 0.1, np.float32),
        valid_accuracies=np.full(len(at), 0.5, np.float32),
        chance_loss=CHANCE,
        secs_per_step=secs,
        lanes=1,
    )


def finish(
    config: axes.SweepConfig, unit: plan.Unit, loss: Loss, transferred: Any = None
) -> dict[tuple[float, int], cells.CellResult]:
    """Make up every cell that a unit wants, search included."""
    found: dict[tuple[float, int], cells.CellResult] = {}
    steps = plan.valid_steps(config, unit)
    while True:
        wanted = plan.wanted(config, unit, found, transferred=transferred or {})
        new = [c for c in wanted if (c.learning_rate, c.seed) not in found]
        if not new:
            return found
        for cell in new:
            final = loss(unit, cell.learning_rate, cell.seed)
            key = cell.learning_rate, cell.seed
            found[key] = result(cell, final, steps)


def entry(
    who: contenders.Contender,
    setting: axes.Setting,
    finals: Sequence[float],
    tuning: Any = None,
    secs: float = 0.01,
    **changes: Any,
) -> entries.Entry:
    """Make up an entry from its final losses by seed; NaN: it overflows."""
    if tuning is None:
        tuning = {"rate": "per_cell", "lambda": "untouched", "fixed": "fixed"}[
            who.spec.step_size
        ]
    program = cells.Program(
        task=setting.task.twin() if who.spec.standard else setting.task,
        optimizer=who.optimizer,
        schedule=who.schedules[0],
        hyper=who.hyper,
        horizon_steps=setting.horizon_steps,
        batch_size=setting.batch_examples,
        theta_sha256=who.theta_sha256,
        num_train_examples=SIZES[0],
        num_valid_examples=SIZES[1],
    )
    rate = who.grid[0]
    runs = [
        result(cells.Cell(program=program, learning_rate=rate, seed=i), x, secs=secs)
        for i, x in enumerate(finals)
    ]
    values: dict[str, Any] = {
        "setting": setting,
        "contender": who,
        "tuning": tuning,
        "schedule": who.schedules[0],
        "learning_rate": rate,
        "interior": True if tuning == "per_cell" else None,
        "tuning_runs": 0,
        "tuning_steps": 0,
        "readings": tuple(readings.read_off(r, setting.horizon_steps) for r in runs),
    }
    return entries.Entry(**(values | changes))


def study(
    config: axes.SweepConfig,
    made: Sequence[entries.Entry],
    rate_curves: Sequence[entries.RateCurve] = (),
    **changes: Any,
) -> entries.Study:
    """Put entries together."""
    values: dict[str, Any] = {
        "config": config,
        "settings": config.settings,
        "contenders": tuple({e.label: e.contender for e in made}.values()),
        "not_run": (),
        "failures": (),
        "entries": tuple(made),
        "rate_curves": tuple(rate_curves),
        "num_cells": sum(len(e.readings) for e in made),
        "num_diverged_cells": sum(e.num_diverged for e in made),
    }
    return entries.Study(**(values | changes))
