"""The coordinate check: does an activation's change grow with width, or with depth?

A few steps of training move every pre-activation x by some amount. Under a correct μ
parametrization the typical size of a coordinate of x_t - x_0 does not depend on width;
under a wrong one it grows like a power of width, in some layer. So: fit that power, per
layer, and fail when it is above a threshold.

The same against depth, at one width, asks whether residual branches are scaled right.
With branches times ``depth ** -alpha``, steps of hidden weights must go like
``depth ** (alpha - 1)`` under Adam and other rules whose step does not depend on the
gradient's size: each of the ``depth`` branches then moves its stream by
``depth ** -alpha * depth ** (alpha - 1)``, all of them by Θ(1). At ``alpha=1``
(CompleteP) that is no correction at all, so those rules pass as they are. Gradients of
branches shrink like ``depth ** -alpha``, though: plain gradient descent would need a
larger step, and Adam's epsilon must stay below them.
Layers are compared by their place, see :func:`name_at_any_depth`. The stream after the
first block moves by one branch only, so that at ``alpha=1`` it shrinks, rightly.

What it cannot see: a wrong weight-decay rule, or a learning rate that is bad at every
width. Flat curves are necessary for transfer, not sufficient.

Two known effects are no failures. The readout starts at zero, so hidden layers stand
still at the first step; the verdict therefore uses the later half of the steps. And the
change of a layer may shrink with width, as that of the logits does early in training;
strong shrinking is reported as a warning.

References:
  Yang et al., `Tensor Programs V <https://arxiv.org/abs/2203.03466>`_, 2022, App. D.1.
  Dey et al., `CompleteP <https://arxiv.org/abs/2505.01618>`_, 2025, for depth.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import numpy as np

import mulo
import tasks
from evaluate.coord_check import training
from evaluate.optimizers import names
from evaluate.report import statistics

FEW_STEPS = 5  # Fewer decide nothing: the later half of them is a step or two.


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordConfig:
    """What a coordinate check trains and measures.

    Raises:
      ValueError: If a field breaks its rule; the message names it.
    """

    task: str  # A template, without a width or without a depth; "sp-…" for SP.
    optimizer: str
    widths: tuple[int, ...] = ()  # Default, without a width: the kind's own.
    depths: tuple[int, ...] = ()  # Likewise without a depth.
    num_steps: int = 10
    num_seeds: int = 3
    learning_rate: float | None = None  # None: the optimizer's own for this check.
    hyper: names.Hyper = dataclasses.field(default_factory=dict)  # Not defaults.
    batch_size: int = 64  # Examples.
    threshold: float = 0.3  # Largest power of width, or depth, that passes.
    data_dir: str | None = None

    def __post_init__(self):
        if self.name.width is not None and self.name.depth is not None:
            raise ValueError(
                "task must be a template without a width, like mlp-d3-digits, or "
                f"without a depth; got {self.task!r}."
            )
        _ = self.whole_hyper  # A wrong one is found now.
        other = "depths" if self.axis == "width" else "widths"
        if getattr(self, other):
            raise ValueError(
                f"{other} need a template without a {other[:-1]}; got {self.task!r}."
            )
        if len(set(self.sizes)) < 2 or min(self.sizes) < 2:
            raise ValueError(
                f"{self.axis}s must be two or more different ones >= 2; got "
                f"{self.sizes}."
            )
        for field in ("num_steps", "num_seeds", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be >= 1; got {getattr(self, field)}.")
        for field in ("rate", "threshold"):
            if not math.isfinite(getattr(self, field)):
                raise ValueError(f"{field} must be finite; got {getattr(self, field)}.")
        if self.num_steps < 2:
            raise ValueError(
                "num_steps must be >= 2, because a readout that starts at zero keeps "
                f"hidden layers still at the first step; got {self.num_steps}."
            )

    @functools.cached_property
    def name(self) -> tasks.names.TaskName:
        """The task's name, parsed."""
        return tasks.names.parse(self.task)

    @functools.cached_property
    def whole_hyper(self) -> names.Hyper:
        """The hyper-parameters, defaults filled in."""
        return names.resolve_hyper(self.optimizer, self.hyper)

    @property
    def axis(self) -> str:
        """What is varied: width or depth."""
        return "width" if self.name.width is None else "depth"

    @property
    def sizes(self) -> tuple[int, ...]:
        """The widths or depths, rising."""
        given = self.widths or self.depths
        kind = tasks.names.KINDS[self.name.kind]
        default = kind.widths if self.axis == "width" else kind.depths
        return tuple(sorted(set(given or default)))

    def task_name(self, size: int) -> tasks.names.TaskName:
        """Return the full name of the task of a width or depth."""
        if self.axis == "width":
            return self.name.at_width(size)
        return self.name.at_depth(size)

    @property
    def rate(self) -> float:
        """The learning rate used."""
        if self.learning_rate is not None:
            return self.learning_rate
        return names.get(self.optimizer).coord_learning_rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordResult:
    """How much each layer's pre-activations moved, and the fitted powers of size.

    Axis W is over the widths or depths, ``config.sizes``.
    """

    config: CoordConfig
    layers: tuple[str, ...]
    changes: np.ndarray  # (layers, W, T). RMS of x_t - x_0 at t = 1 … T, all seeds.
    slopes: np.ndarray  # (layers, T). Power of the size at each step; inf: not finite.
    verdicts: np.ndarray  # (layers,). Mean slope of the later half of the steps.

    @property
    def doubts(self) -> tuple[str, ...]:
        """What makes the check too small to decide, in words; none if it is not."""
        config = self.config
        found = []
        if len(config.sizes) == 2:
            found.append(
                f"two {config.axis}s make a line of any two numbers: give three or more"
            )
        if config.num_seeds == 1:
            found.append("one seed shows no spread: give --seeds=2 or more")
        if config.num_steps < FEW_STEPS:
            found.append(
                f"{config.num_steps} steps are too few for hidden layers to move: give "
                f"--steps={FEW_STEPS} or more"
            )
        return tuple(found)

    @property
    def growing(self) -> tuple[str, ...]:
        """Layers whose change grows faster with size than the threshold allows."""
        over = self.verdicts > self.config.threshold
        return tuple(layer for layer, bad in zip(self.layers, over, strict=True) if bad)

    @property
    def shrinking(self) -> tuple[str, ...]:
        """Layers whose change shrinks with size by more than the threshold."""
        under = self.verdicts < -self.config.threshold
        return tuple(
            layer for layer, bad in zip(self.layers, under, strict=True) if bad
        )

    def to_json(self) -> str:
        """Return everything as JSON; what is not finite becomes null."""

        def plain(array: np.ndarray) -> Any:
            values = array.astype(object)
            values[~np.isfinite(array)] = None
            return values.tolist()

        values = {
            "config": dataclasses.asdict(self.config)
            | {"learning_rate": self.config.rate},
            "passed": not self.growing,
            "growing": self.growing,
            "shrinking": self.shrinking,
            "doubts": self.doubts,
            "layers": self.layers,
            "axis": self.config.axis,
            "sizes": self.config.sizes,
            "slope_by_layer": dict(zip(self.layers, plain(self.verdicts), strict=True)),
            "slopes_by_layer_step": plain(self.slopes),
            "changes_by_layer_size_step": plain(self.changes),
        }
        return json.dumps(values, indent=1, allow_nan=False) + "\n"


def check(
    config: CoordConfig,
    pretrained: mulo.Pretrained | None = None,
    on_size: Callable[[int], object] = lambda size: None,
    models: MutableMapping[tasks.names.TaskName, training.Model] | None = None,
) -> CoordResult:
    """Train at every size on the same data and fit how activations' changes scale.

    Args:
      config: What to check. The optimizer gets the task's own μP tree, so an ``sp-``
        task checks the standard parametrization.
      pretrained: The theta of a learned optimizer.
      on_size: Called after each width or depth.
      models: Compiled models by task name, to use and to add to; for checks of several
        optimizers with the same data and batch size.

    Raises:
      ValueError: If the optimizer needs a theta, or nothing moved at some size (a
        check of that says nothing).
    """
    by_size = []
    for size in config.sizes:
        model = _model(config, size, {} if models is None else models)
        transform = names.build(
            config.optimizer,
            config.rate,
            scalings=model.task.scalings(),
            pretrained=pretrained,
            num_steps=config.num_steps,
            hyper=config.whole_hyper,
        )
        found = training.changes(
            model, transform, num_steps=config.num_steps, num_seeds=config.num_seeds
        )
        if not any(change.any() for change in found.values()):
            raise ValueError(
                f"nothing moved in {config.num_steps} steps of {config.optimizer} at "
                f"{config.axis} {size}; raise --learning_rate (now {config.rate:g}) or "
                "--steps."
            )
        if config.axis == "depth":
            found = {
                name: found[layer]
                for layer in found
                if (name := name_at_any_depth(layer, size)) is not None
            }
        by_size.append(found)
        on_size(size)
    layers = tuple(by_size[0])
    changes = np.array([[found[layer] for found in by_size] for layer in layers])
    slopes = fit_slopes(config.sizes, changes)
    later = slopes[:, config.num_steps // 2 :]
    return CoordResult(
        config=config,
        layers=layers,
        changes=changes,
        slopes=slopes,
        verdicts=np.mean(later, axis=1),
    )


def name_at_any_depth(layer: str, depth: int) -> str | None:
    """Name a layer by its place in the network, whatever the network's depth.

    >>> name_at_any_depth("block_4/query", 8)
    'middle_block/query'

    Layers inside a block are compared in the first and in the middle one: half of all
    branches have been added before it at any even depth, whereas before the last one
    that part, 1 - 1/depth, grows.

    Args:
      layer: Its name in the network. A number at the end of its first part is the
        place in a series of ``depth``.
      depth: Of the network.

    Returns:
      The name with ``first_`` or ``middle_`` (inside a block), ``first_`` or ``last_``
      (else) instead of the number; as it is without one; None at other places.
    """
    series, slash, rest = layer.partition("/")
    match = re.fullmatch(r"(.+)_(\d+)", series)
    if match is None:
        return layer
    other = {depth // 2: "middle"} if slash else {depth - 1: "last"}
    place = ({0: "first"} | other).get(int(match[2]))
    return None if place is None else f"{place}_{match[1]}{slash}{rest}"


def fit_slopes(sizes: Sequence[int], changes: np.ndarray) -> np.ndarray:
    """Fit change = c * size ** slope by least squares on logarithms.

    Args:
      sizes: shape=(W,), widths or depths, at least two different ones.
      changes: shape=(layers, W, T), >= 0.

    Returns:
      shape=(layers, T). Infinite where a change is not finite; 0 where a layer stood
      still at every size; where it stood still at some, those sizes are left out.
    """
    layers, _, steps = changes.shape
    slopes = np.zeros((layers, steps))
    log_sizes = np.log2(np.asarray(sizes, np.float64))
    for layer in range(layers):
        for step in range(steps):
            change = changes[layer, :, step]
            moved = change > 0
            if not np.isfinite(change).all():
                slopes[layer, step] = math.inf
            elif moved.sum() >= 2:
                slopes[layer, step] = statistics.slope(
                    log_sizes[moved].tolist(), np.log2(change[moved]).tolist()
                )
    return slopes


def _model(
    config: CoordConfig,
    size: int,
    models: MutableMapping[tasks.names.TaskName, training.Model],
) -> training.Model:
    name = config.task_name(size)
    if name not in models:
        task = tasks.get(name, batch_size=config.batch_size, data_dir=config.data_dir)
        models[name] = training.Model(task)
    return models[name]
