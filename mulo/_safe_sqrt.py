"""A square root that can be differentiated where it is zero."""

import jax
import jax.numpy as jnp


def safe_sqrt(x: jax.Array) -> jax.Array:
    """``jnp.sqrt`` of x >= 0, with derivative 0 at 0, not infinity.

    Gradients are exactly zero where units are dead, and infinity times zero would make
    the derivative of a whole run NaN.
    """
    positive = x > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
