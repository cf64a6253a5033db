"""Trains cells: one compiled program per task and optimizer, run for any seed and rate.

The whole run is one loop inside jit. Its bounds are traced, so the host can ask for as
many steps as fit in a fraction of a second: the progress bar moves, Ctrl-C is prompt,
and nothing compiles twice. Learning rates, keys and data are arguments of the program.

Seeds decide the initial parameters and every batch; neither depends on the optimizer or
the learning rate, so that comparisons are paired.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mulo
import tasks
from evaluate.optimizers import names

_CHUNK_SECS = 0.3  # Aimed-at time between two reports.
_METRICS_POSITIONS = 1000  # Images, or tokens, per forward pass over a split.
_PROBE_POSITIONS = 256  # Images, or tokens, that activations are measured on.

# Called as on_chunk(steps done in this run, mean over lanes of the latest loss).
OnChunk = Callable[[int, float], None]


@dataclasses.dataclass(frozen=True)
class Data:
    """Splits of a data set on the device, shared by every program of a sweep."""

    train: Mapping[str, jax.Array]  # As `Dataset.arrays`.
    valid: Mapping[str, jax.Array]

    @classmethod
    def put(cls, dataset: tasks.Dataset) -> "Data":
        """Copy a data set's splits to the default device."""
        return cls(
            train=jax.device_put(dict(dataset.arrays("train"))),
            valid=jax.device_put(dict(dataset.arrays("valid"))),
        )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run of L lanes gave; V validations. Losses are the task's."""

    losses: np.ndarray  # (L, T), float32. Before each update; NaN where not run.
    valid_steps: np.ndarray  # (V,), int32. Steps taken when validated.
    valid_losses: np.ndarray  # (L, V), float32. NaN where not reached.
    valid_accuracies: np.ndarray  # (L, V), float32. NaN where it means nothing.
    secs_per_step: float  # Wall clock of one step of all lanes, shared out over them.
    # By layer, (L, V), float32: std of how far it is from initialization.
    activation_changes: Mapping[str, np.ndarray] = dataclasses.field(
        default_factory=dict
    )


class TaskPrograms:
    """What every optimizer on a task needs, compiled once for ``lanes`` runs."""

    def __init__(
        self,
        task: tasks.Task,
        data: Data,
        *,
        lanes: int = 1,
        activations: bool = False,
    ):
        """Compile the task's initialization and its metrics on the validation split.

        Args:
          task: What is trained.
          data: Of the task's data set, on the device.
          lanes: Runs at the same time.
          activations: Whether to measure, with every validation, how far activations
            are from where they were.
        """
        self.task = task
        self.data = data
        self.lanes = lanes
        self.activations = activations

        def init(keys):
            return _over_lanes(task.init, lanes, (0,))(keys)

        def measure(params, arrays):
            run = _over_lanes(
                lambda params, arrays: split_metrics(task, params, arrays),
                lanes,
                (0, None),
            )
            return run(params, arrays)

        keys = jax.random.split(jax.random.key(0), lanes)
        self.params_shape = jax.eval_shape(init, keys)
        self.init = jax.jit(init).lower(keys).compile()
        self.measure = jax.jit(measure).lower(self.params_shape, data.valid).compile()
        # Compiled on first use: only some sweeps look at activations.
        self._probe = jax.jit(self._probed)

    def probe(self, params: Any) -> dict[str, np.ndarray]:
        """Return pre-activations on fixed inputs by layer, float32 (lanes, ...)."""
        if not self.activations:
            return {}
        found = self._probe(params, self.data.valid)
        return {name: np.asarray(value, np.float32) for name, value in found.items()}

    def _probed(self, params, arrays):
        dataset = self.task.dataset
        count = max(1, _PROBE_POSITIONS // self.task.positions)
        index = jnp.arange(min(count, dataset.num_examples(arrays)))
        inputs = dataset.examples(arrays, index)["inputs"]
        return _over_lanes(
            lambda params: self.task.activations(params, inputs), self.lanes, (0,)
        )(params)


class TrainingProgram:
    """A task and an optimizer compiled once, for any seed and learning rate."""

    def __init__(
        self,
        programs: TaskPrograms,
        optimizer: str,
        *,
        horizon_steps: int,
        hyper: Mapping[str, float],
        pretrained: mulo.Pretrained | None = None,
        schedule: str = "constant",
        valid_steps: Sequence[int] = (),
    ):
        """Compile.

        Args:
          programs: Of the task; decides the lanes.
          optimizer: Its name in :mod:`evaluate.optimizers.names`.
          horizon_steps: Steps of a run.
          hyper: Hyper-parameters that differ from the optimizer's defaults.
          pretrained: The theta, for learned optimizers.
          schedule: Of the learning rate, see :mod:`evaluate.optimizers.schedules`.
          valid_steps: When to validate, steps taken in [1, horizon_steps]; after the
            last step anyway.

        Raises:
          ValueError: If the optimizer's name, hyper-parameters, schedule or theta do
            not fit.
        """
        task, lanes = programs.task, programs.lanes
        self.task = task
        self.lanes = lanes
        self._programs = programs
        self._horizon_steps = horizon_steps
        self._valid_steps = sorted({*valid_steps, horizon_steps})
        self._steps_per_chunk = 1
        scalings = task.scalings()

        def transform(learning_rate):
            return names.build(
                optimizer,
                learning_rate,
                scalings=scalings,
                pretrained=pretrained,
                num_steps=horizon_steps,
                hyper=hyper,
                schedule=schedule,
            )

        def init_state(params, learning_rate):
            return transform(learning_rate).init(params)

        def step(count, params, state, learning_rate, data_key, loss_key, arrays):
            batch = task.sample(arrays, jax.random.fold_in(data_key, count))
            loss, grads = jax.value_and_grad(task.loss)(
                params, jax.random.fold_in(loss_key, count), batch
            )
            updates, state = transform(learning_rate).update(
                grads, state, params, value=loss
            )
            return optax.apply_updates(params, updates), state, loss

        def start(params, learning_rates):
            state = _over_lanes(init_state, lanes, (0, 0))(params, learning_rates)
            losses = jnp.full((lanes, horizon_steps), jnp.nan, jnp.float32)
            return jnp.zeros((), jnp.int32), params, state, losses

        def advance(carry, stop, learning_rates, data_keys, loss_keys, arrays):
            run = _over_lanes(step, lanes, (None, 0, 0, 0, 0, 0, None))

            def body(count, carry):
                _, params, state, losses = carry
                params, state, loss = run(
                    count, params, state, learning_rates, data_keys, loss_keys, arrays
                )
                losses = jax.lax.dynamic_update_index_in_dim(losses, loss, count, 1)
                return count + 1, params, state, losses

            carry = jax.lax.fori_loop(carry[0], stop, body, carry)
            latest = jax.lax.dynamic_index_in_dim(carry[3], stop - 1, 1, False)
            return carry, latest

        rates = jnp.ones((lanes,), jnp.float32)
        keys = jax.random.split(jax.random.key(0), lanes)
        stop = jnp.zeros((), jnp.int32)
        carry = jax.eval_shape(start, programs.params_shape, rates)
        self._start = jax.jit(start).lower(programs.params_shape, rates).compile()
        self._advance = (
            jax.jit(advance, donate_argnums=0)
            .lower(carry, stop, rates, keys, keys, programs.data.train)
            .compile()
        )

    def run(
        self,
        learning_rates: Sequence[float],
        seeds: Sequence[int],
        on_chunk: OnChunk = lambda steps, loss: None,
    ) -> Outcome:
        """Train one run per lane.

        Args:
          learning_rates: One per run; at most ``lanes`` of them.
          seeds: Likewise.
          on_chunk: Called every fraction of a second.

        Returns:
          The outcome, with as many rows as runs were asked for. Runs end early when
          no lane is finite any more.
        """
        count = len(seeds)
        assert 1 <= count <= self.lanes
        assert len(learning_rates) == count
        # Idle lanes repeat the last run: another shape would compile again.
        padding = self.lanes - count
        rates = jnp.asarray(
            [*learning_rates, *[learning_rates[-1]] * padding], jnp.float32
        )
        keys = [
            jax.random.split(jax.random.key(seed), 3)
            for seed in [*seeds, *[seeds[-1]] * padding]
        ]
        init_keys, data_keys, loss_keys = (
            jnp.stack(list(keys)) for keys in zip(*keys, strict=True)
        )
        carry = self._start(self._programs.init(init_keys), rates)
        jax.block_until_ready(carry)
        before = self._programs.probe(carry[1])
        validations = _Validations(self._programs, count, self._valid_steps, before)
        done, chunks = 0, []
        while done < self._horizon_steps:
            stop = min(validations.next_step, done + self._steps_per_chunk)
            chunk_begin = time.perf_counter()
            carry, latest = self._advance(
                carry,
                jnp.asarray(stop, jnp.int32),
                rates,
                data_keys,
                loss_keys,
                self._programs.data.train,
            )
            latest = np.asarray(latest)[:count]
            secs = time.perf_counter() - chunk_begin
            fitting = int(_CHUNK_SECS / max(secs, 1e-9) * (stop - done))
            self._steps_per_chunk = max(1, min(fitting, 4 * self._steps_per_chunk))
            chunks.append((stop - done, secs))
            done = stop
            on_chunk(done, float(np.mean(latest)))
            if not np.isfinite(latest).any():
                break
            if done == validations.next_step:
                validations.measure(carry[1])
        timed = chunks[1:] or chunks  # The first one warms up.
        secs_per_step = sum(s for _, s in timed) / sum(n for n, _ in timed) / count
        return Outcome(
            losses=np.asarray(carry[3])[:count],
            valid_steps=np.array(self._valid_steps, np.int32),
            valid_losses=validations.stacked("loss"),
            valid_accuracies=validations.stacked("accuracy"),
            secs_per_step=secs_per_step,
            activation_changes=validations.changes(),
        )


class _Validations:
    """Metrics of some runs at fixed steps; NaN for those that are not reached."""

    def __init__(
        self,
        programs: TaskPrograms,
        count: int,
        steps: Sequence[int],
        before: Mapping[str, np.ndarray],
    ):
        self._programs = programs
        self._count = count
        self._steps = list(steps)
        self._before = before
        self._found: list[Mapping[str, Any]] = []
        self._changes: list[dict[str, np.ndarray]] = []

    @property
    def next_step(self) -> int:
        """When to measure next; the last step when all is measured."""
        return self._steps[min(len(self._found), len(self._steps) - 1)]

    def measure(self, params: Any) -> None:
        """Validate the parameters of all lanes."""
        self._found.append(self._programs.measure(params, self._programs.data.valid))
        now = self._programs.probe(params)
        self._changes.append(
            {
                name: np.std((value - self._before[name]).reshape(len(value), -1), 1)
                for name, value in now.items()
            }
        )

    def stacked(self, metric: str) -> np.ndarray:
        """Return a metric, (runs, validations), float32."""
        return self._fill([found.get(metric) for found in self._found])

    def changes(self) -> dict[str, np.ndarray]:
        """Return the changes of activations by layer, (runs, validations)."""
        return {
            name: self._fill([change[name] for change in self._changes])
            for name in self._before
            if self._changes
        }

    def _fill(self, columns: Sequence[Any]) -> np.ndarray:
        table = np.full((self._count, len(self._steps)), np.nan, np.float32)
        for i, column in enumerate(columns):
            if column is not None:
                table[:, i] = np.asarray(column)[: self._count]
        return table


def split_metrics(
    task: tasks.Task, params: Any, arrays: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Average the task's metrics over every example of a split.

    Args:
      task: Gives the metrics of a batch.
      params: Of the task.
      arrays: A split, as ``task.dataset.arrays(split)``; n examples.

    Returns:
      The metrics' means, each shape=(), float32.
    """
    total = task.dataset.num_examples(arrays)
    size = max(1, _METRICS_POSITIONS // task.positions)
    blocks, rest = divmod(total, size)

    def block_metrics(index):
        return task.metrics(params, task.dataset.examples(arrays, index))

    parts = []
    if blocks:
        index = jnp.arange(blocks * size).reshape(blocks, size)
        means = jax.tree.map(
            lambda x: jnp.mean(x, axis=0), jax.lax.map(block_metrics, index)
        )
        parts.append((means, (total - rest) / total))
    if rest:
        parts.append((block_metrics(jnp.arange(total - rest, total)), rest / total))
    return jax.tree.map(
        lambda *xs: sum(x * weight for x, (_, weight) in zip(xs, parts, strict=True)),
        *(means for means, _ in parts),
    )


def _over_lanes(function, lanes, in_axes):
    """Map ``function`` over the leading lane axis; without vmap when it has size 1."""
    if lanes > 1:
        return jax.vmap(function, in_axes=in_axes)

    def single(*args):
        args = [
            arg if axis is None else jax.tree.map(lambda x: x[0], arg)
            for arg, axis in zip(args, in_axes, strict=True)
        ]
        return jax.tree.map(lambda x: jnp.asarray(x)[None], function(*args))

    return single
