"""One meta-step after another: theta, the families' estimators, the meta-optimizer.

Every random number of meta-step t comes from ``fold_in(key, t)``: a resumed run draws
what the uninterrupted one would have, and there is no generator state to save.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mulo
from meta_train import devices, estimators, labels, meta_optimizer, probes, unroll
from meta_train import objective as objective_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that meta-training carries; what a checkpoint holds."""

    theta: Any  # Meta-parameters.
    opt_state: Any  # Of the meta-optimizer.
    estimators: tuple[Any, ...]  # One per family.
    meta_step: jax.Array  # shape=(), int32. Updates of theta so far.
    grad_square: Any = ()  # (families,), float32, if gradients are normalized.
    probes: Any = ()  # A ProbeState, if there are probes.
    fitness: Any = ()  # (members,), float32, of a population: running mean objective.


class MetaTrainer:
    """Meta-trains one rule on several task families, their gradients averaged."""

    def __init__(
        self,
        *,
        rule: mulo.Rule,
        inners: Sequence[unroll.Inner],
        estimator_config: estimators.EstimatorConfig
        | Sequence[estimators.EstimatorConfig],
        meta_optimizer_config: meta_optimizer.MetaOptimizerConfig,
        seed: int,
        objective: objective_lib.ObjectiveConfig = objective_lib.MEAN_LOSS,
        normalize_grads: bool = False,
        task_clip_norm: float = 0.0,
        probes: probes.Probes | None = None,
        init_theta: Any | None = None,
        particles_at_once: int = 0,
    ):
        """Build the estimators; compiles nothing yet.

        Args:
          rule: Architecture of the learned optimizer, such as :class:`mulo.SmallFC`.
          inners: One per family; all with this rule.
          estimator_config: Of every family's estimator, or one for each.
          meta_optimizer_config: Of theta's optimizer.
          seed: Decides everything random.
          objective: What of the runs is made small; default the mean loss.
          normalize_grads: Divide every family's gradient by the running root mean
            square of its norm, so that no loss outweighs the others by its scale.
          task_clip_norm: Global norm to which every family's gradient is clipped before
            they are averaged, after ``normalize_grads``; 0 for none.
          probes: Whole runs that theta is told by, for `run`.
          init_theta: Where theta starts; None draws it.
          particles_at_once: Runs side by side on a device, at most; 0: automatic.

        Raises:
          ValueError: If there is no family, ``init_theta`` is of another
            architecture, or ``task_clip_norm`` is negative.
        """
        if init_theta is not None:
            rule.check_theta(init_theta)
        if not inners:
            raise ValueError("tasks must name at least one task, got none.")
        if not 0.0 <= task_clip_norm < math.inf:
            raise ValueError(
                "task_clip_norm must be finite and > 0, or 0 for none, got "
                f"{task_clip_norm}."
            )
        if isinstance(estimator_config, estimators.EstimatorConfig):
            estimator_config = [estimator_config] * len(inners)
        pairs = math.gcd(*(c.num_pairs for c in estimator_config))
        mesh = devices.make_mesh(pairs)
        self.rule = rule
        self.estimators = [
            estimators.make(c, inner, mesh, objective, particles_at_once)
            for inner, c in zip(inners, estimator_config, strict=True)
        ]
        trained = [inner.family.task for inner in inners]
        self.names = labels.labels([(t.name, t.batch_size) for t in trained])
        self._arrays = self._on_device("train")
        # One more argument of the programs, or none.
        self._valid_arrays: list[tuple[Any, ...]] = [()] * len(inners)
        if objective.needs_valid:
            self._valid_arrays = [(arrays,) for arrays in self._on_device("valid")]
        self._normalize = normalize_grads
        self._task_clip_norm = task_clip_norm
        self.probes = probes
        self._optimizer = meta_optimizer_config.make()
        self._init_theta = init_theta
        self._init_key, self._step_key = jax.random.split(jax.random.key(seed))

    def _on_device(self, split):
        return [
            devices.place(
                {k: np.asarray(v) for k, v in e.inner.family.arrays(split).items()},
                e.replicated,
            )
            for e in self.estimators
        ]

    def init(self) -> TrainState:
        """Make the state before the first meta-step."""
        theta_key, runs_key = jax.random.split(self._init_key)
        replicated = self.estimators[0].replicated
        theta = self._init_theta
        if theta is None:
            theta = self.rule.init(theta_key)
        theta = jax.tree.map(jnp.array, theta)
        opt_state = devices.place(self._optimizer.init(theta), replicated)
        grad_square = jnp.zeros(len(self.estimators)) if self._normalize else ()
        probes = self.probes.init(theta) if self.probes else ()
        theta = devices.place(theta, replicated)
        return TrainState(
            theta=theta,
            opt_state=opt_state,
            estimators=tuple(
                estimator.init(theta, jax.random.fold_in(runs_key, i))
                for i, estimator in enumerate(self.estimators)
            ),
            meta_step=devices.place(jnp.zeros((), jnp.int32), replicated),
            grad_square=devices.place(grad_square, replicated),
            probes=devices.place(probes, replicated),
        )

    def compile(self, state: TrainState, poll: Callable[[], None]) -> None:
        """Compile every family's program; ``poll`` is called before each and may raise.

        Nothing runs and the state stays; `step` finds what was compiled.
        """
        key = jax.random.fold_in(self._step_key, state.meta_step)
        for i, estimator in enumerate(self.estimators):
            poll()
            arguments = self._arguments(
                state.theta, state.estimators, key, state.meta_step, i
            )
            estimator.estimate.lower(*arguments).compile()

    def _arguments(self, theta, states, key, meta_step, i):
        return (
            theta,
            states[i],
            jax.random.fold_in(key, i),
            self._arrays[i],
            meta_step,
            *self._valid_arrays[i],
        )

    def step(self, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        """Do one meta-step.

        Args:
          state: Given up: its arrays are donated.

        Returns:
          The next state and scalar metrics, still on the device.
        """
        key = jax.random.fold_in(self._step_key, state.meta_step)
        grads, estimator_states, families = self._estimate(
            state.theta, state.estimators, key, state.meta_step
        )
        theta, opt_state, meta_step, grad_square, metrics = self._apply(
            state.theta,
            state.opt_state,
            state.meta_step,
            state.grad_square,
            grads,
            families,
        )
        state = TrainState(
            theta,
            opt_state,
            tuple(estimator_states),
            meta_step,
            grad_square,
            state.probes,
        )
        return state, metrics

    def theta(self, state: TrainState) -> Any:
        """What a run gives: the meta-parameters, on the device."""
        return state.theta

    def _estimate(self, theta, states, key, meta_step):
        """Gradients, new states and metrics of the families, a list each."""
        found = [
            estimator.estimate(*self._arguments(theta, states, key, meta_step, i))
            for i, estimator in enumerate(self.estimators)
        ]
        return [list(column) for column in zip(*found, strict=True)]

    @functools.cached_property
    def _apply(self):
        def apply(theta, opt_state, meta_step, grad_square, grads, families):
            grad, grad_square, norms = self._average(grads, grad_square, meta_step)
            theta, opt_state, metrics = self._move(
                self._optimizer, theta, opt_state, grad, families
            )
            metrics |= self._family_metrics(families, norms)
            return theta, opt_state, meta_step + 1, grad_square, metrics

        return jax.jit(apply, out_shardings=self.estimators[0].replicated)

    def _average(self, grads, grad_square, meta_step):
        """Mean of the families' gradients, mean squares of their norms, the norms."""
        norms = [optax.tree.norm(g) for g in grads]
        if self._normalize:
            grads, grad_square = meta_optimizer.normalize(
                grads, jnp.stack(norms), grad_square, meta_step
            )
        if self._task_clip_norm:
            clip = optax.clip_by_global_norm(self._task_clip_norm)
            grads = [clip.update(g, clip.init(g))[0] for g in grads]
        grad = jax.tree.map(lambda *gs: sum(gs) / len(gs), *grads)
        return grad, grad_square, norms

    def _move(self, optimizer, theta, opt_state, grad, families):
        """One step of an optimizer: theta, its state, metrics."""
        value = sum(m.objective for m in families) / len(families)
        updates, opt_state = optimizer.update(grad, opt_state, theta, value=value)
        theta = optax.apply_updates(theta, updates)
        metrics = {
            "meta_loss": sum(m.meta_loss for m in families) / len(families),
            "objective": value,
            "grad_norm": optax.tree.norm(grad),
            "update_norm": optax.tree.norm(updates),
            "theta_norm": optax.tree.norm(theta),
            "inner_steps": sum(m.inner_steps for m in families),
            **{f"learned/{k}": v for k, v in self.rule.learned_rates(theta).items()},
        }
        return theta, opt_state, metrics

    def _family_metrics(self, families, norms):
        metrics = {}
        for name, family, norm in zip(self.names, families, norms, strict=True):
            values = {
                f.name: getattr(family, f.name) for f in dataclasses.fields(family)
            }
            losses = values.pop("horizon_losses")
            for horizon, loss in zip(estimators.HORIZONS, losses, strict=True):
                values[f"meta_loss_{horizon}"] = loss
            values["grad_norm"] = norm
            metrics |= {f"{name}/{key}": value for key, value in values.items()}
        return metrics
