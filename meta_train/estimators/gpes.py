"""Generalized persistent evolution strategies: K truncations share one perturbation.

ξ is the sum of a pair's distinct ε since its runs began. K = 1 is PES; with K as long
as a run it is noise-reuse ES; in between the variance falls as K grows.

Reference: Li et al., `Variance-Reduced Gradient Estimation via Noise-Reuse in Online
Evolution Strategies <https://arxiv.org/abs/2304.12180>`_, 2023.
"""

import jax
import jax.numpy as jnp

from meta_train.estimators import pairs


class GPES(pairs.AntitheticPairs):
    """ε is new in every K-th truncation of a run (``noise_period``), ξ its sum."""

    def _noise(self, fresh, state):
        period_steps = self.config.noise_period * self.config.trunc_steps
        renews = state.step % period_steps == 0
        pert = pairs.choose(renews, fresh, state.pert)
        further = jax.tree.map(jnp.add, state.pert_sum, fresh)
        pert_sum = pairs.choose(renews, further, state.pert_sum)
        return pairs.Noise(pert=pert, pert_sum=pert_sum, credit=pert_sum)

    def _first_pert(self, theta):
        return jax.tree.map(jnp.zeros_like, theta)
