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

from mulo._learned.accumulators import LeafState

_MAX_ARRAYS = 32  # In one long vector; each adds a little to the program.
_BLOCK = 32_768  # Entries at a time of an array with a vector, and blocks, of its own.


class Layout:
    """Where each array lies in the long vector."""

    def __init__(self, arrays: Sequence[Any]):
        """Take the shapes of L arrays of at most one axis."""
        self._shapes = [jnp.shape(x) for x in arrays]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self._ends = np.cumsum(self._sizes)[:-1].tolist()

    @property
    def in_blocks(self) -> bool:
        """Whether this is one array too long for all that is made of it at once."""
        return is_long(self._sizes[0])

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

    def join_states(self, states: Sequence[LeafState]) -> LeafState:
        """Accumulators of the arrays → of the long vector."""
        second = jnp.concatenate([s.along_a for s in states], axis=-1)
        momentum = self.join([s.momentum for s in states])
        return LeafState(momentum, self.join([s.rms for s in states]), second, second)

    def split_states(self, state: LeafState) -> list[LeafState]:
        """Undo `join_states`."""
        second = self.pieces(state.along_a)
        momenta, rms = self.split(state.momentum), self.split(state.rms)
        leaves = zip(momenta, rms, second, second, strict=True)
        return [LeafState(*leaf) for leaf in leaves]

    def mean_squares(self, x: jax.Array) -> jax.Array:
        """Mean square of each array: (*lead, N) → (*lead, L)."""
        return jnp.stack([jnp.mean(p, -1) for p in self.pieces(jnp.square(x))], axis=-1)

    def spread(self, values: jax.Array) -> jax.Array:
        """One value per array to all of its entries: (*lead, L) → (*lead, N)."""
        lead = values.shape[:-1]
        return jnp.concatenate(
            [
                jnp.broadcast_to(values[..., i, None], (*lead, size))
                for i, size in enumerate(self._sizes)
            ],
            axis=-1,
        )


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
    outs: list[Any] = [None] * len(grads)
    new_states = list(outs)
    alone = [i for i, x in enumerate(grads) if is_long(x.size)]
    rest = [i for i in range(len(grads)) if i not in alone]
    chunks = [rest[i : i + _MAX_ARRAYS] for i in range(0, len(rest), _MAX_ARRAYS)]
    for chunk in (*chunks, *([i] for i in alone)):
        pick = ([xs[i] for i in chunk] for xs in (grads, params, states))
        for i, out, new in zip(chunk, *step(*pick), strict=True):
            outs[i], new_states[i] = out, new
    return outs, new_states


def per_block(run: Callable[..., Any], arrays: Sequence[jax.Array]) -> tuple[Any, Any]:
    """Call ``run(*arrays)`` on so many entries of the last axis at a time.

    Args:
      run: Maps arrays (…, n) to arrays, for any n.
      arrays: (…, N).

    Returns:
      What whole blocks made, with their axis in front, and what the rest made, or None.
    """
    size = arrays[0].shape[-1]
    whole = size // _BLOCK * _BLOCK

    def block(i):
        # Slices, since arrays cut beforehand would be copies of all.
        return run(
            *(
                jax.lax.dynamic_slice_in_dim(x, i * _BLOCK, _BLOCK, axis=-1)
                for x in arrays
            )
        )

    blocks = jax.lax.map(block, jnp.arange(whole // _BLOCK))
    rest = None
    if whole < size:
        rest = run(*(x[..., whole:] for x in arrays))
    return blocks, rest


def by_blocks(run: Callable[..., jax.Array], arrays: Sequence[jax.Array]) -> jax.Array:
    """As ``run(*arrays)``, which makes an entry (N,) of each of (…, N)."""
    blocks, rest = per_block(run, arrays)
    out = blocks.reshape(-1)
    return out if rest is None else jnp.concatenate([out, rest])


def mean_of_blocks(means: Callable[..., Any], arrays: Sequence[jax.Array]) -> Any:
    """Mean over all entries of the last axis of what ``means(*arrays)`` averages.

    Args:
      means: Maps arrays (…, n) to a tree of means over n, for any n.
      arrays: (…, N), long ones.

    Returns:
      That tree.
    """
    size = arrays[0].shape[-1]
    blocks, rest = per_block(means, arrays)
    whole = size // _BLOCK * _BLOCK
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0) * (whole / size), blocks)
    if rest is None:
        return mean
    return jax.tree.map(lambda a, b: a + b * (1.0 - whole / size), mean, rest)


def is_long(size: int) -> bool:
    """Whether an array has a vector, and blocks, of its own."""
    return size > 2 * _BLOCK
