"""SOAP's settings, its state and its step: what :mod:`mulo._designed.soap` describes.

Axis names as in :mod:`mulo._designed.blocks`: N leaves of a group, B blocks of a leaf,
s the size of an axis in a block.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mulo._checks import rule_inputs
from mulo._designed import blocks, roots
from mulo._designed import matrix_checks as checks

Refresh = Literal["after", "before"]

# Entries of a rotated gradient below this many times the dtype's resolution of the
# largest one are noise.
_NOISE = 16.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SOAPConfig(blocks.Options):
    """Arguments of :func:`mulo.scale_by_soap`, which describes them, checked."""

    b1: Any  # This and the numbers below may be traced.
    b2: Any
    shampoo_beta: Any
    eps: Any
    precondition_frequency: Any
    refresh: Refresh
    normalize_grads: bool
    correct_bias: bool

    def __post_init__(self):
        """Fill in what depends on other settings and check every field."""
        super().__post_init__()
        checks.check_eps(eps=self.eps)
        rule_inputs.check_bools(self, ("normalize_grads", "correct_bias"))
        if self.refresh not in ("after", "before"):
            raise ValueError(
                f'refresh must be "after" or "before", got {self.refresh!r}.'
            )
        if self.shampoo_beta is None:
            object.__setattr__(self, "shampoo_beta", self.b2)
        if self.precondition_frequency is None:
            often = 1 if self.first_step else 10
            object.__setattr__(self, "precondition_frequency", often)
        checks.check_numbers(
            self.precondition_frequency,
            b1=self.b1,
            b2=self.b2,
            shampoo_beta=self.shampoo_beta,
        )

    @property
    def first_step(self) -> bool:
        """Whether the gradient that makes the first bases makes a step."""
        return self.refresh == "before"


class SOAPRegion(NamedTuple):
    """Blocks of one size of one group of leaves, in the statistics' dtype."""

    mean: jax.Array  # (N, B, *sizes). First moment, rotated space.
    square: jax.Array  # (N, B, *sizes). Second moment, rotated space.
    statistics: tuple  # Per axis (N, B, s, s) average of outer products, or None.
    bases: tuple  # Per axis (N, B, s, s) eigenvectors as columns, or None.


class SOAPGroup(NamedTuple):
    """Leaves of one shape."""

    # (N,), int32. Finite gradients so far; of leaves with bases, from the first on that
    # was not zero.
    seen: jax.Array
    regions: tuple[SOAPRegion, ...]


class ScaleBySOAPState(NamedTuple):
    """State of :func:`mulo.scale_by_soap`; leaves of equal shape are stacked."""

    count: jax.typing.ArrayLike  # shape=(), int32. Updates applied so far.
    groups: dict[str, SOAPGroup]  # By shape, such as "128x64".


def transformation(config: SOAPConfig) -> optax.GradientTransformationExtraArgs:
    """Make what :func:`mulo.scale_by_soap` returns."""

    def init_fn(params):
        return ScaleBySOAPState(
            count=jnp.zeros((), jnp.int32),
            groups=blocks.init("SOAP", params, config, init_group),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        leaves, treedef, groups = blocks.flatten("SOAP", updates, state.groups, config)
        new, seen = {}, {}
        for group in groups:
            new[group.name], seen[group.name] = observe(
                group, state.groups[group.name], group.stack(leaves), config
            )
        due = (state.count > 0) & (state.count % config.precondition_frequency == 0)
        if config.first_step:
            new = refine_bases(start_bases(new, seen), due)
        for group in groups:
            step, new[group.name] = move(
                group, new[group.name], seen[group.name], config
            )
            group.unstack(step, leaves)
        if not config.first_step:
            new = refine_bases(start_bases(new, seen), due)
        return treedef.unflatten(leaves), ScaleBySOAPState(
            count=optax.safe_increment(state.count), groups=new
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


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


class Seen(NamedTuple):
    """What one group's gradients of this step are."""

    grads: jax.Array  # (N, *dims). Zero where they are not finite.
    counts: jax.Array  # (N,), bool. Leaves that this gradient counts for.
    first: tuple[jax.Array, ...]  # Per region (N, B), bool. Blocks that have bases now.


def observe(
    group: blocks.Group, state: SOAPGroup, grads: jax.Array, config: SOAPConfig
) -> tuple[SOAPGroup, Seen]:
    """Average one group's outer products.

    A block whose gradients have all been zero has no bases yet: they are what its first
    other gradient is for.

    Args:
      group: The leaves.
      state: Theirs.
      grads: shape=(N, *dims).
      config: Settings of the rule.

    Returns:
      The new state and what :func:`move` and :func:`start_bases` need to know.
    """
    shampoo_beta = blocks.number(config.shampoo_beta, grads.dtype)
    grads, finite = blocks.finite_only(grads)
    counts = finite
    if any(group.tracked):
        axes = tuple(range(1, grads.ndim))
        counts &= (state.seen > 0) | jnp.any(grads != 0, axis=axes)
    regions, first = [], []
    for g, region in zip(group.split(grads), state.regions, strict=True):
        statistics = []
        for axis, old in enumerate(region.statistics):
            if old is not None:
                new = old + (1.0 - shampoo_beta) * (blocks.outer(g, axis) - old)
                old = jnp.where(blocks.per_leaf(finite, old), new, old)
            statistics.append(old)
        first.append(_are_zero(region.statistics, g) & ~_are_zero(statistics, g))
        regions.append(region._replace(statistics=tuple(statistics)))
    seen = blocks.counted(state.seen, counts)
    return SOAPGroup(seen, tuple(regions)), Seen(grads, counts, tuple(first))


def move(
    group: blocks.Group, state: SOAPGroup, seen: Seen, config: SOAPConfig
) -> tuple[jax.Array, SOAPGroup]:
    """Make one group's step in the bases that the state has.

    Args:
      group: The leaves.
      state: Theirs, with this step's gradients observed.
      seen: What was.
      config: Settings of the rule. Refreshed after it, the gradient that a block has
        its bases from makes no step.

    Returns:
      The step, shape=(N, *dims), and the new state.
    """
    b1, b2, eps = (
        blocks.number(x, seen.grads.dtype) for x in (config.b1, config.b2, config.eps)
    )
    skipped = 0 if config.first_step else 1
    moving = seen.counts & (state.seen > skipped)
    parts, regions = [], []
    for g, region, first in zip(
        group.split(seen.grads), state.regions, seen.first, strict=True
    ):
        rotated = blocks.rotate(g, region.bases)
        mean = region.mean + (1.0 - b1) * (rotated - region.mean)
        square = region.square + (1.0 - b2) * (rotated**2 - region.square)
        moves = jnp.broadcast_to(moving[:, None], first.shape)
        if not config.first_step:
            moves &= ~first
        moves = blocks.per_block(moves, mean)
        step = mean / (_root(square, region.bases) + eps)
        step = jnp.where(moves, step, 0.0)
        parts.append(blocks.rotate(step, region.bases, back=True))
        regions.append(
            region._replace(
                mean=jnp.where(moves, mean, region.mean),
                square=jnp.where(moves, square, region.square),
            )
        )

    step = group.join(parts)
    if config.normalize_grads:
        size = blocks.norm(step) / math.sqrt(math.prod(group.dims))
        step /= jnp.where(size > 0, size, 1.0)
    if config.correct_bias:
        t = jnp.maximum(state.seen - skipped, 1).astype(step.dtype)
        step *= blocks.per_leaf(jnp.sqrt(1.0 - b2**t) / (1.0 - b1**t), step)
    step = jnp.where(blocks.per_leaf(moving, step), step, 0.0)
    return step, SOAPGroup(state.seen, tuple(regions))


def _are_zero(statistics, like):
    """Blocks whose gradients have all been zero so far, (N, B); none without bases."""
    for matrix in statistics:
        if matrix is not None:
            return jnp.trace(matrix, axis1=2, axis2=3) == 0
    return jnp.zeros(like.shape[:2], bool)


def _root(square, bases):
    """Root of the second moment, in the rotated space no less than rounding makes it.

    Where a gradient has no part in a rotated direction, what a product of its dtype
    leaves there is noise of about its resolution times the largest entry. Divided by
    its own size it would make a step of the learning rate in all such directions.
    """
    root = jnp.sqrt(square)
    if all(basis is None for basis in bases):
        return root
    axes = tuple(range(2, root.ndim))
    largest = jnp.max(root, axis=axes, keepdims=True)
    return jnp.maximum(root, _NOISE * jnp.finfo(root.dtype).eps * largest)


def start_bases(
    groups: dict[str, SOAPGroup], seen: dict[str, Seen]
) -> dict[str, SOAPGroup]:
    """Decompose the statistics of blocks that have just had their first gradient.

    Args:
      groups: State after this step's averages.
      seen: By group, which blocks these are.
    """
    statistics, bases = _matrices(groups)
    if not bases:
        return groups
    which = [
        chosen
        for name, group in groups.items()
        for region, chosen in zip(group.regions, seen[name].first, strict=True)
        for basis in region.bases
        if basis is not None
    ]

    def start(bases):
        new = blocks.by_size(roots.eigenbasis, statistics, bases)
        return [
            jnp.where(blocks.per_block(chosen, old), basis, old)
            for chosen, (basis,), old in zip(which, new, bases, strict=True)
        ]

    any_first = jnp.any(jnp.concatenate([chosen.reshape(-1) for chosen in which]))
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
