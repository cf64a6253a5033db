"""Persistent evolution strategies: unbiased, with a new perturbation per truncation.

ξ is the sum of a pair's ε since its runs began (Algorithm 2 of the reference).

Reference: Vicol, Metz, Sohl-Dickstein, `Unbiased Gradient Estimation in Unrolled
Computation Graphs with Persistent Evolution Strategies
<https://arxiv.org/abs/2112.13835>`_, 2021.
"""

import jax
import jax.numpy as jnp

from meta_train.estimators import pairs


class PES(pairs.AntitheticPairs):
    """ε is new in every truncation, ξ its sum. Its variance grows with their number."""

    def _noise(self, fresh, state):
        pert_sum = jax.tree.map(jnp.add, state.pert_sum, fresh)
        return pairs.Noise(pert=fresh, pert_sum=pert_sum, credit=pert_sum)
