"""Truncated backpropagation through the unroll: no noise, and no pairs.

P single runs at theta itself. Exact for a truncation and blind to what theta did
before it: biased as truncated ES is. The gradient explodes where inner training is
chaotic (Metz et al., `Understanding and correcting pathologies in the training of
learned optimizers <https://arxiv.org/abs/1810.10180>`_, 2019).
"""

import dataclasses

import jax
import jax.numpy as jnp

from meta_train import unroll
from meta_train.estimators import base, pairs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RunsState:
    """Everything that is carried from one truncation to the next."""

    inner: unroll.InnerState  # Leading axis (P,).
    step: jax.Array  # (P,), int32. Inner steps done.
    length: jax.Array  # (P,), int32. Steps at which the runs end.


class TruncatedBackprop(base.Estimator):
    """The gradient of the objective of each truncation, its first state given."""

    def _new(self, theta, key, longest, cut=None):
        init_key, length_key = jax.random.split(key)
        length = self._new_length(length_key, longest, cut)
        return RunsState(
            inner=self.inner.init(theta, init_key, length),
            step=jnp.zeros((), jnp.int32),
            length=length,
        )

    def _advance(self, theta, state, key, arrays, longest):
        run_key, data_key = jax.random.split(key)
        finished = state.step >= state.length
        state = pairs.choose(finished, self._new(theta, run_key, longest), state)
        inner, losses, grad, lost = self._unroll_with_gradient(
            theta, state.inner, data_key, arrays, state.step, state.length
        )
        means, values = self._means(losses[None], state.step, state.length)
        diverged = ~unroll.is_finite(inner.params) | lost
        step = state.step + self.config.trunc_steps
        told = base.Told(
            losses=means,
            values=values,
            credit=(),
            analytic=grad,
            finished=finished,
            diverged=diverged,
            steps=jnp.asarray(self.config.trunc_steps),
            length=state.length,
        )
        length = jnp.where(diverged, step, state.length)
        return RunsState(inner=inner, step=step, length=length), told
