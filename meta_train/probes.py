"""Probe tasks: how good theta is, told by whole runs that are always the same.

Every so many meta-steps, theta as it is (not perturbed) trains each probe task from
scratch, with the same seeds every time. A probe's loss is the mean over the last 5 % of
its steps and over the seeds. Their score is the mean over probes of log(loss / loss of
the theta the run began with): below zero is better than that. The theta of the lowest
score is kept. Probes draw nothing that meta-training draws, and change nothing in it.

What is known of earlier evaluations is part of a checkpoint, so that a resumed run
keeps the theta that the undisturbed one would have kept.

Axis names: N probes, K seeds.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from meta_train import devices, unroll

_LATE_FRAC = 0.05  # Of a run's steps, the last.
_LARGEST_LOSS = 1e6  # Of a diverged run, if no ceiling is lower.
_SMALLEST_LOSS = 1e-12  # Whose logarithm is taken.
_SEED = 0  # Not the run's: thetas of several runs meet the same probes.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What is trained, and how often.

    Attributes:
      tasks: Names; none: no probes.
      batch_examples: Of all probes, or one for each.
      steps: Inner steps of all probes, or of each.
      every_steps: Meta-steps between evaluations; the first is before any.
      num_seeds: K, runs of each probe.
    """

    tasks: tuple[str, ...] = ()
    batch_examples: int | tuple[int, ...] = 64
    steps: int | tuple[int, ...] = 1_000
    every_steps: int = 100
    num_seeds: int = 2

    def __post_init__(self):
        """Check every field."""
        for field in ("tasks", "batch_examples", "steps"):
            value = getattr(self, field)
            if isinstance(value, list):  # From JSON.
                object.__setattr__(self, field, tuple(value))
        for field in ("batch_examples", "steps", "every_steps", "num_seeds"):
            value = getattr(self, field)
            if not np.all(np.asarray(value) >= 1):
                raise ValueError(f"probes.{field} must be >= 1, got {value}.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ProbeState:
    """What evaluations so far have found; part of a checkpoint."""

    reference: jax.Array  # (N,), nats. Of the run's first theta; NaN: not evaluated.
    best_losses: jax.Array  # (N,), nats. Of the best theta; NaN likewise.
    best_score: jax.Array  # shape=(), float32. Infinite before the first.
    best_step: jax.Array  # shape=(), int32. Its meta-step; -1 before the first.
    best_theta: Any  # Meta-parameters.


@dataclasses.dataclass(frozen=True)
class Probe:
    """One task, compiled once.

    Attributes:
      inner: The task and the rule that trains it.
      steps: Inner steps.
      num_seeds: K.
    """

    inner: unroll.Inner
    steps: int
    num_seeds: int

    def loss(self, theta: Any) -> float:
        """Late loss of theta: of runs that leave the finite numbers, the ceiling."""
        theta = jax.device_put(theta, self._replicated)
        return float(jnp.mean(self._losses(theta, self._arrays)))

    @functools.cached_property
    def _replicated(self):
        mesh = devices.make_mesh(self.num_seeds, local=True)
        return NamedSharding(mesh, PartitionSpec())

    @functools.cached_property
    def _arrays(self):
        arrays = self.inner.family.arrays("train")
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        return jax.device_put(arrays, self._replicated)

    def _run(self, theta, key, arrays):
        """Late loss of one seed: shape=()."""
        init_key, data_key = jax.random.split(key)
        length = jnp.asarray(self.steps, jnp.int32)
        state = self.inner.init(theta, init_key, length)
        state, losses = self.inner.unroll(
            theta, state, data_key, arrays, self.steps, length
        )
        late = jnp.mean(losses[-max(1, round(_LATE_FRAC * self.steps)) :])
        ceiling = min(self.inner.loss_ceiling, _LARGEST_LOSS)
        return jnp.where(unroll.is_finite(state.params), late, ceiling).clip(
            max=ceiling
        )

    @functools.cached_property
    def _losses(self):
        """``losses(theta, arrays) -> (K,)``."""

        def local(theta, keys, arrays):
            return jax.lax.map(
                lambda key: self._run(theta, key, arrays),
                keys,
                batch_size=devices.side_by_side(keys.shape[0], self.inner.num_params()),
            )

        def losses(theta, arrays):
            split, whole = PartitionSpec("pairs"), PartitionSpec()
            keys = jax.random.split(jax.random.key(_SEED), self.num_seeds)
            return jax.shard_map(
                local,
                mesh=self._replicated.mesh,
                in_specs=(whole, split, whole),
                out_specs=split,
                check_vma=False,
            )(theta, keys, arrays)

        return jax.jit(losses)


class Probes:
    """All probes of a run; those whose data are missing keep their place, empty."""

    def __init__(self, probes: Mapping[str, Probe | None], *, every_steps: int):
        """Take probes by their names in the metrics; None: data missing."""
        self.probes = dict(probes)
        self.every_steps = every_steps

    def init(self, theta: Any) -> ProbeState:
        """Make the state before the first evaluation; arrays on the host."""
        unknown = np.full(len(self.probes), np.nan, np.float32)
        return ProbeState(
            reference=jnp.asarray(unknown),
            best_losses=jnp.asarray(unknown),
            best_score=jnp.asarray(np.inf, jnp.float32),
            best_step=jnp.asarray(-1, jnp.int32),
            best_theta=jax.tree.map(jnp.array, theta),
        )

    def is_due(self, meta_step: int) -> bool:
        """Whether the theta of a meta-step is to be evaluated."""
        return meta_step % self.every_steps == 0 and any(self.probes.values())

    def evaluate(
        self,
        theta: Any,
        state: ProbeState,
        meta_step: int,
        poll: Callable[[], None] = lambda: None,
    ) -> tuple[ProbeState, dict[str, float]]:
        """Train every probe with theta.

        Args:
          theta: Meta-parameters.
          state: From `init` or the last call.
          meta_step: Of theta.
          poll: Called before each probe; may raise.

        Returns:
          The state, with this theta if its score is the lowest so far, and
          ``probe/<name>``, in nats, and ``probe/score``.
        """
        theta = jax.device_get(theta)
        losses = np.full(len(self.probes), np.nan, np.float32)
        for i, probe in enumerate(self.probes.values()):
            poll()
            if probe is not None:
                losses[i] = probe.loss(theta)
        reference = np.asarray(state.reference)
        # Data that came later: compared with what there is.
        reference = np.where(np.isnan(reference), losses, reference)
        score = self._score(losses, reference)
        new: dict[str, Any] = {"reference": reference}
        if self._is_better(losses, reference, state):
            new |= {
                "best_losses": losses,
                "best_score": np.float32(score),
                "best_step": np.int32(meta_step),
                "best_theta": theta,
            }
        like = {name: getattr(state, name) for name in new}
        placed = jax.tree.map(lambda x, y: devices.place(x, y.sharding), new, like)
        state = dataclasses.replace(state, **placed)
        values = {f"probe/{name}": loss for name, loss in self._named(losses).items()}
        return state, {**values, "probe/score": score}

    def _is_better(self, losses, reference, state) -> bool:
        """Whether the score is lower than the best theta's, over the same probes."""
        if state.best_step < 0:
            return True
        best = np.asarray(state.best_losses)
        if np.isnan(losses + best).all():
            return False
        now, then = losses + 0 * best, best + 0 * losses  # NaN where one is unknown.
        return self._score(now, reference) < self._score(then, reference)

    def facts(self, state: ProbeState) -> dict[str, Any]:
        """What the card of the best theta says of it."""
        return {
            "meta_step": int(state.best_step),
            "probe_score": float(state.best_score),
            "probe_losses": self._named(np.asarray(state.best_losses)),
        }

    def _named(self, losses: Sequence[float] | np.ndarray) -> dict[str, float]:
        pairs = zip(self.probes, losses, strict=True)
        return {name: float(loss) for name, loss in pairs if not np.isnan(loss)}

    def _score(self, losses, reference) -> float:
        known = ~np.isnan(losses)
        now, first = (
            np.log(np.maximum(x[known], _SMALLEST_LOSS)) for x in (losses, reference)
        )
        return float(np.float32(np.mean(now - first)))
