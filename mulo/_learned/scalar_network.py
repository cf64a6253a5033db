"""A tiny MLP on every entry of an array, written out in scalars.

With 4 or 8 hidden units a per-parameter network is no chain of matrix products but some
hundred multiply-adds: written out element by element, features and hidden units of an
entry are one fused loop and stay in registers. A layer is a list with one array per
unit; weights are scalars, or arrays that broadcast against the units.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mulo._learned import placement

_MAX_MULTIPLY_ADDS = 600  # In one loop.
_ROW = 256  # Entries of a vector in a running sum.
_LANES = 16  # Running sums of a row, side by side.


def row_mean_squares(
    arrays: Sequence[jax.Array], together: Sequence[Sequence[int]]
) -> jax.Array:
    """Mean square of each of F arrays over its last axis.

    Means of several arrays in one reduction read what the arrays are made of once and
    never write the arrays themselves; rows first, because a single running sum would
    lose digits in large arrays.

    Args:
      arrays: Of equal shape (…, X).
      together: Positions of arrays to be reduced at once, such as those made of the
        same accumulators; about six at a time are fastest on CPUs. Every position once.

    Returns:
      shape=(F, …).
    """
    sums: dict[int, jax.Array] = {}
    for positions in together:
        squares = (jnp.square(arrays[i]) for i in positions)
        sums |= zip(positions, _row_sums(*squares), strict=True)
    return jnp.stack([sums[i] for i in range(len(arrays))]) / arrays[0].shape[-1]


def mean_squares(
    vectors: Sequence[jax.Array], together: Sequence[Sequence[int]]
) -> jax.Array:
    """Mean square of each of F vectors (N,), in rows as well: (F,)."""
    size = vectors[0].shape[0]
    whole = size // _ROW * _ROW
    sums = []
    if whole:
        rows = [x[:whole].reshape(-1, _ROW) for x in vectors]
        by_row = row_mean_squares(rows, together)
        sums.append(jnp.sum(by_row, axis=1) * _ROW)
    if whole < size:
        rest = [x[whole:] for x in vectors]
        by_row = row_mean_squares(rest, together)
        sums.append(by_row * (size - whole))
    return jnp.sum(jnp.stack(sums), axis=0) / size


@jax.custom_jvp
def _row_sums(*arrays):
    """Sums over the last axis of arrays of one shape, in one pass."""
    zeros = tuple(jnp.zeros((), x.dtype) for x in arrays)
    even = arrays[0].shape[-1] % _LANES == 0
    lanes = _LANES if even and placement.is_on_one_cpu() else 1
    # Sums that end up side by side are made so; a single one is made step by step.
    split = tuple(x.reshape(*x.shape[:-1], -1, lanes) for x in arrays)
    sums = jax.lax.reduce(split, zeros, _add_all, (split[0].ndim - 2,))
    return tuple(jnp.sum(x, axis=-1) for x in sums)


@_row_sums.defjvp
def _row_sums_jvp(arrays, tangents):
    # JAX has no derivative of a reduction of some constants and some variables.
    return _row_sums(*arrays), tuple(jnp.sum(x, axis=-1) for x in tangents)


def made_anew(arrays: Any) -> Any:
    """The same arrays, so that what is made of them is not shared with an earlier use.

    Features that one pass normalizes and a second one reads would be written to memory
    in between; making them twice is several times faster.
    """
    return jax.lax.optimization_barrier(arrays)


def mlp(
    hidden: Sequence[Any],
    features: Sequence[jax.Array],
    weights: Any,
    layers: Sequence[tuple[jax.Array, jax.Array]],
    num_outputs: int,
) -> list[Any]:
    """Send features through the network.

    Args:
      hidden: H arrays to add to the first layer's pre-activations, such as its bias.
      features: F arrays.
      weights: First layer, (F, H, …).
      layers: Weights (inputs, units) and bias (units,) of the layers after the first.
      num_outputs: How many of the last layer's units to compute.

    Returns:
      The first outputs of the last layer.
    """
    sizes = [len(hidden), *(x.shape[1] for x, _ in layers[:-1]), num_outputs]
    fits = is_small(len(features), sizes)
    units = list(hidden)
    for feature, row in zip(features, weights, strict=True):
        units = [x + feature * weight for x, weight in zip(units, row, strict=True)]
    for (kernel, bias), size in zip(layers, sizes[1:], strict=True):
        units = [relu(x) for x in units]
        if fits:
            units = [
                sum((x * w for x, w in zip(units, kernel[:, h], strict=True)), bias[h])
                for h in range(size)
            ]
        else:
            stack = jnp.tensordot(
                kernel[:, :size],
                jnp.stack(units),
                ((0,), (0,)),
                precision=jax.lax.Precision.HIGHEST,
            )
            units = [x + b for x, b in zip(stack, bias[:size], strict=True)]
    return units


def relu(x: jax.Array) -> jax.Array:
    """max(0, x); what is not a number stays so. The derivative at 0 is 1."""
    if jax.default_backend() != "cpu":
        return _maximum(x)
    # One instruction; jnp.maximum asks for NaN apart, in three.
    return jnp.where(x < 0.0, 0.0, x)


@jax.custom_jvp
def _maximum(x):
    # XLA joins it to a matrix product on GPUs, which it does not do with a choice.
    return jnp.maximum(x, 0.0)


@_maximum.defjvp
def _maximum_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    return _maximum(x), jnp.where(x < 0.0, 0.0, tangent)


def is_small(num_features: int, sizes: Sequence[int]) -> bool:
    """Whether a network with layers of these sizes is best written out in one loop.

    XLA splits loops of about 1,500 operations and then computes, in each part, all that
    leads up to it: the program grows exponentially. Larger networks are matrix products
    after the first layer.
    """
    inputs = (num_features, *sizes[:-1])
    return sum(i * o for i, o in zip(inputs, sizes, strict=True)) <= _MAX_MULTIPLY_ADDS


def _add_all(xs, ys):
    return tuple(x + y for x, y in zip(xs, ys, strict=True))
