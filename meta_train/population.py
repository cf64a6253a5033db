"""A population of learned optimizers that train one another, without a hand-made one.

M members have the same rule and each its own theta, drawn anew. Member i's
meta-gradient is stepped by the learned optimizer that member i + 1 is (the last one's
by the first's). Every few meta-steps the half with the larger objective is replaced by
copies of the other half, slightly perturbed: at first that is all there is to get
better by, until members get good enough at training to make others better.

All members draw the same pairs, lengths and data, so that they are compared fairly (but
that the pairs of a member whose runs diverge begin anew earlier). Metrics are those of
the member that is the best at the time, unless they say otherwise.

Reference: Metz, Freeman, Maheswaranathan, Sohl-Dickstein, `Training Learned Optimizers
with Randomly Initialized Learned Optimizers <https://arxiv.org/abs/2101.07367>`_, 2021.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from meta_train import devices, meta_optimizer, trainer

# Folded into a meta-step's key to draw perturbations; families have the small numbers.
_SELECTION_KEY = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class PopulationConfig:
    """How many there are, and how the worse ones are replaced.

    Attributes:
      size: M, even; 0 for no population but one theta and a meta-optimizer.
      every_steps: Meta-steps between selections. The objective is averaged over as
        many, exponentially.
      perturb_std: Standard deviation of what is added to a copy, in units of theta.
      end_factor: Share of every step of theta that is left at
        ``meta_optimizer.decay_steps``, to which it falls linearly. Learned optimizers
        go on with large steps however good theta is by then.
    """

    size: int = 0
    every_steps: int = 20
    perturb_std: float = 0.02
    end_factor: float = 1.0

    def __post_init__(self):
        """Check every field."""
        if self.size < 0 or self.size % 2:
            raise ValueError(
                f"population.size must be even and >= 2, or 0, got {self.size}."
            )
        if self.every_steps < 1:
            raise ValueError(
                f"population.every_steps must be >= 1, got {self.every_steps}."
            )
        if not 0.0 <= self.perturb_std < math.inf:
            raise ValueError(
                "population.perturb_std must be finite and >= 0, got "
                f"{self.perturb_std}."
            )
        if not 0.0 <= self.end_factor <= 1.0:
            raise ValueError(
                f"population.end_factor must lie in [0, 1], got {self.end_factor}."
            )


class Population(trainer.MetaTrainer):
    """Meta-trains as many thetas as `PopulationConfig` says, by one another."""

    def __init__(
        self,
        *,
        population: PopulationConfig,
        meta_optimizer_config: meta_optimizer.MetaOptimizerConfig,
        **options: Any,
    ):
        """Build the estimators; compiles nothing yet.

        Args:
          population: With M > 0.
          meta_optimizer_config: What clips, its ``step_factor``, and ``decay_steps``,
            for ``end_factor`` and rules that must know how long a run is; the rest is
            not read.
          **options: As of :class:`meta_train.trainer.MetaTrainer`.
        """
        super().__init__(meta_optimizer_config=meta_optimizer_config, **options)
        self._config = population
        self._meta = meta_optimizer_config

    def init(self) -> trainer.TrainState:
        """Make the state before the first meta-step.

        ``theta``, ``opt_state`` and ``estimators`` are tuples with one entry for each
        member, ``grad_square`` has a leading axis of members.
        """
        size = self._config.size
        theta_key, runs_key = jax.random.split(self._init_key)
        put = functools.partial(devices.place, sharding=self.estimators[0].replicated)
        if self._init_theta is not None:
            start = jax.tree.map(jnp.array, self._init_theta)
            thetas = [
                self._perturbed(start, jax.random.fold_in(theta_key, i))
                for i in range(size)
            ]
        else:
            keys = [jax.random.fold_in(theta_key, i) for i in range(size)]
            thetas = [self.rule.init(key) for key in keys]
        thetas = [put(theta) for theta in thetas]
        probes = self.probes.init(thetas[0]) if self.probes else ()
        families = len(self.estimators)
        return trainer.TrainState(
            theta=tuple(thetas),
            opt_state=tuple(
                put(self._optimizer_of(thetas[(i + 1) % size]).init(thetas[i]))
                for i in range(size)
            ),
            estimators=tuple(
                tuple(
                    estimator.init(theta, jax.random.fold_in(runs_key, i))
                    for i, estimator in enumerate(self.estimators)
                )
                for theta in thetas
            ),
            meta_step=put(jnp.zeros((), jnp.int32)),
            fitness=put(jnp.zeros(size)),
            grad_square=put(jnp.zeros((size, families)) if self._normalize else ()),
            probes=put(probes),
        )

    def compile(self, state: trainer.TrainState, poll: Callable[[], None]) -> None:
        """Compile what every member runs; see the class it extends."""
        member = dataclasses.replace(
            state, theta=state.theta[0], estimators=state.estimators[0]
        )
        super().compile(member, poll)

    def theta(self, state: trainer.TrainState) -> Any:
        """The member with the smallest objective."""
        return state.theta[int(np.argmin(state.fitness))]

    def step(
        self, state: trainer.TrainState
    ) -> tuple[trainer.TrainState, dict[str, jax.Array]]:
        """Do one meta-step of every member; see the class it extends."""
        size = self._config.size
        key = jax.random.fold_in(self._step_key, state.meta_step)
        members, told = [], []
        for i in range(size):
            grads, estimators, families = self._estimate(
                state.theta[i], state.estimators[i], key, state.meta_step
            )
            square = state.grad_square[i] if self._normalize else ()
            theta, opt_state, square, metrics = self._step_member(
                state.theta[i],
                state.opt_state[i],
                state.theta[(i + 1) % size],
                square,
                state.meta_step,
                grads,
                families,
            )
            members.append((theta, opt_state, tuple(estimators), square))
            told.append(metrics)
        meta_step, fitness = self._rate(state.meta_step, state.fitness, told)
        best = told[int(np.argmin(fitness))]
        if int(meta_step) % self._config.every_steps == 0:
            members, fitness = self._select(members, fitness, key)
        thetas, opt_states, estimators, squares = zip(*members, strict=True)
        state = trainer.TrainState(
            theta=thetas,
            opt_state=opt_states,
            estimators=estimators,
            meta_step=meta_step,
            fitness=fitness,
            grad_square=jnp.stack(squares) if self._normalize else (),
            probes=state.probes,
        )
        for name in self.names:  # One member that is lost does not end the run.
            shares = [m[f"{name}/diverged_frac"] for m in told]
            best[f"{name}/diverged_frac"] = jnp.stack(shares).mean()
        return state, {
            **best,
            "inner_steps": jnp.stack([m["inner_steps"] for m in told]).sum(),
            "population/best": jnp.min(fitness),
            "population/worst": jnp.max(fitness),
        }

    def _select(self, members, fitness, key):
        """Replace the worse half by perturbed copies of the better."""
        order = np.argsort(np.asarray(fitness), kind="stable")
        half = len(members) // 2
        members, fitness = list(members), np.array(fitness)
        for rank in range(half):
            parent, child = int(order[rank]), int(order[half + rank])
            theta, *rest = jax.tree.map(jnp.copy, members[parent])
            draw = jax.random.fold_in(jax.random.fold_in(key, _SELECTION_KEY), child)
            members[child] = (self._perturbed(theta, draw), *rest)
            # Of two that are equal the original is the better one.
            fitness[child] = np.nextafter(fitness[parent], np.float32(np.inf))
        put = self.estimators[0].replicated
        return members, devices.place(jnp.asarray(fitness), put)

    def _optimizer_of(self, theta):
        """The learned optimizer that a member is, with its steps scaled and clipped."""
        steps = self.rule.options(num_steps=self._meta.decay_steps)
        learned = self.rule.transform(theta, mup=None, **steps)
        clipped = self._meta.clipped(
            optax.chain(learned, optax.scale(self._meta.step_factor))
        )
        end = self._config.end_factor
        if end == 1.0:  # Nothing to count; runs saved without it go on.
            return clipped
        # After what clips, which acts most of the time.
        falling = optax.linear_schedule(1.0, end, self._meta.decay_steps)
        return optax.with_extra_args_support(
            optax.chain(clipped, optax.scale_by_schedule(falling))
        )

    @functools.cached_property
    def _perturbed(self):
        def perturb(theta, key):
            flat, unravel = jax.flatten_util.ravel_pytree(theta)
            noise = jax.random.normal(key, flat.shape)
            return unravel(flat + self._config.perturb_std * noise)

        return jax.jit(perturb, out_shardings=self.estimators[0].replicated)

    @functools.cached_property
    def _rate(self):
        def rate(meta_step, fitness, told):
            new = jnp.stack([m["objective"] for m in told])
            lost = ~jnp.isfinite(jnp.stack([m["theta_norm"] for m in told]))
            lost |= ~jnp.isfinite(new)
            new = jnp.where(lost, jnp.finfo(jnp.float32).max, new)
            # A plain mean at first, exponential once it has had enough.
            count = jnp.minimum(meta_step + 1, self._config.every_steps)
            return meta_step + 1, fitness + (new - fitness) / count

        return jax.jit(rate, out_shardings=self.estimators[0].replicated)

    @functools.cached_property
    def _step_member(self):
        def step(theta, opt_state, other, square, meta_step, grads, families):
            grad, new_square, norms = self._average(grads, square, meta_step)
            new, new_state, metrics = self._move(
                self._optimizer_of(other), theta, opt_state, grad, families
            )
            # A member that is lost must not take along the one that it trains.
            kept = jnp.isfinite(metrics["theta_norm"])
            theta, opt_state, square = jax.tree.map(
                lambda a, b: jnp.where(kept, a, b),
                (new, new_state, new_square),
                (theta, opt_state, square),
            )
            metrics["theta_norm"] = optax.tree.norm(theta)
            metrics |= self._family_metrics(families, norms)
            return theta, opt_state, square, metrics

        return jax.jit(step, out_shardings=self.estimators[0].replicated)
