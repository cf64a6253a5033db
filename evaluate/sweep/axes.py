"""The axes of a sweep: task × width × depth × horizon, and what competes on them.

A *setting* is a point of the first four axes: a task at a width and a depth, trained
for a number of steps. Optimizers, schedules, learning rates and seeds are compared
within a setting. The first value of every axis is the *base*, by convention the size
of meta-training: learning rates found there are transferred to all other settings.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import tasks
from evaluate.optimizers import names as optimizers
from evaluate.optimizers import schedules

DESIGNS = ("product", "star")
LAMBDAS_AT = ("base", "all", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Where optimizers are compared."""

    task: tasks.names.TaskName  # Under μP, with width and depth.
    horizon_steps: int
    batch_examples: int

    @property
    def width(self) -> int:
        """Units per hidden layer."""
        assert self.task.width is not None
        return self.task.width

    @property
    def depth(self) -> int:
        """Layers before the readout."""
        assert self.task.depth is not None
        return self.task.depth

    @property
    def family(self) -> str:
        """The task without its sizes: what stays the same along width and depth."""
        return f"{self.task.kind}{self.task.written_options}-{self.task.data}"

    @property
    def label(self) -> str:
        """As reports write it: ``mlp-w32-d3-digits, 1,000 steps``."""
        return f"{self.task}, {self.horizon_steps:,} steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What a sweep trains; ``configs/evaluate/base.py`` documents each field.

    Raises:
      ValueError: If a field breaks its rule; the message names it.
    """

    tasks: tuple[str, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    horizons: tuple[int, ...]
    design: str
    optimizers: tuple[str, ...]
    optional: tuple[str, ...]
    thetas: tuple[str, ...]
    schedules: tuple[str, ...]
    num_seeds: int
    batch_examples: int
    batch_examples_of: Mapping[str, int]
    learning_rates: Mapping[str, tuple[float, ...]]
    hyper: Mapping[str, optimizers.Hyper]  # Whole, once it is here.
    tuning_seeds: int
    tuning_refinements: int
    transfer: bool
    published: bool
    lambdas: tuple[float, ...]
    lambdas_at: str
    valid_points: int
    activations: bool
    data_dir: str
    data_budget_bytes: int
    memory_budget_bytes: int
    jobs: int
    lanes: int
    reference_curves: str
    bootstrap_samples: int
    confidence_frac: float
    bootstrap_seed: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SweepConfig":
        """Build from a configuration's dictionary; lists become tuples."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        values["learning_rates"] = {
            name: _numbers(f"learning_rates.{name}", grid)
            for name, grid in values["learning_rates"].items()
        }
        return cls(**values)

    @classmethod
    def for_one(
        cls,
        *,
        task: str,
        optimizer: str,
        widths: tuple[int, ...],
        learning_rates: tuple[float, ...],
        schedule: str,
        num_seeds: int,
        horizon_steps: int,
        batch_examples: int,
        data_dir: str = "",
    ) -> "SweepConfig":
        """Build a sweep of one optimizer over widths and learning rates, all seeds."""
        return cls(
            tasks=(task,),
            widths=widths,
            depths=(),
            horizons=(horizon_steps,),
            design="product",
            optimizers=(optimizer,),
            optional=(),
            thetas=(),
            schedules=(schedule,),
            num_seeds=num_seeds,
            batch_examples=batch_examples,
            batch_examples_of={},
            learning_rates={optimizer: learning_rates},
            hyper={},
            tuning_seeds=num_seeds,
            tuning_refinements=0,
            transfer=False,
            published=False,
            lambdas=(),
            lambdas_at="none",
            valid_points=1,
            activations=False,
            data_dir=data_dir,
            data_budget_bytes=tasks.data.DATA_BUDGET_BYTES,
            memory_budget_bytes=4 << 30,
            jobs=0,
            lanes=0,
            reference_curves="",
            bootstrap_samples=1,
            confidence_frac=0.95,
            bootstrap_seed=0,
        )

    def __post_init__(self):
        self._check_items()
        self._check_sizes()
        self._check_optimizers()
        whole = {k: optimizers.resolve_hyper(k, v) for k, v in self.hyper.items()}
        object.__setattr__(self, "hyper", whole)
        _ = self.settings  # Bad tasks are found now.

    def _check_items(self) -> None:
        for field in dataclasses.fields(self):
            kind = {"tuple[int, ...]": int, "tuple[str, ...]": str}.get(str(field.type))
            for item in getattr(self, field.name) if kind else ():
                if type(item) is not kind:
                    what = "whole numbers" if kind is int else "texts"
                    raise ValueError(f"{field.name} must be {what}; got {item!r}.")

    def _check_sizes(self) -> None:
        for field in ("tasks", "horizons", "optimizers", "schedules"):
            if not getattr(self, field):
                raise ValueError(f"{field} must not be empty.")
        for field in ("tasks", "widths", "depths", "horizons", "optimizers"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"{field} must be distinct; got {values}.")
        counts: dict[str, int] = {
            field: getattr(self, field)
            for field in (
                "num_seeds",
                "batch_examples",
                "tuning_seeds",
                "bootstrap_samples",
                "memory_budget_bytes",
                "valid_points",
            )
        }
        counts |= {f"horizons[{i}]": x for i, x in enumerate(self.horizons)}
        for kind, examples in self.batch_examples_of.items():
            if kind not in tasks.names.KINDS:
                raise ValueError(
                    f"batch_examples_of.{kind}: no such kind of task; known: "
                    f"{', '.join(tasks.names.KINDS)}."
                )
            counts[f"batch_examples_of.{kind}"] = examples
        for field, count in counts.items():
            if count < 1:
                raise ValueError(f"{field} must be >= 1; got {count}.")
        for field in ("jobs", "lanes", "tuning_refinements"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} must be >= 0; got {getattr(self, field)}.")
        if self.tuning_seeds > self.num_seeds:
            raise ValueError(
                f"tuning_seeds must be <= num_seeds; got {self.tuning_seeds} and "
                f"{self.num_seeds}."
            )
        if not 0 < self.confidence_frac < 1:
            raise ValueError(
                f"confidence_frac must lie in (0, 1); got {self.confidence_frac}."
            )
        for field, known in (("design", DESIGNS), ("lambdas_at", LAMBDAS_AT)):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"{field} must be one of {', '.join(known)}; got "
                    f"{getattr(self, field)!r}."
                )

    def _check_optimizers(self) -> None:
        for name in self.schedules:
            schedules.check(name)
        for name in self.optional:
            optimizers.get(name)
        for name in self.optimizers:
            optimizers.get(name)
            _check_grid(f"learning_rates.{name}", self.grid(name))
        if self.lambdas:
            _check_grid("lambdas", self.lambdas)
        for name in self.learning_rates:
            optimizers.get(name)

    def grid(self, optimizer: str) -> tuple[float, ...]:
        """Return the learning rates that tuning ``optimizer`` begins with."""
        default = optimizers.get(optimizer).grid
        return tuple(self.learning_rates.get(optimizer, default))

    @functools.cached_property
    def settings(self) -> tuple[Setting, ...]:
        """The settings of the sweep, the base first."""
        return tuple(_settings(self))

    @property
    def base(self) -> Setting:
        """The setting that rates are transferred from."""
        return self.settings[0]


def _settings(config: SweepConfig) -> list[Setting]:
    """List the settings of a sweep, the base first.

    A task may bring its own horizon: ``mlp-w32-d3-digits@5000``.

    Raises:
      ValueError: If a task is malformed, lacks a width or a depth that no axis gives
        it, or an axis is given that no task needs.
    """
    names, own_horizons = [], []
    for given in config.tasks:
        task, at, steps = given.partition("@")
        name = tasks.names.parse(task)
        if at and (not steps.isdecimal() or int(steps) < 1):
            raise ValueError(
                f"tasks: after @ stands a number of steps, as in '{task}@5000'; got "
                f"{given!r}."
            )
        own_horizons.append((int(steps),) if at else ())
        if name.sp:
            raise ValueError(
                f"tasks must be μP names (the sweep trains the sp- twin itself); got "
                f"{given!r}."
            )
        names.append(name)
    for field in ("width", "depth"):
        free = [name for name in names if getattr(name, field) is None]
        values = getattr(config, f"{field}s")
        if free and not values:
            raise ValueError(
                f"{field}s must not be empty: {str(free[0])!r} has no {field} of its "
                "own."
            )
        if values and not free:
            raise ValueError(
                f"{field}s={values} are used by no task: each has a {field} of its "
                "own; leave one out of the task's name."
            )
        if values and min(values) < 1:
            raise ValueError(f"{field}s must be >= 1; got {values}.")
    found: dict[Setting, None] = {}
    for name, own_horizon in zip(names, own_horizons, strict=True):
        axes = (
            config.widths if name.width is None else (name.width,),
            config.depths if name.depth is None else (name.depth,),
            own_horizon or config.horizons,
        )
        for width, depth, horizon in _points(config.design, axes):
            setting = Setting(
                task=name.at_width(width).at_depth(depth),
                horizon_steps=horizon,
                batch_examples=config.batch_examples_of.get(
                    name.kind, config.batch_examples
                ),
            )
            found[setting] = None
    return list(found)


def _points(design: str, axes: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Combine axes: all with all, or one varied at a time around the first values."""
    if design == "product":
        return list(itertools.product(*axes))
    base = tuple(values[0] for values in axes)
    points = {base: None}
    for axis, values in enumerate(axes):
        for value in values:
            points[(*base[:axis], value, *base[axis + 1 :])] = None
    return list(points)


def _numbers(field: str, items: Sequence[Any]) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in items)
    except (TypeError, ValueError):
        raise ValueError(
            f"{field} must be numbers, like (0.01, 0.02); got {items!r}."
        ) from None


def _check_grid(field: str, grid: Sequence[float]) -> None:
    finite = all(math.isfinite(rate) for rate in grid)
    if not grid or not finite or min(grid) <= 0 or list(grid) != sorted(set(grid)):
        raise ValueError(f"{field} must be positive and rising; got {tuple(grid)}.")
