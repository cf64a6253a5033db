"""Runs one unit of a sweep to its end: compile, search, train, write."""

import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax

import tasks
from evaluate.sweep import axes, costs, failures, plan, training
from evaluate.sweep import cells as cells_lib

OnProgress = Callable[[float, str], None]  # Fraction of the unit done, and a line.

# What the last unit of this process was about: the next one is often of the same task.
_kept: dict[str, Any] = {}


def present(
    config: axes.SweepConfig,
    unit: plan.Unit,
    folder: pathlib.Path,
    rates: Mapping[axes.Setting, float],
    failed: plan.Failed = frozenset(),
) -> tuple[dict[tuple[float, int], cells_lib.CellResult], list[cells_lib.Cell]]:
    """Read the results that a unit has, as far as its search leads.

    Args:
      config: The sweep.
      unit: Whose.
      folder: Holds the result files.
      rates: Transferred ones, by setting; see :func:`evaluate.sweep.plan.rates_for`.
      failed: What could not be run: the search goes on without it.

    Returns:
      The results, and the cells that are wanted and missing by now.
    """
    found: dict[tuple[float, int], cells_lib.CellResult] = {}
    missing = _read_wanted(config, unit, folder, rates, found, set(), failed)
    return found, missing


def _read_wanted(
    config: axes.SweepConfig,
    unit: plan.Unit,
    folder: pathlib.Path,
    rates: Mapping[axes.Setting, float],
    found: dict[tuple[float, int], cells_lib.CellResult],
    looked: set[cells_lib.Cell],
    failed: Collection[tuple[float, int]],
) -> list[cells_lib.Cell]:
    """Add to ``found`` what is wanted and there; return the cells that are missing.

    The search goes on with every result, and what it then wants may be there as well.
    """
    # Where it was validated besides is another configuration's business.
    steps = sorted({setting.horizon_steps for setting in unit.settings})
    while True:
        cells = plan.wanted(
            config, unit, found, transferred=rates, failed=frozenset(failed)
        )
        new = [cell for cell in cells if cell not in looked]
        if not new:
            keys = {*found, *failed}
            return [c for c in cells if (c.learning_rate, c.seed) not in keys]
        for cell in new:
            looked.add(cell)
            result = cells_lib.read(folder, cell, steps)
            if result is not None:
                found[cell.learning_rate, cell.seed] = result


def run_unit(
    config: axes.SweepConfig,
    unit: plan.Unit,
    folder: pathlib.Path,
    rates: Mapping[axes.Setting, float],
    on_progress: OnProgress = lambda frac, text: None,
) -> tuple[int, list[failures.Failure]]:
    """Compute a unit's missing cells.

    Args:
      config: The sweep.
      unit: What to run.
      folder: Gets the results.
      rates: Transferred ones, by setting.
      on_progress: Called now and then.

    Returns:
      How many cells were run, and what failed.

    Raises:
      OSError: If a result cannot be written.
    """
    found: dict[tuple[float, int], cells_lib.CellResult] = {}
    looked: set[cells_lib.Cell] = set()
    failed: dict[tuple[float, int], failures.Failure] = {}
    trainer, count, expected = None, 0, 1
    while True:
        missing = _read_wanted(config, unit, folder, rates, found, looked, failed)
        if not missing:
            if not failed:
                failures.clear(folder, failures.of_unit(unit, ""))
            return count, list(failed.values())
        if trainer is None:
            expected = max(1, plan.expected_cells(config, unit) - len(found))
            on_progress(0.0, f"{unit.label}: compiling")
            try:
                trainer = _compile(config, unit, len(missing))
            except Exception as error:
                _kept.clear()
                failure = failures.of_unit(unit, f"{type(error).__name__}: {error}")
                failures.write(folder, failure)
                return count, [failure]
        lanes = missing[: trainer.lanes]

        before = count / expected
        share = len(lanes) / expected / unit.program.horizon_steps

        def on_chunk(
            steps: int, loss: float, lanes=lanes, before=before, share=share
        ) -> None:
            frac = before + share * steps
            first = lanes[0]
            text = f"rate {first.learning_rate:g}, seed {first.seed}, loss {loss:.3f}"
            on_progress(min(0.99, frac), f"{unit.label}: {text}")

        try:
            outcome = trainer.run(
                [cell.learning_rate for cell in lanes],
                [cell.seed for cell in lanes],
                on_chunk,
            )
        except Exception as error:
            for cell in lanes:
                reason = f"{type(error).__name__}: {error}"
                failure = failures.of_cell(unit, cell, reason)
                failures.write(folder, failure)
                failed[cell.learning_rate, cell.seed] = failure
            continue
        for i, cell in enumerate(lanes):
            result = _result(trainer, outcome, i, cell)
            cells_lib.write(folder, result)
            failures.clear(folder, failures.of_cell(unit, cell, ""))
            found[cell.learning_rate, cell.seed] = result
        count += len(lanes)


def _result(
    trainer: training.TrainingProgram,
    outcome: training.Outcome,
    lane: int,
    cell: cells_lib.Cell,
) -> cells_lib.CellResult:
    return cells_lib.CellResult(
        cell=cell,
        losses=outcome.losses[lane],
        valid_steps=outcome.valid_steps,
        valid_losses=outcome.valid_losses[lane],
        valid_accuracies=outcome.valid_accuracies[lane],
        chance_loss=trainer.task.chance_loss,
        secs_per_step=outcome.secs_per_step,
        lanes=trainer.lanes,
        activation_changes={
            name: values[lane] for name, values in outcome.activation_changes.items()
        },
    )


def _compile(
    config: axes.SweepConfig, unit: plan.Unit, num_cells: int
) -> training.TrainingProgram:
    program = unit.program
    lanes = num_lanes(config, unit, num_cells)
    key = (program.task, program.batch_size, lanes, program.activations)
    if _kept.get("key") != key:
        data = _kept.get("data")
        task = tasks.get(
            program.task,
            batch_size=program.batch_size,
            data_dir=config.data_dir or None,
            data_budget_bytes=config.data_budget_bytes,
        )
        if data is None or _kept.get("dataset") != task.dataset.name:
            data = training.Data.put(task.dataset)
        _kept.clear()
        programs = training.TaskPrograms(
            task, data, lanes=lanes, activations=program.activations
        )
        _kept.update(key=key, data=data, dataset=task.dataset.name, programs=programs)
    return training.TrainingProgram(
        _kept["programs"],
        program.optimizer,
        horizon_steps=program.horizon_steps,
        hyper=dict(program.hyper),
        pretrained=unit.contender.pretrained,
        schedule=program.schedule,
        valid_steps=plan.valid_steps(config, unit),
    )


def num_lanes(config: axes.SweepConfig, unit: plan.Unit, num_cells: int) -> int:
    """Return how many runs of a unit go side by side in one program.

    On CPUs one, unless the configuration says otherwise; on accelerators as many as the
    memory budget holds. Rules that do something expensive every few steps go alone.
    """
    if not unit.contender.spec.side_by_side:
        return 1
    limit = config.lanes
    if not limit:
        if jax.default_backend() == "cpu":
            return 1
        memory = costs.of_unit(config, unit).bytes_per_run
        limit = max(1, int(config.memory_budget_bytes // memory))
    return max(1, min(limit, num_cells))


def forget() -> None:
    """Drop the programs and data kept from the last unit."""
    _kept.clear()
