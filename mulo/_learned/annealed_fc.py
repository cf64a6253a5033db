"""AnnealedFC: SmallFC told how long the run is.

The network is SmallFC's, weight for weight. Two things differ: its time features read
progress, t/T of a run of 1,000 steps, instead of t, so that no run is longer than those
of meta-training; and steps are annealed linearly, after a short warm-up. Both are what
the published rule lacks beyond its horizon (docs/recipes.md).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from mulo._checks import rule_inputs as inputs
from mulo._learned.small_fc import SmallFC, Theta
from mulo.mup._views import sees_weights

_REFERENCE_STEPS = 1_000.0  # A run's steps, as the time features count them.


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnealedFC(SmallFC):
    """Architecture of the annealed per-parameter MLP; fields of SmallFC, and these.

    Attributes:
      warmup_frac: Share of the run with a linear warm-up.
      final_frac: Step at the end of the decay, as a share of its peak.
    """

    warmup_frac: float = 0.02
    final_frac: float = 0.01

    NEEDS_NUM_STEPS: ClassVar[bool] = True

    def __post_init__(self):
        """Check every field."""
        super().__post_init__()
        inputs.check_single_decays(self, ("warmup_frac",))
        inputs.check_positive(self, ("final_frac",))

    @sees_weights()
    def transform(
        self, theta: Theta, *, mup: Any | None = None, num_steps: Any = None
    ) -> optax.GradientTransformationExtraArgs:
        """Make the optimizer described by theta.

        Args:
          theta: As for :meth:`SmallFC.transform`.
          mup: As there.
          num_steps: T, length of the run in updates; may be traced. Later steps are
            like the last one.

        Returns:
          As there.

        Raises:
          ValueError: As there, and if num_steps is missing or less than 1.
        """
        horizon = inputs.check_num_steps("AnnealedFC", num_steps)
        warn_of_end = inputs.end_warner("AnnealedFC", num_steps)

        def progress(count):
            return jnp.minimum(jnp.asarray(count, jnp.float32) / horizon, 1.0)

        def anneal(count):
            # The first update has done one step of its warm-up.
            t = jnp.asarray(count, jnp.float32) + 1.0
            warmup = t / jnp.maximum(self.warmup_frac * horizon, 1.0)
            left = 1.0 - (1.0 - self.final_frac) * jnp.minimum(t / horizon, 1.0)
            return jnp.minimum(warmup, 1.0) * left

        rule = self._transform(
            theta, mup, lambda count: _REFERENCE_STEPS * progress(count)
        )

        def update_fn(updates, state, params=None, **extra_args):
            count = state.count
            warn_of_end(optax.safe_increment(count))
            updates, state = rule.update(updates, state, params, **extra_args)
            scale = anneal(count)
            updates = jax.tree.map(lambda u: (scale * u).astype(u.dtype), updates)
            return updates, state

        return optax.GradientTransformationExtraArgs(rule.init, update_fn)
