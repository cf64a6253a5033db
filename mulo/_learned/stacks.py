"""Tensors of one shape together: programs that do not grow with the number of layers.

Compiling is most of what a first call costs, and XLA compiles what it is given as often
as it stands there: many tensors of one shape are one program. Small ones are stacked.
Large ones are copied, each as it is about to be stepped, to where that program, a loop,
finds it; a choice among tensors does that and costs no compilation. This is for single
CPUs: of what lies on several devices the loop would gather each tensor. Elsewhere a
large tensor is a program of its own.

On CPUs XLA compiles equal operations once, wherever they stand. Slices at different
places differ, so results are taken apart at places it does not know beforehand: 200
tensors then compile in a fifth of the time.

Axis name: L tensors of one shape.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mulo._checks.masked_leaves import is_masked, live
from mulo._learned import accumulators

_MIN_COUNT = 4  # Tensors that are worth a program for all.
_MAX_SIZE = 4_096  # Entries of a tensor that is stacked with others.


@dataclasses.dataclass(frozen=True)
class Stack:
    """Tensors of one shape, and where in the tree they are."""

    positions: tuple[int, ...]  # L of them.
    tensors: tuple[tuple[Any, Any, Any], ...]  # L gradients, parameters, states.

    @functools.cached_property
    def joined(self) -> tuple[jax.Array, jax.Array, Any]:
        """Gradients (L, *shape), parameters as these, states with a leading axis L."""
        return jax.tree.map(lambda *xs: jnp.stack(xs), *self.tensors)

    @property
    def grads(self) -> jax.Array:
        """shape=(L, *shape)."""
        return self.joined[0]

    @property
    def params(self) -> jax.Array:
        """As grads."""
        return self.joined[1]

    @property
    def states(self) -> Any:
        """With a leading axis L on every accumulator."""
        return self.joined[2]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of each tensor."""
        return jnp.shape(self.tensors[0][0])

    def in_turn(self, one: Callable[..., Any], *own: Any) -> Any:
        """``one(grad, param, state, *own)`` of tensor after tensor, in a loop.

        Args:
          one: Returns a tree of arrays.
          *own: Trees of arrays with a leading axis L.

        Returns:
          That tree with a leading axis L.
        """
        choices = [lambda x=x: x for x in self.tensors]

        def turn(given):
            i, own = given
            return one(*jax.lax.switch(i, choices), *own)

        return jax.lax.map(turn, (jnp.arange(len(choices)), own))


def stacks(
    grads: Sequence[Any],
    params: Sequence[Any],
    states: Sequence[Any],
    positions: Sequence[int],
    kinds: Sequence[Hashable] | None = None,
) -> list[Stack]:
    """Sort leaves by shape.

    Args:
      grads: All leaves of a tree.
      params: As grads.
      states: A tree per leaf.
      positions: The leaves to take.
      kinds: One per leaf; leaves of different kinds are kept apart.
    """
    alike: dict[Hashable, list[int]] = {}
    tensors = {}
    for i in positions:
        tensors[i] = jax.tree.map(jnp.asarray, (grads[i], params[i], states[i]))
        # Shapes, dtypes and shardings.
        types = tuple(jax.typeof(x) for x in jax.tree.leaves(tensors[i]))
        key = (types, kinds and kinds[i])
        alike.setdefault(key, []).append(i)
    sorted_ = []
    for group in alike.values():
        first = grads[group[0]]
        lone = len(group) < _MIN_COUNT
        lone = lone or (_is_large(jnp.shape(first)) and not _is_for_one_cpu(first))
        parts = [[i] for i in group] if lone else [group]
        sorted_ += [
            Stack(tuple(part), tuple(tensors[i] for i in part)) for part in parts
        ]
    return sorted_


def update(
    one: Callable[..., Any], stack: Stack, *own: Any, at_once: int | None = None
) -> list[Any]:
    """Step each tensor of a stack.

    Args:
      one: Step of one tensor, ``one(grad, param, state, *own)`` to a tree of arrays.
      stack: The tensors.
      *own: Trees of arrays with a leading axis L, more that differs between tensors.
      at_once: Entries a CPU should step at a time, if what is made of them would not
        stay in cache otherwise.

    Returns:
      What ``one`` returns for each, L of them.
    """
    count = len(stack.positions)
    if count == 1:
        return [one(*stack.tensors[0], *jax.tree.map(lambda x: x[0], own))]
    if _is_large(stack.shape):
        return apart(stack.in_turn(one, *own), count)
    given = (*stack.joined, *own)
    together = jax.vmap(one)
    if jax.default_backend() != "cpu":
        return apart(together(*given), count)
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
    return apart(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out), count)


def apart(tree: Any, count: int) -> list[Any]:
    """Take arrays with a leading axis apart.

    Args:
      tree: Of arrays (L or more, …).
      count: L.

    Returns:
      L trees of arrays (…).
    """
    if not _is_for_one_cpu(jax.tree.leaves(tree)[0]):
        rows: Any = range(count)
    else:
        # Numbers that XLA does not know, or else each slice would be a program. They
        # are in no array, where taking one would be a slice again.
        rows = jax.lax.cond(
            jax.lax.optimization_barrier(np.bool_(False)),
            lambda: [jnp.int32(0)] * count,
            lambda: [jnp.int32(row) for row in range(count)],
        )

    def pick(row):
        return jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, row, keepdims=False), tree
        )

    return [pick(row) for row in rows]


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
        self._leaves = grads, values, []
        self._lay(accumulators.by_leaf(self._treedef, states))

    def _lay(self, states):
        """Take other states."""
        self._leaves = *self._leaves[:2], states
        self._stacks = stacks(*self._leaves, self._live, self._kinds)

    def per_tensor(self, of: Callable[[Stack], jax.Array]) -> jax.Array:
        """What ``of(stack)`` makes, (L, …), for all tensors as in the tree, (T, …)."""

        def one(*tensor):
            return of(Stack((0,), (tensor,)))[0]

        rows = [i for stack in self._stacks for i in stack.positions]
        made = [
            stack.in_turn(one)
            if len(stack.positions) > 1 and _is_large(stack.shape)
            else of(stack)
            for stack in self._stacks
        ]
        return jnp.concatenate(made)[np.argsort(rows)]

    def each(
        self,
        one: Callable[..., tuple[Any, Any]],
        *own: Any,
        vectors: Callable[..., tuple[list[Any], list[Any]]] | None = None,
        at_once: int | None = None,
    ) -> list[tuple[Any, Any]]:
        """Step all tensors: those of a shape together, if there are many.

        Args:
          one: Step of one tensor, ``one(grad, param, state, *own)``, with kinds
            ``one(grad, param, state, kind, *own)``: its step and something more.
          *own: Trees of arrays with a leading axis T, more that differs between
            tensors, in the order of the tree.
          vectors: Step of lists of scalars and vectors, which are in no stack then:
            lists of what ``one`` returns. None: they are stepped like the rest.
          at_once: As in :func:`update`.

        Returns:
          T steps, and what came with them, in the order of the tree.
        """
        row_of = {position: row for row, position in enumerate(self._live)}
        done: dict[int, tuple[Any, Any]] = {}
        lone = []
        for stack in self._stacks:
            first = stack.positions[0]
            if vectors and len(stack.positions) == 1 and len(stack.shape) < 2:
                lone.append(first)
                continue
            kind = () if self._kinds is None else (self._kinds[first],)
            rows = np.asarray([row_of[i] for i in stack.positions])

            def step(grad, param, state, *own, kind=kind):
                return one(grad, param, state, *kind, *own)

            mine = jax.tree.map(lambda x, rows=rows: _rows(x, rows), own)
            outs = update(step, stack, *mine, at_once=at_once)
            done |= zip(stack.positions, outs, strict=True)
        if vectors and lone:
            outs = vectors(*([xs[i] for i in lone] for xs in self._leaves))
            done |= zip(lone, zip(*outs, strict=True), strict=True)
        return [done[i] for i in self._live]

    def step(
        self,
        one: Callable[..., tuple[Any, Any]],
        *own: Any,
        before: Callable[[Any, Any], Any],
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """As `each`, laid over the tree.

        Args:
          one: As there; what comes with a step is a dict, the fields of the state that
            it renews.
          *own: As there.
          before: What is renewed before, entry by entry: a state of (grad, state). Of
            large tensors it goes straight to where it stays.
          **kwargs: As there.

        Returns:
          Tree of steps, zero for empty leaves, and new accumulators.
        """
        states = list(self._leaves[2])
        for i in self._live:
            states[i] = before(self._leaves[0][i], states[i])
        self._lay(states)
        outs = self.each(one, *own, **kwargs)
        for i, (_, renewed) in zip(self._live, outs, strict=True):
            states[i] = states[i]._replace(**renewed)
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


def _is_large(shape):
    """Whether a tensor is better not copied to a stack."""
    return math.prod(shape) > _MAX_SIZE


def _is_for_one_cpu(x):
    """Whether x is of a program for a single CPU; without jit, loops do not pay."""
    traced = isinstance(x, jax.core.Tracer)
    return traced and jax.default_backend() == "cpu" and jax.device_count() == 1
