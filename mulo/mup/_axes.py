"""Which axes of a leaf are copies, which its input side, which its output side.

A layout says in which order a weight's axes come; everything else in mulo reads
``(*kernel, in, out)``, which is what `canonical` makes of a shape and `split` of an
array. Copies are weights that share a leaf: the layers of ``nn.scan`` in front, query,
key and value in the last axis.

Axis name: L copies.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

Layout = Literal["in_out", "out_in", "in_out_kernel", "kernel_out_in"]

LAYOUTS: tuple[str, ...] = get_args(Layout)

# For each axis that holds copies its position in the leaf and how many, as its outer
# factor: ((0, 12),) for 12 stacked layers, ((1, 3),) for a fused query, key and value.
CopyAxes = tuple[tuple[int, int], ...]


def permutation(layout: str, axes: int) -> tuple[int, ...]:
    """Order in which to take a weight's axes for ``(*kernel, in, out)``."""
    order = tuple(range(axes))
    if axes < 2 or layout == "in_out":
        return order
    if layout == "kernel_out_in":
        return (*order[:-2], axes - 1, axes - 2)
    return (*order[2:], 0, 1) if layout == "in_out_kernel" else (*order[2:], 1, 0)


def output_axis(layout: str, axes: int) -> int:
    """Position of the output axis."""
    return permutation(layout, axes)[-1]


def canonical(layout: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of one weight as ``(*kernel, in, out)``."""
    return tuple(shape[k] for k in permutation(layout, len(shape)))


def without_copies(shape: Sequence[int], copy_axes: CopyAxes) -> tuple[int, ...]:
    """Shape of one copy, in its own layout; axes that are all copies are gone."""
    counts = dict(copy_axes)
    return tuple(
        size // counts.get(k, 1)
        for k, size in enumerate(shape)
        if counts.get(k) != size
    )


def find_copies(
    shape: Sequence[int], copies: int, fan_in: int, layout: str
) -> CopyAxes | None:
    """Where the copies are, if nobody said: in front, or else first in the output.

    Returns:
      None if they are in neither place.
    """
    for k in range(1, len(shape) + 1):
        if math.prod(shape[:k]) == copies:
            return tuple(enumerate(shape[:k]))
    if layout != "in_out":
        k = output_axis(layout, len(shape))
        return ((k, copies),) if shape[k] % copies == 0 else None
    for k, size in enumerate(shape):
        if math.prod(shape[:k]) == fan_in and size % copies == 0:
            return ((k, copies),)
    return None


def split(x: jax.Array, layout: str, copy_axes: CopyAxes) -> jax.Array:
    """Return a leaf as (L, *kernel, in, out)."""
    counts = dict(copy_axes)
    factors, leading, rest = [], [], []
    for k, size in enumerate(x.shape):
        if k in counts:
            leading.append(len(factors))
            factors.append(counts[k])
        if counts.get(k) != size:
            rest.append(len(factors))
            factors.append(size // counts.get(k, 1))
    rest = [rest[k] for k in permutation(layout, len(rest))]
    x = x.reshape(factors).transpose(*leading, *rest)
    return x.reshape(-1, *x.shape[len(leading) :])


def join(
    x: jax.Array, shape: Sequence[int], layout: str, copy_axes: CopyAxes
) -> jax.Array:
    """Undo `split` for a leaf of this shape."""
    one = without_copies(shape, copy_axes)
    order = permutation(layout, len(one))
    counts = [count for _, count in copy_axes]
    x = x.reshape(*counts, *x.shape[1:])
    back = (len(counts) + order.index(k) for k in range(len(one)))
    x = x.transpose(*range(len(counts)), *back)
    holds, taken, source = [k for k, _ in copy_axes], dict(copy_axes), []
    next_axis = len(counts)
    for k, size in enumerate(shape):
        if k in taken:
            source.append(holds.index(k))
        if taken.get(k) != size:
            source.append(next_axis)
            next_axis += 1
    return jnp.transpose(x, source).reshape(tuple(shape))
