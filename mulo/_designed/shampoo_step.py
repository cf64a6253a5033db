"""Shampoo's settings, its state and its step: :mod:`mulo._designed.shampoo`.

Axis names as in :mod:`mulo._designed.blocks`: N leaves of a group, B blocks of a leaf,
s the size of an axis in a block.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from mulo._checks import numbers, rule_inputs
from mulo._designed import blocks, roots
from mulo._designed import matrix_checks as checks

Grafting = Literal["none", "sgd", "adagrad", "rmsprop", "sign"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShampooConfig(blocks.Options):
    """Arguments of :func:`mulo.scale_by_shampoo`, which describes them, checked."""

    b1: Any  # This and the numbers below, but for the exponent, may be traced.
    b2: Any
    matrix_eps: Any
    diagonal_eps: Any
    precondition_frequency: Any
    exponent: float
    grafting: Grafting
    nesterov: bool
    average_momentum: bool
    correct_bias: bool
    root: roots.RootMethod

    def __post_init__(self):
        """Check every field."""
        super().__post_init__()
        checks.check_eps(matrix_eps=self.matrix_eps, diagonal_eps=self.diagonal_eps)
        rule_inputs.check_bools(self, ("nesterov", "average_momentum", "correct_bias"))
        for name, kinds in (("grafting", Grafting), ("root", roots.RootMethod)):
            value = getattr(self, name)
            if value not in get_args(kinds):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(kinds))}; got "
                    f"{value!r}."
                )
        exponent, decay = self.exponent, self.b2
        if not numbers.is_number(exponent) or not 0.0 < exponent <= 1.0:
            raise ValueError(f"exponent must lie in (0, 1], got {exponent!r}.")
        checks.check_numbers(self.precondition_frequency, b1=self.b1)
        known = not numbers.is_traced(decay)
        if known and not (numbers.is_number(decay) and 0.0 <= decay <= 1.0):
            raise ValueError(f"b2 must lie in [0, 1], 1 for sums; got {decay!r}.")


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


class ScaleByShampooState(NamedTuple):
    """State of :func:`mulo.scale_by_shampoo`; leaves of equal shape are stacked."""

    count: jax.typing.ArrayLike  # shape=(), int32. Updates applied so far.
    groups: dict[str, ShampooGroup]  # By shape, such as "128x64".


def transformation(config: ShampooConfig) -> optax.GradientTransformationExtraArgs:
    """Make what :func:`mulo.scale_by_shampoo` returns."""

    def init_fn(params):
        make = functools.partial(init_group, config=config)
        return ScaleByShampooState(
            count=jnp.zeros((), jnp.int32),
            groups=blocks.init("Shampoo", params, config, make),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        leaves, treedef, layout = blocks.flatten(
            "Shampoo", updates, state.groups, config
        )
        stacked, groups, first = {}, {}, []
        for group in layout:
            old = state.groups[group.name]
            grads, finite = blocks.finite_only(group.stack(leaves))
            stacked[group.name] = grads, finite
            new = observe(group, old, grads, finite, config)
            first += woken(old, new)
            groups[group.name] = new
        if any(any(group.tracked) for group in layout):
            due = state.count % config.precondition_frequency == 0
            groups = jax.lax.cond(
                due | jnp.any(jnp.stack(first)),
                lambda groups: find_roots(layout, groups, config),
                lambda groups: groups,
                groups,
            )
        for group in layout:
            grads, finite = stacked[group.name]
            step, groups[group.name] = move(
                group, groups[group.name], grads, finite, config
            )
            group.unstack(step, leaves)
        return treedef.unflatten(leaves), ScaleByShampooState(
            count=optax.safe_increment(state.count), groups=groups
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def init_group(group: blocks.Group, config: ShampooConfig) -> ShampooGroup:
    """Return zeros and identity roots for the leaves of one shape."""
    num = len(group.leaves)
    zeros = jnp.zeros((num, *group.dims), group.dtype)
    # Without grafting, leaves that have no statistics need a scale all the same.
    squares = config.grafting in ("adagrad", "rmsprop") or (
        config.grafting == "none" and not any(group.tracked)
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
    config: ShampooConfig,
) -> ShampooGroup:
    """Average outer products and squares; roots and momentum stay.

    Args:
      group: The leaves.
      state: Theirs.
      grads: shape=(N, *dims), finite.
      finite: shape=(N,), bool. Leaves that take part.
      config: Settings of the rule.
    """
    b2 = blocks.number(config.b2, grads.dtype)
    square = state.square
    if square is not None:
        new = _accumulate(square, grads**2, _square_decay(config, b2))
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
    layout: Sequence[blocks.Group],
    groups: dict[str, ShampooGroup],
    config: ShampooConfig,
) -> dict[str, ShampooGroup]:
    """Compute every inverse root anew: one call per matrix size and power."""
    old, statistics, powers = [], [], []
    for group in layout:
        state = groups[group.name]
        for region in state.regions:
            for matrix, root in zip(region.statistics, region.roots, strict=True):
                if matrix is not None:
                    b2 = blocks.number(config.b2, matrix.dtype)
                    reached = _reached(state.seen, b2, config, matrix)
                    old.append(root)
                    statistics.append(matrix / reached)
                    powers.append(config.exponent / sum(group.tracked))
    new: list[Any] = [None] * len(old)
    for power in sorted(set(powers)):
        mine = [i for i, p in enumerate(powers) if p == power]

        def invert(matrix, before, power=power):
            return roots.inverse_root(
                matrix, before, power, ridge=config.matrix_eps, method=config.root
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
    config: ShampooConfig,
) -> tuple[jax.Array, ShampooGroup]:
    """Make one group's step from statistics and roots that know this gradient.

    Args:
      group: The leaves.
      state: Theirs, after `observe`.
      grads: shape=(N, *dims), finite.
      finite: shape=(N,), bool. Leaves that take part.
      config: Settings of the rule.

    Returns:
      The step, shape=(N, *dims), and the new state.
    """
    b1 = blocks.number(config.b1, grads.dtype)
    grafted = grads
    if state.square is not None:
        decay = _square_decay(config, blocks.number(config.b2, grads.dtype))
        square = state.square / _reached(state.seen, decay, config, grads)
        grafted = grads / (jnp.sqrt(square) + config.diagonal_eps)
    elif config.grafting == "sign":
        grafted = jnp.sign(grads)

    direction = grafted
    if any(group.tracked):
        direction = group.join(
            [
                blocks.rotate(g, region.roots)
                for g, region in zip(group.split(grads), state.regions, strict=True)
            ]
        )
        if config.grafting != "none":
            direction *= blocks.norm(grafted) / (blocks.norm(direction) + 1e-25)

    weight = 1.0 - b1 if config.average_momentum else 1.0
    momentum = b1 * state.momentum + weight * direction
    step = b1 * momentum + weight * direction if config.nesterov else momentum
    alive = blocks.per_leaf(finite, step)
    momentum = jnp.where(alive, momentum, state.momentum)
    return jnp.where(alive, step, 0.0), state._replace(momentum=momentum)


def _accumulate(old, new, decay):
    """One step of an average, or of a sum for decay = 1."""
    weight = jnp.where(decay == 1.0, 1.0, 1.0 - decay).astype(old.dtype)
    return decay * old + weight * new


def _square_decay(config, b2):
    return 1.0 if config.grafting == "adagrad" else b2


def _reached(seen, decay, config, like):
    """What an average of ones has reached by now, shape=(N, 1, …)."""
    ones = jnp.ones(seen.shape, like.dtype)
    if config.correct_bias:
        average = 1.0 - decay ** jnp.maximum(seen, 1).astype(like.dtype)
        ones = jnp.where(decay == 1.0, ones, average)
    return blocks.per_leaf(ones, like)
