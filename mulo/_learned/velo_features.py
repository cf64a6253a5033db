"""What the LSTMs of VeLO and Celo see: progress, recent losses, and one tensor.

* progress, 9: ``tanh(10 (t / num_steps - x))`` for nine fractions x;
* losses, 9: how moving averages of growing length compare with the next longer one;
* the tensor, 12 (VeLO only): mean and variances of its accumulators, and its rank.

Axis names: M momenta, L tensors of one shape.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)

NUM_LOSS_AVERAGES = 10

NUM_COMMON = len(FRACTIONS) + NUM_LOSS_AVERAGES - 1  # Features all tensors share.

RANKS = 5  # One-hot of the number of axes longer than 1; more than 4 give all zeros.


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


def progress(fraction: jax.Array) -> jax.Array:
    """Embed the fraction of the run that is over, (9,)."""
    return jnp.tanh((fraction - np.asarray(FRACTIONS, np.float32)) * 10.0)


def tensor_features(
    params: jax.Array, momentum: jax.Array, rms: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Describe L tensors of one shape by their accumulators, before the update.

    Args:
      params: (L, *shape), float32.
      momentum: (L, M, *shape).
      rms: (L, *shape). Moving average of the squared gradient.

    Returns:
      ``mean_rms`` (L, 1), ``rank`` (L, 5), ``var_m`` (L, M) and ``var_rms`` (L, M).
    """
    count, shape = params.shape[0], params.shape[1:]
    # Not as long vectors: of an array that is sharded, those would be gathered.
    axes = tuple(range(1, params.ndim))
    own = tuple(range(2, momentum.ndim))
    rms = rms[:, None]
    # Everything is seen in units of the weights' own size.
    unit = jax.lax.rsqrt(jnp.maximum(1e-9, jnp.mean(jnp.square(params), axis=axes)))
    unit = unit.reshape(count, 1)
    mean = jnp.mean(momentum, axis=own, keepdims=True)
    var_m = jnp.mean(jnp.square(momentum - mean), axis=own)
    # Measured from the mean of each momentum, not from its own: the published networks
    # were trained with it.
    var_rms = jnp.mean(jnp.square(rms - mean), axis=own)
    rank = np.zeros((count, RANKS), np.float32)
    rank[:, [k for k in [sum(n > 1 for n in shape)] if k < RANKS]] = 1.0
    return (
        _clipped_log(jnp.mean(rms, axis=own) * unit),
        jnp.asarray(rank),
        _clipped_log(var_m * jnp.square(unit)),
        _clipped_log(var_rms * jnp.square(unit)),
    )


def _clipped_log(x):
    return jnp.clip(jnp.log(1e-8 + jnp.abs(10.0 * x)), -5.0, 5.0) * 0.5
