"""Tensors of one shape, stacked: programs that do not grow with the number of layers.

Small tensors of equal shape, if there are many, are handled together. A large one is a
stack of its own: copying it costs memory and, over a run, more time than compiling for
it.

Axis name: L tensors of one shape.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mulo import _rule_inputs as inputs

_MIN_COUNT = 4  # Tensors that are worth stacking.
_MAX_SIZE = 4_096  # Entries of a tensor that is stacked with others.


class Stack(NamedTuple):
    """Tensors of one shape, and where in the tree they are."""

    positions: tuple[int, ...]  # L of them.
    grads: jax.Array  # (L, *shape).
    params: jax.Array  # As grads.
    states: Any  # A leading axis L on every accumulator.


def stacks(
    grads: Sequence[Any],
    params: Sequence[Any],
    states: Sequence[Any],
    positions: Sequence[int],
    kinds: Sequence[Hashable] | None = None,
) -> list[Stack]:
    """Stack leaves by shape.

    Args:
      grads: All leaves of a tree.
      params: As grads.
      states: A tree per leaf.
      positions: The leaves to take.
      kinds: One per leaf; leaves of different kinds are kept apart.
    """
    alike: dict[Hashable, list[int]] = {}
    for i in positions:
        # Shapes, dtypes and shardings.
        types = (jax.typeof(grads[i]), jax.typeof(params[i]))
        key = (types, kinds and kinds[i])
        alike.setdefault(key, []).append(i)
    leaves = (grads, params, states)
    stacked = []
    for group in alike.values():
        few = len(group) < _MIN_COUNT
        if few or math.prod(jnp.shape(grads[group[0]])) > _MAX_SIZE:
            parts = [[i] for i in group]
        else:
            parts = [group]
        stacked += [
            Stack(tuple(part), *(_join([xs[i] for i in part]) for xs in leaves))
            for part in parts
        ]
    return stacked


def update(
    one: Callable[..., Any], stack: Stack, *own: Any, at_once: int | None = None
) -> Any:
    """Step each tensor of a stack.

    Args:
      one: Step of one tensor, ``one(grad, param, state, *own)`` to a tree of arrays.
      stack: The tensors.
      *own: Trees of arrays with a leading axis L, more that differs between tensors.
      at_once: Entries a CPU should step at a time, if what is made of them would not
        stay in cache otherwise.

    Returns:
      What ``one`` returns, with a leading axis L.
    """
    given = (stack.grads, stack.params, stack.states, *own)
    count = len(stack.positions)
    if count == 1:
        out = one(*jax.tree.map(lambda x: x[0], given))
        return jax.tree.map(lambda x: x[None], out)
    together = jax.vmap(one)
    if jax.default_backend() != "cpu":
        return together(*given)
    # At least two turns of a loop: XLA does not fuse what comes out of a loop with what
    # reads it. It would make a program per tensor that computes its part of the stack.
    turns = max(2, -(-stack.grads.size // at_once) if at_once else 0)
    rows = -(-count // turns)
    turns = -(-count // rows)
    missing = turns * rows - count

    def in_turns(x):
        x = jnp.concatenate([x, x[:missing]]) if missing else x
        return x.reshape(turns, rows, *x.shape[1:])

    out = jax.lax.map(lambda part: together(*part), jax.tree.map(in_turns, given))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], out)


def split(
    stacked: Sequence[Stack], values: Sequence[Any], into: Sequence[Any]
) -> list[Any]:
    """Put the rows of each stack's values where its tensors are in the list."""
    into = list(into)
    for stack, value in zip(stacked, values, strict=True):
        for row, i in enumerate(stack.positions):
            into[i] = jax.tree.map(
                lambda x, row=row: jax.lax.index_in_dim(x, row, keepdims=False), value
            )
    return into


def step_leaves(
    one: Callable[..., tuple[Any, Any]],
    vectors: Callable[..., tuple[list[Any], list[Any]]],
    grads: Sequence[Any],
    params: Sequence[Any],
    states: Sequence[Any],
    kinds: Sequence[Hashable] | None = None,
    at_once: int | None = None,
) -> tuple[list[Any], list[Any]]:
    """Step all leaves of a tree: in stacks, and the other vectors together.

    Args:
      one: Step of one tensor, ``one(grad, param, state)``, or with ``kinds``
        ``one(grad, param, state, kind)``: the step, float32, and the new state.
      vectors: Step of lists of scalars and vectors of any length: both in lists.
      grads: Leaves, masked ones too.
      params: As grads.
      states: A tree per leaf.
      kinds: One per leaf; leaves of different kinds are kept apart.
      at_once: As in :func:`update`.

    Returns:
      The steps, zero for empty leaves, and new states. Masked leaves are as given.
    """
    steps: list[Any] = [
        x if inputs.is_masked(x) else jnp.zeros(jnp.shape(x), jnp.float32)
        for x in grads
    ]
    stacked = stacks(grads, params, states, inputs.live(grads), kinds)
    lone = [x for x in stacked if len(x.positions) == 1 and x.grads.ndim < 3]
    lone = [x.positions[0] for x in lone]
    stacked = [x for x in stacked if x.positions[0] not in lone]

    def kind_of(stack):
        return () if kinds is None else (kinds[stack.positions[0]],)

    results = [
        update(
            lambda *xs, stack=stack: one(*xs, *kind_of(stack)), stack, at_once=at_once
        )
        for stack in stacked
    ]
    steps = split(stacked, [step for step, _ in results], steps)
    new_states = split(stacked, [new for _, new in results], states)
    rest = vectors(*([xs[i] for i in lone] for xs in (grads, params, states)))
    for i, step, new in zip(lone, *rest, strict=True):
        steps[i], new_states[i] = step, new
    return steps, new_states


def _join(trees):
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)
