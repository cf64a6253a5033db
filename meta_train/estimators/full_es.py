"""Evolution strategies over whole runs: every estimate trains from scratch to the end.

Unbiased up to the smoothing, and as slow as runs are long: a meta-gradient costs whole
runs. With ``loss_diff="sign"`` and ``objective.weights="last"`` it is the recipe VeLO
was meta-trained by (Metz et al., `VeLO <https://arxiv.org/abs/2211.09760>`_, 2022).
"""

import dataclasses

import jax
import jax.numpy as jnp

from meta_train import unroll
from meta_train.estimators import base, pairs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FullESState:
    """Full ES carries nothing on; that runs ended is all there is to say."""

    length: jax.Array  # (P,), int32. Steps of the last runs.


class FullES(base.Estimator):
    """ε is one for a whole run, and ξ is ε; nothing goes on."""

    def _new(self, theta, key, longest, cut=None):
        del theta, key, longest, cut
        return FullESState(length=jnp.zeros((), jnp.int32))

    def _advance(self, theta, state, key, arrays, longest):
        del state
        run_key, pert_key, data_key = jax.random.split(key, 3)
        init_key, length_key = jax.random.split(run_key)
        length = self._new_length(length_key, longest, None)
        truncations = length // self.config.trunc_steps
        pert = pairs.draw(pert_key, theta, self.config.sigma)
        thetas = pairs.around(theta, pert)

        def advance(carried):
            i, inner, means, values = carried
            key = jax.random.fold_in(data_key, i)

            def unroll_sign(particle):
                theta, inner = particle
                return self._unroll(theta, inner, key, arrays, length)

            inner, losses = self._map_signs(unroll_sign, (thetas, inner))
            step = i * self.config.trunc_steps
            mean, value = self._means(losses, step, length)
            return i + 1, inner, means + mean, values + value

        zeros = jnp.zeros(2)
        start = (
            jnp.zeros((), jnp.int32),
            jax.vmap(lambda theta: self.inner.init(theta, init_key, length))(thetas),
            zeros,
            zeros,
        )
        _, inner, means, values = jax.lax.while_loop(
            lambda carried: carried[0] < truncations, advance, start
        )
        told = base.Told(
            losses=means / truncations,
            values=values / truncations,
            credit=pert,
            analytic=(),
            finished=jnp.ones((), bool),
            diverged=~unroll.is_finite(inner.params),
            steps=length,
            length=length,
        )
        return FullESState(length=length), told
