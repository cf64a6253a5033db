"""The outer loop: theta, estimators, checkpoints, signals.

Every random number of meta-step t comes from ``fold_in(key, t)``: a resumed run draws
what the uninterrupted one would have, and there is no generator state to save.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

import mulo
from meta_train import meta_optimizer, pes, probes, reporting, unroll
from meta_train import objective as objective_lib
from meta_train import signals as signals_lib
from meta_train import workdir as workdir_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long a run lasts and what it writes how often.

    Attributes:
      seed: Decides everything random.
      meta_steps: Updates of theta.
      log_steps: Meta-steps between lines of metrics.jsonl.
      checkpoint_steps: Meta-steps between checkpoints (and theta files).
      keep_checkpoints: Newest ones kept.
    """

    seed: int
    meta_steps: int
    log_steps: int
    checkpoint_steps: int
    keep_checkpoints: int

    def __post_init__(self):
        """Check every field."""
        for name in ("meta_steps", "log_steps", "checkpoint_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"run.{name} must be >= 1, got {getattr(self, name)}.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that meta-training carries; what a checkpoint holds."""

    theta: Any  # Meta-parameters.
    opt_state: Any  # Of the meta-optimizer.
    estimators: tuple[pes.PESState, ...]  # One per family.
    meta_step: jax.Array  # shape=(), int32. Updates of theta so far.
    grad_square: Any = ()  # (families,), float32, if gradients are normalized.
    probes: Any = ()  # A ProbeState, if there are probes.


class Interrupted(Exception):
    """A signal asked the run to stop; everything is saved."""


class MetaTrainer:
    """Meta-trains one rule on several task families, their gradients averaged."""

    def __init__(
        self,
        *,
        rule: mulo.Rule,
        inners: Sequence[unroll.Inner],
        pes_config: pes.PESConfig | Sequence[pes.PESConfig],
        meta_optimizer_config: meta_optimizer.MetaOptimizerConfig,
        seed: int,
        objective: objective_lib.ObjectiveConfig = objective_lib.MEAN_LOSS,
        normalize_grads: bool = False,
        task_clip_norm: float = 0.0,
        probes: probes.Probes | None = None,
        init_theta: Any | None = None,
    ):
        """Build the estimators; compiles nothing yet.

        Args:
          rule: Architecture of the learned optimizer, such as :class:`mulo.SmallFC`.
          inners: One per family; all with this rule.
          pes_config: Of every family's estimator, or one for each.
          meta_optimizer_config: Of theta's optimizer.
          seed: Decides everything random.
          objective: What of the runs is made small; default the mean loss.
          normalize_grads: Divide every family's gradient by the running root mean
            square of its norm, so that no loss outweighs the others by its scale.
          task_clip_norm: Global norm to which every family's gradient is clipped before
            they are averaged, after ``normalize_grads``; 0 for none.
          probes: Whole runs that theta is told by, for `run`.
          init_theta: Where theta starts; None draws it.

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
        if isinstance(pes_config, pes.PESConfig):
            pes_config = [pes_config] * len(inners)
        mesh = pes.make_mesh(math.gcd(*(c.num_pairs for c in pes_config)))
        self.rule = rule
        self.estimators = [
            pes.PES(inner, c, mesh, objective)
            for inner, c in zip(inners, pes_config, strict=True)
        ]
        trained = [inner.family.task for inner in inners]
        self.names = reporting.labels([(t.name, t.batch_size) for t in trained])
        # Per meta-step.
        self.inner_steps = sum(2 * c.num_pairs * c.trunc_steps for c in pes_config)
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
            jax.device_put(
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
        theta = jax.device_put(jax.tree.map(jnp.array, theta), replicated)
        grad_square = jnp.zeros(len(self.estimators)) if self._normalize else ()
        probes = self.probes.init(theta) if self.probes else ()
        return TrainState(
            theta=theta,
            opt_state=jax.device_put(self._optimizer.init(theta), replicated),
            estimators=tuple(
                estimator.init(theta, jax.random.fold_in(runs_key, i))
                for i, estimator in enumerate(self.estimators)
            ),
            meta_step=jax.device_put(jnp.zeros((), jnp.int32), replicated),
            grad_square=jax.device_put(grad_square, replicated),
            probes=jax.device_put(probes, replicated),
        )

    def step(self, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        """Do one meta-step.

        Args:
          state: Given up: its arrays are donated.

        Returns:
          The next state and scalar metrics, still on the device.
        """
        grads, estimator_states, families = [], [], []
        key = jax.random.fold_in(self._step_key, state.meta_step)
        for i, estimator in enumerate(self.estimators):
            grad, estimator_state, metrics = estimator.estimate(
                state.theta,
                state.estimators[i],
                jax.random.fold_in(key, i),
                self._arrays[i],
                state.meta_step,
                *self._valid_arrays[i],
            )
            grads.append(grad)
            estimator_states.append(estimator_state)
            families.append(metrics)
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

    @functools.cached_property
    def _apply(self):
        def apply(theta, opt_state, meta_step, grad_square, grads, families):
            norms = [optax.tree.norm(g) for g in grads]
            if self._normalize:
                grads, grad_square = meta_optimizer.normalize(
                    grads, jnp.stack(norms), grad_square, meta_step
                )
            if self._task_clip_norm:
                clip = optax.clip_by_global_norm(self._task_clip_norm)
                grads = [clip.update(g, clip.init(g))[0] for g in grads]
            grad = jax.tree.map(lambda *gs: sum(gs) / len(gs), *grads)
            updates, opt_state = self._optimizer.update(grad, opt_state, theta)
            theta = optax.apply_updates(theta, updates)
            metrics = {
                "meta_loss": sum(m.meta_loss for m in families) / len(families),
                "objective": sum(m.objective for m in families) / len(families),
                "grad_norm": optax.tree.norm(grad),
                "update_norm": optax.tree.norm(updates),
                "theta_norm": optax.tree.norm(theta),
            }
            for name, family, norm in zip(self.names, families, norms, strict=True):
                for field in dataclasses.fields(family):
                    metrics[f"{name}/{field.name}"] = getattr(family, field.name)
                metrics[f"{name}/grad_norm"] = norm
            return theta, opt_state, meta_step + 1, grad_square, metrics

        return jax.jit(apply, out_shardings=self.estimators[0].replicated)


def run(
    trainer: MetaTrainer,
    config: RunConfig,
    workdir: pathlib.Path,
    *,
    card: Mapping[str, Any],
    writers: Sequence[reporting.Writer] = (),
) -> pathlib.Path:
    """Meta-train to the end, going on from the newest checkpoint if there is one.

    Args:
      trainer: What to train.
      config: How long, and what to write.
      workdir: Claimed by this config already (:func:`meta_train.workdir.claim`).
      card: Facts about the run for theta's card.
      writers: More sinks for metrics lines.

    Returns:
      The directory of theta. Beside it, with probes, is that of the best theta.

    Raises:
      Interrupted: After SIGINT or SIGTERM, once the state is saved.
      FloatingPointError: If theta, or every run of a family, leaves the finite
        numbers; names step, task and seed.
    """
    theta_dir = workdir / workdir_lib.THETA
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(signals_lib.Signals())
        checkpoints = workdir_lib.Checkpoints(workdir, keep=config.keep_checkpoints)
        stack.callback(checkpoints.close)
        state = trainer.init()
        latest = checkpoints.latest()
        if latest is not None:
            state = checkpoints.restore(latest, state)
            logging.info("Resuming %s at meta-step %d.", workdir, latest)
        done = int(state.meta_step)
        # Without a checkpoint, the line of meta-step 0 is written again as well.
        log = reporting.MetricsLog(workdir, first_step=done or -1)
        sinks = [log, *writers]
        for sink in sinks:
            stack.callback(sink.close)
        progress = reporting.Progress(done=done, total=config.meta_steps)
        stack.callback(progress.close)

        def save(step, state):
            checkpoints.save(step, state)
            facts = {**card, "meta_step": step}
            mulo.save(theta_dir, trainer.rule, jax.device_get(state.theta), card=facts)

        def probe(step, state):
            if trainer.probes is None or not trainer.probes.is_due(step):
                return state, {}
            found, values = trainer.probes.evaluate(state.theta, state.probes, step)
            state = dataclasses.replace(state, probes=found)
            _keep_best(trainer, state, workdir, card)
            return state, values

        if done == 0:
            state, probed = probe(0, state)
            if probed:
                for sink in sinks:
                    sink.write({"meta_step": 0, **probed})
        else:
            _keep_best(trainer, state, workdir, card)
        for step in range(done + 1, config.meta_steps + 1):
            start = time.perf_counter()
            state, metrics = trainer.step(state)
            values = {k: float(v) for k, v in jax.device_get(metrics).items()}
            rate = trainer.inner_steps / (time.perf_counter() - start)
            _check_finite(trainer, values, step, config.seed)
            progress.advance(values["meta_loss"], rate)
            state, probed = probe(step, state)
            if probed or step % config.log_steps == 0 or step == config.meta_steps:
                line = {"meta_step": step, **values, **probed}
                line["inner_steps_per_s"] = rate
                for sink in sinks:
                    sink.write(line)
            stop, save_asked = signals.stop, signals.take_save()
            regular = step % config.checkpoint_steps == 0 or step == config.meta_steps
            if regular or save_asked or stop is not None:
                save(step, state)
            if stop is not None:
                checkpoints.wait()
                raise Interrupted(
                    f"{signal.Signals(stop).name} at meta-step {step}: saved. The same "
                    "command goes on from here."
                )
        if done >= config.meta_steps and not _theta_is_of(theta_dir, done):
            save(done, state)  # Killed between the last checkpoint and its theta.
    return theta_dir


def _check_finite(trainer, values, step, seed):
    """Raise FloatingPointError, naming step, task and seed, when training is lost."""
    names = trainer.names
    settings = ("step_mult", "learning_rate", "initial_learning_rate")
    size = next((f"rule.{s}, " for s in settings if hasattr(trainer.rule, s)), "")
    help_ = (
        "Go on from the last checkpoint, if there is one, in another workdir "
        f"(init_theta) with a lower meta_optimizer.peak_lr, {size}or a finite "
        "pes.loss_diff_clip."
    )
    if not np.isfinite(values["theta_norm"]):
        raise FloatingPointError(
            f"theta is not finite after meta-step {step} (seed {seed}, tasks {names}, "
            f"gradient norm {values['grad_norm']}). {help_}"
        )
    for name in names:
        if values[f"{name}/diverged_frac"] == 1.0:
            raise FloatingPointError(
                f"every run of {name} left the finite numbers in meta-step {step} "
                f"(seed {seed}): there is nothing to learn from. {help_}"
            )


def _keep_best(trainer, state, workdir, card):
    """Write the best theta, unless it is there.

    A killed run may have left one of a meta-step that is to be done again.
    """
    directory = workdir / workdir_lib.THETA_BEST
    if trainer.probes is None or state.probes.best_step < 0:
        return
    facts = trainer.probes.facts(state.probes)
    if not _theta_is_of(directory, facts["meta_step"]):
        theta = jax.device_get(state.probes.best_theta)
        mulo.save(directory, trainer.rule, theta, card={**card, **facts})


def _theta_is_of(directory: pathlib.Path, meta_step: int) -> bool:
    try:
        return mulo.load(directory).card.get("meta_step") == meta_step
    except (ValueError, OSError):
        return False
