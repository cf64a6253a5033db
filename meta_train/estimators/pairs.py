"""Antithetic pairs: two runs at theta + ε and theta - ε, alike in all else.

P pairs of inner training runs ("particles") go on in parallel. Both of a pair have the
same initial parameters, data and length. With L± the objective's means over a
truncation (:mod:`meta_train.objective`; by default the mean losses) an estimate is

    g = mean over pairs of  ξ (L+ - L-) / (2 σ²).

What ε is drawn when, and what ξ credits, is all that tells these estimators apart: each
is a file beside this one.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import flatten_util

from meta_train import unroll
from meta_train.estimators import base, restarts

# 0 and 1 are what splitting the key gives.
_RESTART_KEY = 2  # Folded into a run's key to decide whether a kept state goes on.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairsState:
    """Everything that is carried from one truncation to the next."""

    inner: unroll.InnerState  # Leading axes (P, 2).
    pert_sum: base.Theta  # As theta plus (P,). ξ: what the runs are credited with.
    step: jax.Array  # (P,), int32. Inner steps done.
    length: jax.Array  # (P,), int32. Steps at which the runs end.
    pert: base.Theta = ()  # As theta plus (P,). ε, where it is neither new nor ξ.
    watch: Any = ()  # How the runs fare, if kept states are begun from.


@dataclasses.dataclass(frozen=True)
class Noise:
    """What moves a pair in one truncation; trees like theta."""

    pert: base.Theta  # ε.
    pert_sum: base.Theta  # ξ, of the state from now on.
    credit: base.Theta  # What L+ - L- is multiplied by: ξ, unless it is less.


class AntitheticPairs(base.Estimator):
    """An estimator whose pairs go on around theta; a subclass says how `_noise` is."""

    @abc.abstractmethod
    def _noise(self, fresh: base.Theta, state: PairsState) -> Noise:
        """What moves one pair now; ``fresh`` is newly drawn, std sigma."""

    def _first_pert(self, theta):
        """``pert`` of a state at its start; () for estimators that do not keep it."""
        del theta
        return ()

    def _new(self, theta, key, longest, cut=None):
        init_key, length_key = jax.random.split(key)
        length = self._new_length(length_key, longest, cut)
        state = PairsState(
            inner=twice(self.inner.init(theta, init_key, length)),
            pert_sum=jax.tree.map(jnp.zeros_like, theta),
            step=jnp.zeros((), jnp.int32),
            length=length,
            pert=self._first_pert(theta),
        )
        if self.config.restart_prob:
            state = dataclasses.replace(state, watch=restarts.start(state))
        return state

    def _advance(self, theta, state, key, arrays, longest):
        run_key, pert_key, data_key = jax.random.split(key, 3)
        finished = state.step >= state.length
        fresh = self._new(theta, run_key, longest)
        if self.config.restart_prob:
            restart_key = jax.random.fold_in(run_key, _RESTART_KEY)
            fresh = restarts.begin(self.config, restart_key, state, fresh)
        state = choose(finished, fresh, state)
        noise = self._noise(draw(pert_key, theta, self.config.sigma), state)

        def unroll_sign(particle):
            theta, inner = particle
            return self._unroll_particle(
                theta, inner, data_key, arrays, state.step, state.length
            )

        inner, losses, analytic, lost = self._map_signs(
            unroll_sign, (around(theta, noise.pert), state.inner)
        )
        means, values = self._means(losses, state.step, state.length)
        diverged = ~unroll.is_finite(inner.params) | jnp.any(lost)
        step = state.step + self.config.trunc_steps
        told = base.Told(
            losses=means,
            values=values,
            credit=noise.credit,
            analytic=jax.tree.map(lambda g: jnp.mean(g, axis=0), analytic),
            finished=finished,
            diverged=diverged,
            steps=jnp.asarray(self.config.trunc_steps),
            length=state.length,
        )
        state = PairsState(
            inner=inner,
            pert_sum=noise.pert_sum,
            step=step,
            length=jnp.where(diverged, step, state.length),  # Nothing left to learn.
            pert=noise.pert if jax.tree.leaves(state.pert) else (),
            watch=state.watch,
        )
        if self.config.restart_prob:
            watch = restarts.follow(self.config, state, jnp.mean(means))
            state = dataclasses.replace(state, watch=watch)
        return state, told

    def _unroll_particle(self, theta, inner, key, arrays, step, length):
        """A truncation of one particle: state, losses, a gradient or (), is it lost."""
        after, losses = self._unroll(
            theta, inner, key, arrays, length, begins=step == 0
        )
        return after, losses, (), jnp.zeros((), bool)


def twice(tree: Any) -> Any:
    """Both signs' copy of a tree, stacked on a leading axis of 2."""
    return jax.tree.map(lambda x: jnp.stack([x, x]), tree)


def draw(key: jax.Array, theta: base.Theta, sigma: float) -> base.Theta:
    """Draw a new ε: normal, of that standard deviation."""
    # One draw for all of theta: every further one costs seconds of compilation.
    flat, unravel = flatten_util.ravel_pytree(theta)
    return unravel(sigma * jax.random.normal(key, flat.shape))


def around(theta: base.Theta, pert: base.Theta) -> base.Theta:
    """Theta + ε and theta - ε, stacked on a leading axis of 2."""
    return jax.tree.map(lambda t, e: jnp.stack([t + e, t - e]), theta, pert)


def choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    """One of two trees, by a bool of shape=()."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
