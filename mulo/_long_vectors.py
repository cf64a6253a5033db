"""Scalars and vectors as one long vector: small arrays that share one program.

Per-parameter rules step them like any array, but one by one they would be a program of
many tiny loops. Axis names: M momenta, N entries of all arrays together, L arrays.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MAX_ARRAYS = 32  # In one long vector; each adds a little to the program.


class Layout:
    """Where each array lies in the long vector."""

    def __init__(self, arrays: Sequence[Any]):
        """Take the shapes of L arrays of at most one axis."""
        self._shapes = [jnp.shape(x) for x in arrays]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self._ends = np.cumsum(self._sizes)[:-1].tolist()

    def join(self, arrays: Sequence[Any]) -> jax.Array:
        """Arrays (*lead, *shape) → (*lead, N)."""
        return jnp.concatenate(
            [
                x.reshape(*x.shape[: x.ndim - len(shape)], -1)
                for x, shape in zip(arrays, self._shapes, strict=True)
            ],
            axis=-1,
        )

    def pieces(self, x: jax.Array) -> list[jax.Array]:
        """(*lead, N) → L arrays (*lead, size)."""
        return jnp.split(x, self._ends, axis=-1)

    def split(self, x: jax.Array) -> list[jax.Array]:
        """(*lead, N) → arrays (*lead, *shape)."""
        return [
            piece.reshape(*piece.shape[:-1], *shape)
            for piece, shape in zip(self.pieces(x), self._shapes, strict=True)
        ]

    def mean_squares(self, x: jax.Array) -> jax.Array:
        """Mean square of each array: (*lead, N) → (*lead, L)."""
        return jnp.stack([jnp.mean(p, -1) for p in self.pieces(jnp.square(x))], axis=-1)

    def spread(self, values: jax.Array) -> jax.Array:
        """One value per array to all of its entries: (*lead, L) → (*lead, N)."""
        return values[..., np.repeat(np.arange(len(self._sizes)), self._sizes)]


def in_chunks(
    step: Callable[..., tuple[list[Any], list[Any]]],
    grads: Sequence[Any],
    params: Sequence[Any],
    states: Sequence[Any],
) -> tuple[list[Any], list[Any]]:
    """Call ``step(grads, params, states)`` on so many arrays as share a long vector.

    Args:
      step: Returns two lists, steps and new states.
      grads: Arrays of at most one axis.
      params: As grads.
      states: One per array.

    Returns:
      Both lists for all arrays.
    """
    outs, new_states = [], []
    for i in range(0, len(grads), _MAX_ARRAYS):
        chunk = slice(i, i + _MAX_ARRAYS)
        out, new = step(grads[chunk], params[chunk], states[chunk])
        outs += out
        new_states += new
    return outs, new_states
