"""What the LSTMs of VeLO and Celo see: progress, recent losses, and one tensor.

* progress, 9: ``tanh(10 (t / num_steps - x))`` for nine fractions x;
* losses, 9 (:mod:`mulo._learned.loss_averages`);
* the tensor, 12 (VeLO only): mean and variances of its accumulators, and its rank.

Axis names: M momenta, L tensors of one shape.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mulo._learned import loss_averages

FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)

# Features all tensors share.
NUM_COMMON = len(FRACTIONS) + loss_averages.NUM_LOSS_AVERAGES - 1

RANKS = 5  # One-hot of the number of axes longer than 1; more than 4 give all zeros.


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
