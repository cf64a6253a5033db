"""A sweep over widths, optimizers, learning rates and seeds, as resumable cells."""

import dataclasses
import itertools
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

import mulo
import tasks
from evaluate import cells as cells_lib
from evaluate import optimizers, training

_LANES_ON_ACCELERATOR = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What a sweep trains; ``configs/evaluate_width.py`` documents each field.

    Raises:
      ValueError: If a field breaks its rule; the message names it.
    """

    task: str
    widths: tuple[int, ...]
    optimizers: tuple[str, ...]
    learning_rates: Mapping[str, tuple[float, ...]]
    untuned_learning_rates: Mapping[str, float]
    hyper: Mapping[str, Mapping[str, float]]
    num_seeds: int
    horizon_steps: int
    batch_examples: int
    data_dir: str
    data_budget_bytes: int
    lanes: int
    bootstrap_samples: int
    confidence_frac: float
    bootstrap_seed: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SweepConfig":
        """Build from a configuration's dictionary; lists become tuples."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        values["learning_rates"] = {
            name: tuple(float(x) for x in grid)
            for name, grid in values["learning_rates"].items()
        }
        return cls(**values)

    @classmethod
    def for_one(
        cls,
        *,
        optimizer: str,
        learning_rates: tuple[float, ...],
        **values: Any,
    ) -> "SweepConfig":
        """Build a sweep of one optimizer; what concerns several gets its default."""
        return cls(
            optimizers=(optimizer,),
            learning_rates={optimizer: learning_rates},
            untuned_learning_rates={},
            hyper={},
            data_budget_bytes=tasks.data.DATA_BUDGET_BYTES,
            lanes=0,
            bootstrap_samples=1,
            confidence_frac=0.95,
            bootstrap_seed=0,
            **values,
        )

    def __post_init__(self):
        name = tasks.names.parse(self.task)
        if name.width is not None or name.sp:
            raise ValueError(
                "task must be a μP template without a width, like mlp-d3-digits (the "
                f"sweep adds widths and trains the sp- twin itself); got {self.task!r}."
            )
        for field, values in (("widths", self.widths), ("optimizers", self.optimizers)):
            if not values or len(set(values)) < len(values):
                raise ValueError(
                    f"{field} must be distinct and not empty; got {values}."
                )
        for field in (
            "num_seeds",
            "horizon_steps",
            "batch_examples",
            "bootstrap_samples",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be >= 1; got {getattr(self, field)}.")
        if self.lanes < 0:
            raise ValueError(f"lanes must be >= 0 (0: automatic); got {self.lanes}.")
        if min(self.widths) < 2:
            raise ValueError(f"widths must be >= 2; got {self.widths}.")
        if not 0 < self.confidence_frac < 1:
            raise ValueError(
                f"confidence_frac must lie in (0, 1); got {self.confidence_frac}."
            )
        for name in self.optimizers:
            grid = self.grid(name)
            if not grid or min(grid) <= 0 or list(grid) != sorted(set(grid)):
                raise ValueError(
                    f"learning_rates.{name} must be positive and rising; got {grid}."
                )
        for field in ("learning_rates", "untuned_learning_rates", "hyper"):
            for name in getattr(self, field):
                optimizers.get(name)
        for name, hyper in self.hyper.items():
            optimizers.resolve_hyper(name, hyper)

    def grid(self, optimizer: str) -> tuple[float, ...]:
        """Return the learning rates ``optimizer`` is tuned over."""
        default = optimizers.get(optimizer).grid
        return tuple(self.learning_rates.get(optimizer, default))

    def task_name(self, optimizer: str, width: int) -> str:
        """Return the full name of the task that ``optimizer`` trains at ``width``."""
        name = tasks.names.parse(self.task).at_width(width)
        sp = optimizers.get(optimizer).standard
        return str(dataclasses.replace(name, sp=sp))


def plan(
    config: SweepConfig, thetas: Mapping[str, mulo.Pretrained]
) -> list[cells_lib.Cell]:
    """List every cell of a sweep, sorted.

    Args:
      config: The sweep.
      thetas: Theta of each learned optimizer, by the optimizer's name.

    Raises:
      ValueError: If a learned optimizer has no theta, or the data is unknown.
    """
    first = config.task_name(config.optimizers[0], config.widths[0])
    dataset = tasks.get(
        first,
        data_dir=config.data_dir or None,
        data_budget_bytes=config.data_budget_bytes,
    ).dataset
    sizes = {s: dataset.num_examples(dataset.arrays(s)) for s in ("train", "valid")}
    fingerprints = {}
    for name in config.optimizers:
        if optimizers.get(name).learned:
            if name not in thetas:
                which = "" if name == "mulo" else f"{name}="
                raise ValueError(
                    f"optimizer {name!r} needs a theta: give --theta={which}<folder>, "
                    f"or leave it out of --optimizers (now "
                    f"{','.join(config.optimizers)}); {which or 'mulo='}random is one "
                    "that was never meta-trained."
                )
            fingerprints[name] = optimizers.fingerprint(thetas[name])
    cells = []
    for name, width in itertools.product(config.optimizers, config.widths):
        program = cells_lib.Program(
            task=config.task_name(name, width),
            optimizer=name,
            hyper=tuple(
                sorted(
                    optimizers.resolve_hyper(name, config.hyper.get(name, {})).items()
                )
            ),
            horizon_steps=config.horizon_steps,
            batch_size=config.batch_examples,
            theta_sha256=fingerprints.get(name),
            num_train_examples=sizes["train"],
            num_valid_examples=sizes["valid"],
        )
        rates = set(config.grid(name))
        if name in config.untuned_learning_rates:
            rates.add(float(config.untuned_learning_rates[name]))
        cells += [
            cells_lib.Cell(program=program, learning_rate=rate, seed=seed)
            for rate in rates
            for seed in range(config.num_seeds)
        ]
    return sorted(cells)


def run(
    config: SweepConfig,
    cells: Sequence[cells_lib.Cell],
    thetas: Mapping[str, mulo.Pretrained],
    folder: pathlib.Path,
) -> int:
    """Compute the cells whose result is not in ``folder`` yet.

    Each result is written as soon as it is known, so that a killed sweep loses only
    what was being trained. A progress bar shows on terminals.

    Args:
      config: The sweep the cells belong to.
      cells: What to compute, a shard perhaps.
      thetas: Theta of each learned optimizer, by the optimizer's name.
      folder: Holds the result files.

    Returns:
      How many cells were computed.

    Raises:
      OSError: If a result cannot be written.
    """
    missing = [cell for cell in cells if cells_lib.read(folder, cell) is None]
    groups = [
        (program, list(group))
        for program, group in itertools.groupby(
            sorted(missing, key=lambda c: (width_of(c), c)), key=lambda c: c.program
        )
    ]
    lanes_limit = config.lanes or (
        1 if jax.default_backend() == "cpu" else _LANES_ON_ACCELERATOR
    )
    loaded = {
        name: tasks.get(
            name,
            batch_size=config.batch_examples,
            data_dir=config.data_dir or None,
            data_budget_bytes=config.data_budget_bytes,
        )
        for name in {program.task for program, _ in groups}
    }
    costs = {
        program: _step_cost(program, loaded[program.task]) for program, _ in groups
    }
    total = sum(costs[program] * len(group) for program, group in groups)
    with _bar(total * config.horizon_steps) as bar:
        data, programs = None, None
        for program, group in groups:
            bar.set_description(f"{program.task} {program.optimizer} (compiling)")
            task, lanes = loaded[program.task], min(lanes_limit, len(group))
            data = data or training.Data.put(task.dataset)
            if programs is None or (programs.task, programs.lanes) != (task, lanes):
                programs = training.TaskPrograms(task, data, lanes=lanes)
            trainer = training.TrainingProgram(
                programs,
                program.optimizer,
                horizon_steps=program.horizon_steps,
                hyper=dict(program.hyper),
                pretrained=thetas.get(program.optimizer),
            )
            for start in range(0, len(group), lanes):
                _run_lanes(
                    trainer, group[start : start + lanes], folder, bar, costs[program]
                )
    return len(missing)


def _run_lanes(
    trainer: training.TrainingProgram,
    lanes: Sequence[cells_lib.Cell],
    folder: pathlib.Path,
    bar: Any,
    cost: float,
) -> None:
    """Train some cells of one program side by side and write their results."""
    first = lanes[0]
    bar.set_description(f"{first.program.task} {first.program.optimizer}")
    before, begin, shown = bar.n, time.perf_counter(), 0

    def on_chunk(steps: int, loss: float) -> None:
        nonlocal shown
        rate = steps * len(lanes) / (time.perf_counter() - begin)
        bar.set_postfix_str(
            f"lr {first.learning_rate:g}, seed {first.seed}, loss {loss:.3f}, "
            f"{rate:,.0f} steps/s",
            refresh=False,
        )
        bar.update((steps - shown) * cost * len(lanes))
        shown = steps

    outcome = trainer.run(
        [cell.learning_rate for cell in lanes], [cell.seed for cell in lanes], on_chunk
    )
    for i, cell in enumerate(lanes):
        result = cells_lib.summarize_run(
            cell,
            outcome.losses[i],
            valid_loss=float(outcome.valid_loss[i]),
            valid_accuracy=float(outcome.valid_accuracy[i]),
            chance_loss=trainer.task.chance_loss,
            secs_per_step=outcome.secs_per_step,
            lanes=trainer.lanes,
        )
        cells_lib.write(folder, result)
    # Runs that blew up end early, but their share of the work is done.
    bar.update(before + cost * first.program.horizon_steps * len(lanes) - bar.n)


def _bar(total: float) -> Any:
    return tqdm.tqdm(
        total=total,
        disable=None,  # Silent when standard error is not a terminal.
        dynamic_ncols=True,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
    )


def width_of(cell: cells_lib.Cell) -> int:
    """Return the width of the task that a cell trains."""
    return tasks.names.parse(cell.program.task).width or 0


def _step_cost(program: cells_lib.Program, task: tasks.Task) -> float:
    """Guess the seconds of a step, for the time left: right up to a common factor."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    learned = optimizers.get(program.optimizer).learned
    positions = program.batch_size * task.positions
    per_parameter = (60e-9 if learned else 6e-9) + 6 * positions / 3e10
    return float(np.float64(1e-4 + count * per_parameter))
