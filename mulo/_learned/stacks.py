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
import numpy as np

from mulo._checks.masked_leaves import is_masked, live
from mulo._learned import accumulators

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


class Leaves:
    """All leaves of a tree, in the stacks in which a rule steps them.

    Masked and empty leaves do not take part; T counts the others.
    """

    def __init__(
        self, updates: Any, params: Any, states: Any, kinds: Any | None = None
    ):
        """Lay out leaves.

        Args:
          updates: Tree of gradients, maybe masked.
          params: As updates.
          states: Accumulators: a named tuple of such trees.
          kinds: Tree with something hashable for every leaf; leaves of different kinds
            are kept apart, and steps are told theirs.
        """
        grads, self._treedef = jax.tree.flatten(updates, is_leaf=is_masked)
        values = self._treedef.flatten_up_to(params)
        self._accumulators = states
        self._kinds = None if kinds is None else self._treedef.flatten_up_to(kinds)
        self._live = live(grads)
        self._leaves = grads, values, accumulators.by_leaf(self._treedef, states)
        self._stacks = stacks(*self._leaves, self._live, self._kinds)

    def per_tensor(self, of: Callable[[Stack], jax.Array]) -> jax.Array:
        """What ``of(stack)`` makes, (L, …), for all tensors as in the tree, (T, …)."""
        rows = [i for stack in self._stacks for i in stack.positions]
        return jnp.concatenate([of(x) for x in self._stacks])[np.argsort(rows)]

    def each(
        self,
        one: Callable[..., tuple[Any, Any]],
        *own: Any,
        vectors: Callable[..., tuple[list[Any], list[Any]]] | None = None,
        at_once: int | None = None,
    ) -> list[tuple[Any, Any]]:
        """Step all tensors: small ones of a shape in stacks, if there are many.

        Args:
          one: Step of one tensor, ``one(grad, param, state, *own)``, with kinds
            ``one(grad, param, state, kind, *own)``: its step and new state.
          *own: Trees of arrays with a leading axis T, more that differs between
            tensors, in the order of the tree.
          vectors: Step of lists of scalars and vectors, which are in no stack then:
            steps and new states. None: they are stepped like the rest.
          at_once: As in :func:`update`.

        Returns:
          T steps and new states, in the order of the tree.
        """
        row_of = {position: row for row, position in enumerate(self._live)}
        done: dict[int, tuple[Any, Any]] = {}
        lone = []
        for stack in self._stacks:
            first = stack.positions[0]
            if vectors and len(stack.positions) == 1 and stack.grads.ndim < 3:
                lone.append(first)
                continue
            kind = () if self._kinds is None else (self._kinds[first],)
            rows = np.asarray([row_of[i] for i in stack.positions])

            def step(grad, param, state, *own, kind=kind):
                return one(grad, param, state, *kind, *own)

            mine = jax.tree.map(lambda x, rows=rows: _rows(x, rows), own)
            outs = update(step, stack, *mine, at_once=at_once)
            for row, i in enumerate(stack.positions):
                done[i] = jax.tree.map(
                    lambda x, row=row: jax.lax.index_in_dim(x, row, keepdims=False),
                    outs,
                )
        if vectors and lone:
            outs = vectors(*([xs[i] for i in lone] for xs in self._leaves))
            done |= zip(lone, zip(*outs, strict=True), strict=True)
        return [done[i] for i in self._live]

    def step(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """As `each`, laid over the tree.

        Returns:
          Tree of steps, zero for empty leaves, and new accumulators.
        """
        outs = self.each(*args, **kwargs)
        states = list(self._leaves[2])
        for i, (_, state) in zip(self._live, outs, strict=True):
            states[i] = state
        return self.tree([step for step, _ in outs]), accumulators.by_field(
            self._treedef, states, self._accumulators
        )

    def tree(self, steps: Sequence[Any]) -> Any:
        """T steps as a tree, zero for empty leaves; masked leaves as given."""
        flat = [
            x if is_masked(x) else jnp.zeros(jnp.shape(x), jnp.float32)
            for x in self._leaves[0]
        ]
        for i, step in zip(self._live, steps, strict=True):
            flat[i] = step
        return self._treedef.unflatten(flat)


def finish(updates: Any, steps: Any, factors: Any) -> Any:
    """Steps times a number each, in the dtypes of the updates."""

    def one(update, step, factor):
        return (factor * step).astype(jnp.result_type(update))

    return jax.tree.map(one, updates, steps, factors)


def _rows(x, rows):
    # A slice where that will do: a program has one for every tensor and array.
    return x[rows[0] : rows[0] + 1] if len(rows) == 1 else x[rows]


def _join(trees):
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)
