"""State of Shampoo and what happens to it: averages, roots, one group's step.

Axis names as in :mod:`mulo._matrix_blocks`: N leaves of a group, B blocks of a leaf, s
the size of an axis in a block.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mulo import _matrix_blocks as blocks
from mulo import _matrix_roots as roots


class ShampooRegion(NamedTuple):
    """Blocks of one size of one group of leaves, in the statistics' dtype."""

    statistics: tuple  # Per axis (N, B, s, s) average of outer products, or None.
    roots: tuple  # Per axis (N, B, s, s), the statistics' inverse root, or None.


class ShampooGroup(NamedTuple):
    """Leaves of one shape."""

    seen: jax.Array  # (N,), int32. Finite gradients so far.
    momentum: jax.Array  # (N, *dims).
    square: jax.Array | None  # (N, *dims), squared gradients, or None.
    regions: tuple[ShampooRegion, ...]


class Hyper(NamedTuple):
    """Numbers and choices of the rule; the first four numbers may be traced."""

    b1: Any
    b2: Any
    matrix_eps: Any
    diagonal_eps: Any
    exponent: float
    grafting: str
    nesterov: bool
    average_momentum: bool
    correct_bias: bool
    root: roots.RootMethod


def init_group(group: blocks.Group, hyper: Hyper) -> ShampooGroup:
    """Return zeros and identity roots for the leaves of one shape."""
    num = len(group.leaves)
    zeros = jnp.zeros((num, *group.dims), group.dtype)
    # Without grafting, leaves that have no statistics need a scale all the same.
    squares = hyper.grafting in ("adagrad", "rmsprop") or (
        hyper.grafting == "none" and not any(group.tracked)
    )
    return ShampooGroup(
        seen=jnp.zeros(num, jnp.int32),
        momentum=zeros,
        square=jnp.zeros_like(zeros) if squares else None,
        regions=tuple(
            ShampooRegion(
                group.per_axis(region, lambda s: jnp.zeros((s, s))),
                group.per_axis(region, jnp.eye),
            )
            for region in group.regions
        ),
    )


def observe(
    group: blocks.Group,
    state: ShampooGroup,
    grads: jax.Array,
    finite: jax.Array,
    hyper: Hyper,
) -> ShampooGroup:
    """Average outer products and squares; roots and momentum stay.

    Args:
      group: The leaves.
      state: Theirs.
      grads: shape=(N, *dims), finite.
      finite: shape=(N,), bool. Leaves that take part.
      hyper: Numbers of the rule.
    """
    b2 = blocks.number(hyper.b2, grads.dtype)
    square = state.square
    if square is not None:
        new = _accumulate(square, grads**2, _square_decay(hyper, b2))
        square = jnp.where(blocks.per_leaf(finite, square), new, square)
    regions = []
    for g, region in zip(group.split(grads), state.regions, strict=True):
        statistics = []
        for axis, old in enumerate(region.statistics):
            if old is not None:
                new = _accumulate(old, blocks.outer(g, axis), b2)
                old = jnp.where(blocks.per_leaf(finite, old), new, old)
            statistics.append(old)
        regions.append(region._replace(statistics=tuple(statistics)))
    return ShampooGroup(
        blocks.counted(state.seen, finite), state.momentum, square, tuple(regions)
    )


def woken(old: ShampooGroup, new: ShampooGroup) -> list[jax.Array]:
    """Whether statistics that were zero are so no more, shape=() for each of them."""
    pairs = [
        (before, after)
        for was, now in zip(old.regions, new.regions, strict=True)
        for before, after in zip(was.statistics, now.statistics, strict=True)
        if before is not None
    ]
    trace = functools.partial(jnp.trace, axis1=2, axis2=3)
    return [jnp.any((trace(a) == 0) & (trace(b) != 0)) for a, b in pairs]


def find_roots(
    layout: Sequence[blocks.Group], groups: dict[str, ShampooGroup], hyper: Hyper
) -> dict[str, ShampooGroup]:
    """Compute every inverse root anew: one call per matrix size and power."""
    old, statistics, powers = [], [], []
    for group in layout:
        state = groups[group.name]
        for region in state.regions:
            for matrix, root in zip(region.statistics, region.roots, strict=True):
                if matrix is not None:
                    b2 = blocks.number(hyper.b2, matrix.dtype)
                    reached = _reached(state.seen, b2, hyper, matrix)
                    old.append(root)
                    statistics.append(matrix / reached)
                    powers.append(hyper.exponent / sum(group.tracked))
    new: list[Any] = [None] * len(old)
    for power in sorted(set(powers)):
        mine = [i for i, p in enumerate(powers) if p == power]

        def invert(matrix, before, power=power):
            return roots.inverse_root(
                matrix, before, power, ridge=hyper.matrix_eps, method=hyper.root
            )

        found = blocks.by_size(
            invert, [statistics[i] for i in mine], [old[i] for i in mine]
        )
        for i, (root,) in zip(mine, found, strict=True):
            new[i] = root
    rest = iter(new)
    result = {}
    for group in layout:
        state = groups[group.name]
        regions = tuple(
            region._replace(
                roots=tuple(r if r is None else next(rest) for r in region.roots)
            )
            for region in state.regions
        )
        result[group.name] = state._replace(regions=regions)
    return result


def move(
    group: blocks.Group,
    state: ShampooGroup,
    grads: jax.Array,
    finite: jax.Array,
    hyper: Hyper,
) -> tuple[jax.Array, ShampooGroup]:
    """Make one group's step from statistics and roots that know this gradient.

    Args:
      group: The leaves.
      state: Theirs, after `observe`.
      grads: shape=(N, *dims), finite.
      finite: shape=(N,), bool. Leaves that take part.
      hyper: Numbers of the rule.

    Returns:
      The step, shape=(N, *dims), and the new state.
    """
    b1 = blocks.number(hyper.b1, grads.dtype)
    grafted = grads
    if state.square is not None:
        decay = _square_decay(hyper, blocks.number(hyper.b2, grads.dtype))
        square = state.square / _reached(state.seen, decay, hyper, grads)
        grafted = grads / (jnp.sqrt(square) + hyper.diagonal_eps)
    elif hyper.grafting == "sign":
        grafted = jnp.sign(grads)

    direction = grafted
    if any(group.tracked):
        direction = group.join(
            [
                blocks.rotate(g, region.roots)
                for g, region in zip(group.split(grads), state.regions, strict=True)
            ]
        )
        if hyper.grafting != "none":
            direction *= blocks.norm(grafted) / (blocks.norm(direction) + 1e-25)

    weight = 1.0 - b1 if hyper.average_momentum else 1.0
    momentum = b1 * state.momentum + weight * direction
    step = b1 * momentum + weight * direction if hyper.nesterov else momentum
    alive = blocks.per_leaf(finite, step)
    momentum = jnp.where(alive, momentum, state.momentum)
    return jnp.where(alive, step, 0.0), state._replace(momentum=momentum)


def _accumulate(old, new, decay):
    """One step of an average, or of a sum for decay = 1."""
    weight = jnp.where(decay == 1.0, 1.0, 1.0 - decay).astype(old.dtype)
    return decay * old + weight * new


def _square_decay(hyper, b2):
    return 1.0 if hyper.grafting == "adagrad" else b2


def _reached(seen, decay, hyper, like):
    """What an average of ones has reached by now, shape=(N, 1, …)."""
    ones = jnp.ones(seen.shape, like.dtype)
    if hyper.correct_bias:
        average = 1.0 - decay ** jnp.maximum(seen, 1).astype(like.dtype)
        ones = jnp.where(decay == 1.0, ones, average)
    return blocks.per_leaf(ones, like)
