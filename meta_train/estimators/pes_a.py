"""PES with the analytic gradient of the current truncation (PES+A of its paper).

What theta does within a truncation is differentiated, at theta ± ε; only what it did to
the state before is left to the perturbations: ξ without the current ε. The sum is
unbiased for the same smoothed objective, with less variance where the unroll is smooth
and more where its gradient explodes.

Reference: Vicol, Metz, Sohl-Dickstein, `Unbiased Gradient Estimation in Unrolled
Computation Graphs with Persistent Evolution Strategies
<https://arxiv.org/abs/2112.13835>`_, 2021, appendix.
"""

import jax
import jax.numpy as jnp

from meta_train.estimators import pairs


class PESAnalytic(pairs.AntitheticPairs):
    """As PES, but ξ leaves out the current ε, whose part is differentiated."""

    def _noise(self, fresh, state):
        pert_sum = jax.tree.map(jnp.add, state.pert_sum, fresh)
        return pairs.Noise(pert=fresh, pert_sum=pert_sum, credit=state.pert_sum)

    def _unroll_particle(self, theta, inner, key, arrays, step, length):
        return self._unroll_with_gradient(theta, inner, key, arrays, step, length)
