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


def row_mean_squares(
    arrays: Sequence[jax.Array], together: Sequence[Sequence[int]]
) -> list[jax.Array]:
    """Mean square of each array over its last axis.

    Means of several arrays in one reduction read what the arrays are made of once and
    never write the arrays themselves; rows first, because a single running sum would
    lose digits in large arrays.

    Args:
      arrays: Of equal shape (…, X).
      together: Positions of arrays to be reduced at once, such as those made of the
        same accumulators; about six at a time are fastest on CPUs. Every position once.

    Returns:
      Arrays of shape (…).
    """
    means: dict[int, jax.Array] = {}
    for positions in together:
        squares = tuple(jnp.square(arrays[i]) for i in positions)
        zeros = tuple(jnp.zeros((), x.dtype) for x in squares)
        sums = jax.lax.reduce(squares, zeros, _add_all, (squares[0].ndim - 1,))
        for i, x in zip(positions, sums, strict=True):
            means[i] = x / arrays[i].shape[-1]
    return [means[i] for i in range(len(arrays))]


def made_anew(arrays: Any) -> Any:
    """The same arrays, so that what is made of them is not shared with an earlier use.

    Features that one pass normalizes and a second one reads would be written to memory
    in between; making them twice is several times faster.
    """
    return jax.lax.optimization_barrier(arrays)


def first_layer(
    hidden: Sequence[Any], features: Sequence[jax.Array], weights: Any
) -> list[Any]:
    """Add F features times weights (F, H, …) to H pre-activations."""
    hidden = list(hidden)
    for feature, row in zip(features, weights, strict=True):
        hidden = [x + feature * weight for x, weight in zip(hidden, row, strict=True)]
    return hidden


def later_layers(
    hidden: Sequence[Any],
    layers: Sequence[tuple[jax.Array, jax.Array]],
    num_outputs: int,
) -> list[Any]:
    """Pre-activations of the first layer → the first outputs of the last.

    Args:
      hidden: H arrays.
      layers: Weights (H, units) and bias (units,) of the layers after the first.
      num_outputs: How many of the last layer's units to compute.
    """
    units = list(hidden)
    for i, (weights, bias) in enumerate(layers):
        units = [jnp.maximum(x, 0.0) for x in units]
        last = i == len(layers) - 1
        units = [
            sum((x * w for x, w in zip(units, weights[:, h], strict=True)), bias[h])
            for h in range(num_outputs if last else weights.shape[1])
        ]
    return units


def _add_all(xs, ys):
    return tuple(x + y for x, y in zip(xs, ys, strict=True))
