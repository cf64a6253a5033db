"""State of SOAP and what happens to it: one group's step, and the bases' updates.

Axis names as in :mod:`mulo._matrix_blocks`: N leaves of a group, B blocks of a leaf, s
the size of an axis in a block.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mulo import _matrix_blocks as blocks
from mulo import _matrix_roots as roots


class SOAPRegion(NamedTuple):
    """Blocks of one size of one group of leaves, in the statistics' dtype."""

    mean: jax.Array  # (N, B, *sizes). First moment, rotated space.
    square: jax.Array  # (N, B, *sizes). Second moment, rotated space.
    statistics: tuple  # Per axis (N, B, s, s) average of outer products, or None.
    bases: tuple  # Per axis (N, B, s, s) eigenvectors as columns, or None.


class SOAPGroup(NamedTuple):
    """Leaves of one shape."""

    seen: jax.Array  # (N,), int32. Finite gradients so far.
    regions: tuple[SOAPRegion, ...]


class Hyper(NamedTuple):
    """Numbers of the rule; may be traced."""

    b1: Any
    b2: Any
    shampoo_beta: Any
    eps: Any
    normalize_grads: bool
    correct_bias: bool


def init_group(group: blocks.Group) -> SOAPGroup:
    """Return zeros and identity bases for the leaves of one shape."""
    num = len(group.leaves)
    regions = []
    for region in group.regions:
        shape = (num, math.prod(region.counts), *region.sizes)
        regions.append(
            SOAPRegion(
                mean=jnp.zeros(shape, group.dtype),
                square=jnp.zeros(shape, group.dtype),
                statistics=group.per_axis(region, lambda s: jnp.zeros((s, s))),
                bases=group.per_axis(region, jnp.eye),
            )
        )
    return SOAPGroup(jnp.zeros(num, jnp.int32), tuple(regions))


def move(
    group: blocks.Group, state: SOAPGroup, grads: jax.Array, hyper: Hyper
) -> tuple[jax.Array, SOAPGroup, jax.Array]:
    """Make one group's step and average its statistics; the bases stay.

    Args:
      group: The leaves.
      state: Theirs.
      grads: shape=(N, *dims).
      hyper: Numbers of the rule.

    Returns:
      The step, shape=(N, *dims); the new state; and which leaves had their first
      gradient, shape=(N,), bool.
    """
    b1, b2, shampoo_beta, eps = (blocks.number(x, grads.dtype) for x in hyper[:4])
    grads, finite = blocks.finite_only(grads)
    moving = finite & (state.seen > 0)
    seen = state.seen + finite

    parts, regions = [], []
    for g, region in zip(group.split(grads), state.regions, strict=True):
        rotated = blocks.rotate(g, region.bases)
        mean = region.mean + (1.0 - b1) * (rotated - region.mean)
        square = region.square + (1.0 - b2) * (rotated**2 - region.square)
        step = mean / (jnp.sqrt(square) + eps)
        parts.append(blocks.rotate(step, region.bases, back=True))
        moves = blocks.per_leaf(moving, mean)
        statistics = []
        for axis, old in enumerate(region.statistics):
            if old is not None:
                new = old + (1.0 - shampoo_beta) * (blocks.outer(g, axis) - old)
                old = jnp.where(blocks.per_leaf(finite, old), new, old)
            statistics.append(old)
        regions.append(
            SOAPRegion(
                mean=jnp.where(moves, mean, region.mean),
                square=jnp.where(moves, square, region.square),
                statistics=tuple(statistics),
                bases=region.bases,
            )
        )

    step = group.join(parts)
    if hyper.normalize_grads:
        axes = tuple(range(1, step.ndim))
        step /= 1e-30 + jnp.sqrt(jnp.mean(step**2, axis=axes, keepdims=True))
    if hyper.correct_bias:
        # The first gradient made no step, so it is not counted.
        t = jnp.maximum(seen - 1, 1).astype(step.dtype)
        step *= blocks.per_leaf(jnp.sqrt(1.0 - b2**t) / (1.0 - b1**t), step)
    step = jnp.where(blocks.per_leaf(moving, step), step, 0.0)
    return step, SOAPGroup(seen, tuple(regions)), finite & (state.seen == 0)


def start_bases(
    groups: dict[str, SOAPGroup], first: dict[str, jax.Array]
) -> dict[str, SOAPGroup]:
    """Decompose the statistics of leaves that have just had their first gradient.

    Args:
      groups: State after this step's averages.
      first: By group, which leaves these are, shape=(N,), bool.
    """
    statistics, bases = _matrices(groups)
    if not bases:
        return groups
    which = [first[name] for name, group in groups.items() for _ in _tracked(group)]

    def start(bases):
        new = blocks.by_size(roots.eigenbasis, statistics, bases)
        return [
            jnp.where(blocks.per_leaf(leaves, old), basis, old)
            for leaves, (basis,), old in zip(which, new, bases, strict=True)
        ]

    any_first = jnp.any(jnp.concatenate(which))
    bases = jax.lax.cond(any_first, start, lambda bases: bases, bases)
    return _with_bases(groups, bases)


def refine_bases(groups: dict[str, SOAPGroup], due: jax.Array) -> dict[str, SOAPGroup]:
    """Update every basis by one power iteration and carry the moments over, if due."""
    if not _matrices(groups)[0]:
        return groups

    def refine(groups):
        statistics, bases = _matrices(groups)
        done = blocks.by_size(roots.refine, statistics, bases)
        new = _with_bases(groups, [basis for basis, _ in done])
        orders = iter([order for _, order in done])
        return {
            name: SOAPGroup(
                group.seen,
                tuple(
                    _carry_over(region, groups[name].regions[i].bases, orders)
                    for i, region in enumerate(group.regions)
                ),
            )
            for name, group in new.items()
        }

    return jax.lax.cond(due, refine, lambda groups: groups, groups)


def _carry_over(region, old_bases, orders):
    mean = blocks.rotate(region.mean, old_bases, back=True)
    square = region.square
    for axis, basis in enumerate(region.bases):
        if basis is not None:
            order = next(orders)
            shape = [1] * square.ndim
            shape[:2], shape[2 + axis] = order.shape[:2], order.shape[2]
            square = jnp.take_along_axis(square, order.reshape(shape), axis=2 + axis)
    return region._replace(mean=blocks.rotate(mean, region.bases), square=square)


def _tracked(group):
    """(region, axis) of every preconditioned axis, in the order used throughout."""
    return [
        (region, axis)
        for region in group.regions
        for axis, basis in enumerate(region.bases)
        if basis is not None
    ]


def _matrices(groups):
    pairs = [pair for group in groups.values() for pair in _tracked(group)]
    statistics = [region.statistics[axis] for region, axis in pairs]
    return statistics, [region.bases[axis] for region, axis in pairs]


def _with_bases(groups, bases):
    bases = iter(bases)
    return {
        name: SOAPGroup(
            group.seen,
            tuple(
                region._replace(
                    bases=tuple(b if b is None else next(bases) for b in region.bases)
                )
                for region in group.regions
            ),
        )
        for name, group in groups.items()
    }
