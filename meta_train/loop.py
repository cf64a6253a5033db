"""A run: meta-steps till the end, with checkpoints, metrics, signals and resume."""

import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

import mulo
from meta_train import reporting
from meta_train import signals as signals_lib
from meta_train import trainer as trainer_lib
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


class Interrupted(Exception):
    """A signal asked the run to stop; everything is saved."""


def run(
    trainer: trainer_lib.MetaTrainer,
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
            mulo.save(
                theta_dir,
                trainer.rule,
                jax.device_get(trainer.theta(state)),
                card=facts,
            )

        def probe(step, state):
            if trainer.probes is None or not trainer.probes.is_due(step):
                return state, {}
            found, values = trainer.probes.evaluate(
                trainer.theta(state), state.probes, step
            )
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
            # No run of that length: nothing to tell.
            absent = [k for k, v in values.items() if "/meta_loss_" in k and v != v]
            values = {k: v for k, v in values.items() if k not in absent}
            rate = values.pop("inner_steps") / (time.perf_counter() - start)
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
        "estimator.loss_diff_clip."
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
