"""A run: meta-steps till the end, with checkpoints, metrics, signals and resume."""

import contextlib
import dataclasses
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import mulo
from meta_train import devices, distributed, reporting
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
      keep_every_steps: Checkpoints of multiples of this are kept for good; 0: none.
      max_diverged_frac: Share of a family's runs; when more leave the finite numbers in
        one meta-step, or all, the run stops.
      particles_at_once: Inner training runs side by side on a device, at most; 0: all,
        on a CPU as many as its caches hold.
    """

    seed: int
    meta_steps: int
    log_steps: int
    checkpoint_steps: int
    keep_checkpoints: int
    keep_every_steps: int = 0
    max_diverged_frac: float = 1.0
    particles_at_once: int = 0

    def __post_init__(self):
        """Check every field."""
        for name in ("meta_steps", "log_steps", "checkpoint_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"run.{name} must be >= 1, got {getattr(self, name)}.")
        for name in ("keep_every_steps", "particles_at_once"):
            if getattr(self, name) < 0:
                raise ValueError(f"run.{name} must be >= 0, got {getattr(self, name)}.")
        if not 0.0 <= self.max_diverged_frac <= 1.0:
            raise ValueError(
                f"run.max_diverged_frac must lie in [0, 1], got "
                f"{self.max_diverged_frac}."
            )

    def saves(self, step: int) -> bool:
        """Whether a meta-step is one of those that a checkpoint is made of."""
        every = (self.checkpoint_steps, self.keep_every_steps)
        return step == self.meta_steps or any(n and step % n == 0 for n in every)


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
      FloatingPointError: If theta, or too large a share of a family's runs, leaves the
        finite numbers; names step, task and seed.
      OSError: If the disk is full or read-only; a line on stderr says at which
        meta-step.
    """
    theta_dir = workdir / workdir_lib.THETA
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(signals_lib.Signals())
        mesh = trainer.estimators[0].mesh
        checkpoints = workdir_lib.Checkpoints(
            workdir,
            keep=config.keep_checkpoints,
            keep_every=config.keep_every_steps,
            num_devices=mesh.size,
        )
        stack.callback(checkpoints.close)
        state, unprobed = trainer.init(), None
        latest = checkpoints.latest()
        if latest is not None:
            state = checkpoints.restore(latest, state)
            unprobed = checkpoints.unprobed(latest)
        done = int(state.meta_step)
        is_first = distributed.is_first()
        sinks: list[reporting.Writer] = []
        progress = None
        if is_first:
            devices.say_idle(mesh, [e.config.num_pairs for e in trainer.estimators])
            # What is done again is written again: without a checkpoint also the line of
            # meta-step 0, and one whose probes are still to come.
            first_step = done - 1 if unprobed or not done else done
            sinks = [reporting.MetricsLog(workdir, first_step=first_step), *writers]
            progress = reporting.Progress(done=done, total=config.meta_steps)
            stack.callback(progress.close)
        for sink in sinks:
            stack.callback(sink.close)

        def save(step, state, unprobed=None):
            checkpoints.save(step, state, unprobed=unprobed)
            if is_first:
                facts = {**card, "meta_step": step}
                theta = jax.device_get(trainer.theta(state))
                mulo.save(theta_dir, trainer.rule, theta, card=facts)

        def keep_best(state):
            if is_first:
                _keep_best(trainer, state, workdir, card)

        def write(line):
            for sink in sinks:
                sink.write(line)

        def poll():
            signals.agree()
            if signals.stop is not None:
                raise _Stop

        def probe(step, state):
            if trainer.probes is None or not trainer.probes.is_due(step):
                return state, {}
            start = time.perf_counter()
            found, values = trainer.probes.evaluate(
                trainer.theta(state), state.probes, step, poll
            )
            resources.probed(time.perf_counter() - start)
            state = dataclasses.replace(state, probes=found)
            keep_best(state)
            return state, values

        def interrupted(step):
            checkpoints.wait()
            name = signal.Signals(signals.stop).name
            if step:
                return Interrupted(
                    f"{name} at meta-step {step}: saved. The same command goes on from "
                    "here."
                )
            return Interrupted(
                f"{name} before meta-step 1: there is nothing to save yet. The same "
                "command begins anew."
            )

        resources = reporting.Resources(
            total=config.meta_steps,
            probe_every=trainer.probes.every_steps if trainer.probes else 0,
        )
        step = done
        stack.enter_context(_step_told(lambda: step, checkpoints))
        try:
            if done:
                keep_best(state)
            if unprobed or not done:
                state, probed = probe(done, state)
                if unprobed or probed:
                    write({"meta_step": 0, **(unprobed or {}), **probed})
            if done < config.meta_steps:
                trainer.compile(state, poll)
        except _Stop:
            raise interrupted(done) from None
        for step in range(done + 1, config.meta_steps + 1):
            start = time.perf_counter()
            state, metrics = trainer.step(state)
            values = {k: float(v) for k, v in jax.device_get(metrics).items()}
            # No run of that length: nothing to tell.
            absent = [k for k, v in values.items() if "/meta_loss_" in k and v != v]
            values = {k: v for k, v in values.items() if k not in absent}
            seconds = time.perf_counter() - start
            rate = values.pop("inner_steps") / seconds
            values |= resources.after(step, seconds)
            _check_finite(trainer, values, step, config)
            if progress:
                progress.advance(values["meta_loss"], rate)
            line = {"meta_step": step, **values, "inner_steps_per_s": rate}
            try:
                state, probed = probe(step, state)
            except _Stop:
                save(step, state, unprobed=line)
                raise interrupted(step) from None
            if probed or step % config.log_steps == 0 or step == config.meta_steps:
                write({**line, **probed})
            signals.agree()
            asked = signals.take_save() or signals.stop is not None
            if asked or config.saves(step):
                save(step, state)
            if signals.stop is not None:
                raise interrupted(step)
        if is_first and done >= config.meta_steps and not _theta_is_of(theta_dir, done):
            save(done, state)  # Killed between the last checkpoint and its theta.
    return theta_dir


class _Stop(Exception):
    """A signal has come, between two things that take long."""


@contextlib.contextmanager
def _step_told(
    step: Callable[[], int], checkpoints: workdir_lib.Checkpoints
) -> Iterator[None]:
    """Say on stderr at which meta-step a disk that cannot be written ended the run."""
    try:
        yield
    except OSError:
        with contextlib.suppress(Exception):  # Said already.
            checkpoints.wait()
        kept = checkpoints.latest()
        stands = (
            "before there was a checkpoint"
            if kept is None
            else f"the checkpoint of meta-step {kept} stands"
        )
        print(f"Stopped at meta-step {step()}; {stands}.", file=sys.stderr)
        raise


def _check_finite(trainer, values, step, config):
    """Raise FloatingPointError, naming step, task and seed, when training is lost."""
    names, seed = trainer.names, config.seed
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
        share = values[f"{name}/diverged_frac"]
        if share == 1.0:
            raise FloatingPointError(
                f"every run of {name} left the finite numbers in meta-step {step} "
                f"(seed {seed}): there is nothing to learn from. {help_}"
            )
        if share > config.max_diverged_frac:
            raise FloatingPointError(
                f"{share:.0%} of the runs of {name} left the finite numbers in "
                f"meta-step {step} (seed {seed}), more than run.max_diverged_frac = "
                f"{config.max_diverged_frac} allows. {help_} Or allow more."
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
