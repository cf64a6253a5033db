"""Gradients with what is not a number, or too large to be one, taken out."""

import jax
import jax.numpy as jnp

GRADIENT_CLIP = 1_000.0  # Gradient units.


def clean(grad: jax.typing.ArrayLike) -> jax.Array:
    """A gradient in float32, cut to ±1000; what is not a number counts as zero."""
    # Differs from the public codes, which let one NaN into their accumulators for good;
    # by way of VeLO's LSTM it reaches every tensor.
    grad = jnp.nan_to_num(
        jnp.asarray(grad, jnp.float32), posinf=GRADIENT_CLIP, neginf=-GRADIENT_CLIP
    )
    return jnp.clip(grad, -GRADIENT_CLIP, GRADIENT_CLIP)
