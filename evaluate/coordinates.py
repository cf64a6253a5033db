"""The coordinate check: does an activation's change grow with width?

A few steps of training move every pre-activation x by some amount. Under a correct μ
parametrization the typical size of a coordinate of x_t - x_0 does not depend on width;
under a wrong one it grows like a power of width, in some layer. So: fit that power, per
layer, and fail when it is above a threshold.

What it cannot see: a wrong weight-decay rule, or a learning rate that is bad at every
width. Flat curves are necessary for transfer, not sufficient.

Two known effects are no failures. The readout starts at zero, so hidden layers stand
still at the first step; the verdict therefore uses the later half of the steps. And the
change of a layer may shrink with width, as that of the logits does early in training;
strong shrinking is reported as a warning.

References:
  Yang et al., `Tensor Programs V <https://arxiv.org/abs/2203.03466>`_, 2022, App. D.1.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mulo
import tasks
from evaluate import optimizers, statistics

PROBE_EXAMPLES = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordConfig:
    """What a coordinate check trains and measures.

    Raises:
      ValueError: If a field breaks its rule; the message names it.
    """

    task: str  # A template without a width; "sp-…" for the standard parametrization.
    optimizer: str
    widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    num_steps: int = 10
    num_seeds: int = 3
    learning_rate: float | None = None  # None: the optimizer's own for this check.
    batch_size: int = 64  # Examples.
    threshold: float = 0.3  # Largest power of width that passes.
    data_dir: str | None = None

    def __post_init__(self):
        name = tasks.names.parse(self.task)
        if name.width is not None:
            raise ValueError(
                "task must be a template without a width, like mlp-d3-digits; got "
                f"{self.task!r}."
            )
        optimizers.get(self.optimizer)
        if len(set(self.widths)) < 2 or min(self.widths) < 2:
            raise ValueError(
                f"widths must be two or more different ones >= 2; got {self.widths}."
            )
        for field in ("num_steps", "num_seeds", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be >= 1; got {getattr(self, field)}.")
        if self.num_steps < 2:
            raise ValueError(
                "num_steps must be >= 2, because a readout that starts at zero keeps "
                f"hidden layers still at the first step; got {self.num_steps}."
            )

    @property
    def rate(self) -> float:
        """The learning rate used."""
        if self.learning_rate is not None:
            return self.learning_rate
        return optimizers.get(self.optimizer).coord_learning_rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordResult:
    """How much each layer's pre-activations moved, and the fitted powers of width."""

    config: CoordConfig
    layers: tuple[str, ...]
    widths: tuple[int, ...]  # (W,), rising.
    changes: np.ndarray  # (layers, W, T). RMS of x_t - x_0 at t = 1 … T, all seeds.
    slopes: np.ndarray  # (layers, T). Power of width at each step; inf: not finite.
    verdicts: np.ndarray  # (layers,). Mean slope of the later half of the steps.

    @property
    def growing(self) -> tuple[str, ...]:
        """Layers whose change grows faster with width than the threshold allows."""
        over = self.verdicts > self.config.threshold
        return tuple(layer for layer, bad in zip(self.layers, over, strict=True) if bad)

    @property
    def shrinking(self) -> tuple[str, ...]:
        """Layers whose change shrinks with width by more than the threshold."""
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
            "layers": self.layers,
            "widths": self.widths,
            "slope_by_layer": dict(zip(self.layers, plain(self.verdicts), strict=True)),
            "slopes_by_layer_step": plain(self.slopes),
            "changes_by_layer_width_step": plain(self.changes),
        }
        return json.dumps(values, indent=1, allow_nan=False) + "\n"


def check(
    config: CoordConfig,
    pretrained: mulo.Pretrained | None = None,
    on_width: Callable[[int], object] = lambda width: None,
) -> CoordResult:
    """Train at every width on the same data and fit how activations' changes scale.

    Args:
      config: What to check. The optimizer gets the task's own μP tree, so an ``sp-``
        task checks the standard parametrization.
      pretrained: The theta of a learned optimizer.
      on_width: Called after each width.

    Raises:
      ValueError: If the optimizer needs a theta, or nothing moved at some width (a
        check of that says nothing).
    """
    widths = tuple(sorted(set(config.widths)))
    layers: tuple[str, ...] = ()
    by_width = []
    for width in widths:
        name = tasks.names.parse(config.task).at_width(width)
        task = tasks.get(
            str(name), batch_size=config.batch_size, data_dir=config.data_dir
        )
        changes = _train(config, task, pretrained)
        layers = tuple(changes)
        by_width.append(np.stack([np.asarray(changes[layer]) for layer in layers]))
        if not np.any(by_width[-1]):
            raise ValueError(
                f"nothing moved in {config.num_steps} steps of {config.optimizer} at "
                f"width {width}; raise --learning_rate (now {config.rate:g}) or "
                "--steps."
            )
        on_width(width)
    changes = np.stack(by_width, axis=1).astype(np.float64)
    slopes = fit_slopes(widths, changes)
    later = slopes[:, config.num_steps // 2 :]
    return CoordResult(
        config=config,
        layers=layers,
        widths=widths,
        changes=changes,
        slopes=slopes,
        verdicts=np.mean(later, axis=1),
    )


def fit_slopes(widths: Sequence[int], changes: np.ndarray) -> np.ndarray:
    """Fit change = c * width ** slope by least squares on logarithms.

    Args:
      widths: shape=(W,), at least two different ones.
      changes: shape=(layers, W, T), >= 0.

    Returns:
      shape=(layers, T). Infinite where a change is not finite; 0 where a layer stood
      still at every width; where it stood still at some, those widths are left out.
    """
    layers, _, steps = changes.shape
    slopes = np.zeros((layers, steps))
    log_widths = np.log2(np.asarray(widths, np.float64))
    for layer in range(layers):
        for step in range(steps):
            change = changes[layer, :, step]
            moved = change > 0
            if not np.isfinite(change).all():
                slopes[layer, step] = math.inf
            elif moved.sum() >= 2:
                slopes[layer, step] = statistics.slope(
                    log_widths[moved].tolist(), np.log2(change[moved]).tolist()
                )
    return slopes


def _train(
    config: CoordConfig, task: tasks.Task, pretrained: mulo.Pretrained | None
) -> dict[str, jax.Array]:
    """Return the RMS of x_t - x_0 over seeds and examples, by layer, each (T,)."""
    transform = optimizers.build(
        config.optimizer,
        config.rate,
        scalings=task.scalings(),
        pretrained=pretrained,
        num_steps=config.num_steps,
    )

    order: list[str] = []

    def run(seed: jax.Array, arrays: Any) -> dict[str, jax.Array]:
        init_key, probe_key, data_key, loss_key = jax.random.split(
            jax.random.key(seed), 4
        )
        params = task.init(init_key)
        probe = task.dataset.sample(arrays, probe_key, PROBE_EXAMPLES)["inputs"]
        before = task.activations(params, probe)
        order[:] = before  # jit sorts dictionaries; the network's order is shown.

        def step(carry, count):
            params, state = carry
            batch = task.dataset.sample(
                arrays, jax.random.fold_in(data_key, count), task.batch_size
            )
            loss, grads = jax.value_and_grad(task.loss)(
                params, jax.random.fold_in(loss_key, count), batch
            )
            updates, state = transform.update(grads, state, params, value=loss)
            params = optax.apply_updates(params, updates)
            after = task.activations(params, probe)
            squares = jax.tree.map(
                lambda x, x0: jnp.mean(jnp.square(x - x0)), after, before
            )
            return (params, state), squares

        carry = params, transform.init(params)
        return jax.lax.scan(step, carry, jnp.arange(config.num_steps))[1]

    arrays = jax.device_put(dict(task.dataset.arrays("train")))
    # One seed after the other: memory stays that of one network.
    squares = jax.jit(
        lambda seeds, arrays: jax.lax.map(lambda seed: run(seed, arrays), seeds)
    )(jnp.arange(config.num_seeds), arrays)
    return {layer: jnp.sqrt(jnp.mean(squares[layer], axis=0)) for layer in order}
