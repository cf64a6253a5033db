"""Moving averages of the loss, and how they compare: what the LSTMs see of progress.

Ten averages of growing length; nine features say where each lies between its own lowest
value and the next longer one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NUM_LOSS_AVERAGES = 10


class LossState(NamedTuple):
    """Moving averages of the loss."""

    means: jax.Array  # (10,), float32. Not corrected for their zero start.
    lowest: jax.Array  # (10,), float32. Smallest corrected average so far.


def init_loss() -> LossState:
    """No loss seen yet."""
    return LossState(
        means=jnp.zeros(NUM_LOSS_AVERAGES, jnp.float32),
        # A dtype, or the state would be weakly typed and its first step compiled twice.
        lowest=jnp.full(NUM_LOSS_AVERAGES, 999_999_999_999.0, jnp.float32),
    )


def loss_decays(num_steps: jax.typing.ArrayLike) -> jax.Array:
    """Decays per step, (10,): time scales spaced evenly from 10 to num_steps."""
    logs = jnp.linspace(1.0, jnp.log10(num_steps), NUM_LOSS_AVERAGES)
    # Differs from the public code, where time scales beyond float32's reach round to
    # decays of 1, whose averages never begin: everything became NaN.
    return jnp.minimum(jnp.exp(-(10.0**-logs)), np.nextafter(np.float32(1), 0))


def update_loss(
    state: LossState, loss: jax.Array, count: jax.Array, decays: jax.Array
) -> tuple[LossState, jax.Array]:
    """Take in one loss.

    Args:
      state: Averages so far.
      loss: Scalar, float32. What exceeds twice the largest average is cut to that, and
        so is what is not a number; it is left out if there is no average yet.
      count: Losses taken in before this one, int32.
      decays: As `loss_decays` returns them.

    Returns:
      The new averages, and 9 features in [-1, 1], zero for the first two losses.
    """
    correction = 1.0 - decays ** (jnp.asarray(count, jnp.float32) + 1.0)
    # Differs from the public code, which looks at count == 0 alone: a first loss of
    # zero cuts all later ones to zero there, and a NaN stays for good.
    fresh = jnp.all(state.means == 0.0)
    loss = jnp.where(jnp.isnan(loss), jnp.inf, loss)
    largest = jnp.where(fresh, loss, jnp.max(state.means / correction))
    loss = jnp.minimum(jnp.abs(largest) * 2.0, loss)
    means = state.means * decays + loss * (1.0 - decays)
    means = jnp.where(jnp.isfinite(loss), means, state.means)
    corrected = means / correction
    seen = jnp.minimum(state.lowest, corrected)
    lowest = jnp.where(jnp.isfinite(loss), seen, state.lowest)
    # Where an average lies between its lowest value and the next longer average.
    span = jnp.maximum(1e-8, corrected[1:] - lowest[:-1])
    features = jnp.clip((corrected[:-1] - lowest[:-1]) / span - 1.0, -1.0, 1.0)
    return LossState(means, lowest), jnp.where(count <= 1, 0.0 * features, features)
