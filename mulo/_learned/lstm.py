"""Linear layers of the learned optimizers, and the LSTM cell of those that have one.

The cell is haiku's: one linear map of (input, hidden) to the gates in the order input,
candidate, forget, output, and 1 added to the forget gate before its sigmoid. It runs
once per tensor, not per parameter, so products are computed at full float32 precision
on every device: a rounded state would be fed back every step.

Axis names: T tensors, I inputs, O outputs, U units of the LSTM.
"""

from typing import Any

import jax
import jax.numpy as jnp

Params = dict[str, jax.Array]  # {"w": (I, O), "b": (O,)}


def draw_weights(key: jax.Array, shape: tuple[int, ...], inputs: int) -> jax.Array:
    """Truncated normal weights of scale 1/sqrt(inputs)."""
    # Two standard deviations are kept, and not corrected for, as in haiku.
    drawn = jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
    return drawn * inputs**-0.5


def init_linear(key: jax.Array, inputs: int, outputs: int) -> Params:
    """Draw a layer: weights as `draw_weights`, biases zero."""
    weights = draw_weights(key, (inputs, outputs), inputs)
    return {"w": weights, "b": jnp.zeros(outputs, jnp.float32)}


def linear(params: Params, x: jax.Array) -> jax.Array:
    """(T, I) → (T, O)."""
    out = jnp.matmul(x, params["w"], precision=jax.lax.Precision.HIGHEST)
    return out + params["b"].reshape(1, -1)


def init_lstm(key: jax.Array, inputs: int, units: int) -> Params:
    """Draw a cell's weights, (inputs + units, 4 * units)."""
    return init_linear(key, inputs + units, 4 * units)


def lstm_step(
    params: Params, x: jax.Array, hidden: jax.Array, cell: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One step of T cells that share their weights.

    Args:
      params: ``w`` (I + U, 4 U) and ``b`` (4 U,).
      x: Inputs, (T, I).
      hidden: Last output, (T, U).
      cell: Last cell state, (T, U).

    Returns:
      The new output and cell state, (T, U) each.
    """
    gates = linear(params, jnp.concatenate([x, hidden], axis=1))
    enter, candidate, forget, leave = jnp.split(gates, 4, axis=1)
    cell = jax.nn.sigmoid(forget + 1.0) * cell + jax.nn.sigmoid(enter) * jnp.tanh(
        candidate
    )
    return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell


def initial_states(theta: Any, count: int) -> tuple[jax.Array, jax.Array]:
    """Learned initial ``hidden`` and ``cell`` (1, U), repeated for every tensor."""
    # Copies: a state that shared theta's arrays could not be donated.
    hidden, cell = (
        jnp.array(jnp.broadcast_to(theta[name], (count, theta[name].shape[1])))
        for name in ("hidden", "cell")
    )
    return hidden, cell
