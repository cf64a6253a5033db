"""Accumulators of per-parameter rules: what they are and how an array is factored.

SmallFC, ELO, Celo2, VeLO and Celo keep the same ones. A rule's state holds a tree like
the parameters in every field, as optax's own states do, so that what maps over copies
of the parameters in a state finds them; for a step, `by_leaf` puts the fields of one
array together, and `by_field` takes them apart again. Axis names: M momenta (as many
factored moments), K product of the unfactored axes, A and B the two factored axes in
the array's own order.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mulo._checks import rule_inputs as inputs

DECAYS = (
    "initial_momentum_decays",
    "initial_rms_decays",
    "initial_adafactor_decays",
)


class HasDecays(Protocol):
    """A rule with these fields, `DECAYS`: decay rates per step."""

    @property
    def initial_momentum_decays(self) -> tuple[float, ...]: ...

    @property
    def initial_rms_decays(self) -> tuple[float, ...]: ...

    @property
    def initial_adafactor_decays(self) -> tuple[float, ...]: ...


class Decays(NamedTuple):
    """Decay rates per step."""

    momentum: jax.Array  # (M,)
    rms: jax.Array  # (1,)
    adafactor: jax.Array  # (M,)


def check_decays(rule: HasDecays) -> None:
    """Check a rule's `DECAYS`; raise ValueError naming the field."""
    inputs.check_decays(rule, DECAYS)
    if len(rule.initial_rms_decays) != 1:
        raise ValueError(
            "initial_rms_decays must be one decay, as published, got "
            f"{rule.initial_rms_decays}."
        )
    momenta = len(rule.initial_momentum_decays)
    if len(rule.initial_adafactor_decays) != momenta:
        raise ValueError(
            "initial_adafactor_decays must be as many as initial_momentum_decays (each "
            "momentum is normalized by one of them), got "
            f"{len(rule.initial_adafactor_decays)} and {momenta}."
        )


def fixed_decays(rule: HasDecays) -> Decays:
    """The decay rates of a rule that does not learn them, as arrays."""
    return Decays(*(jnp.asarray(getattr(rule, name), jnp.float32) for name in DECAYS))


class LeafState(NamedTuple):
    """Accumulators of one array, float32; in a rule's state, a tree in every field."""

    momentum: jax.Array  # (M, *shape). Moving averages of the gradient.
    rms: jax.Array  # As the array. Moving average of the squared gradient.
    # Moving averages of the squared gradient over axis B and A of a factored array:
    # (M, K, A) and (M, K, B). Otherwise both hold the elementwise average (M, size).
    along_a: jax.Array
    along_b: jax.Array


def by_leaf(treedef: Any, fields: Any) -> list[Any]:
    """A tuple of trees → for every leaf a tuple of its arrays.

    Args:
      treedef: Structure of the updates, masked leaves included.
      fields: A named tuple of trees in that structure.

    Returns:
      Named tuples of the same type; where a leaf is masked, of MaskedNodes.
    """
    columns = (treedef.flatten_up_to(field) for field in fields)
    return [type(fields)(*leaf) for leaf in zip(*columns, strict=True)]


def by_field(treedef: Any, leaves: Sequence[Any], like: Any) -> Any:
    """Undo `by_leaf`; ``like`` is what it was given, for trees without leaves."""
    if not leaves:
        return like
    columns = zip(*leaves, strict=True)
    return type(like)(*(treedef.unflatten(column) for column in columns))


def init_tree(kind: Any, params: Any, init_leaf: Callable[[Any], Any]) -> Any:
    """Accumulators of all leaves, a tree in every field.

    Args:
      kind: The named tuple that ``init_leaf`` returns for one array.
      params: Parameters.
      init_leaf: Accumulators of one array.
    """
    leaves, treedef = jax.tree.flatten(params)
    if not leaves:
        return kind(*(params for _ in kind._fields))
    columns = zip(*map(init_leaf, leaves), strict=True)
    return kind(*(treedef.unflatten(column) for column in columns))


class Factoring(NamedTuple):
    """How an array is seen as (K, A, B) with factored axes A and B."""

    shape: tuple[int, int, int]  # (K, A, B).
    order: tuple[int, ...]  # Transposition that brings the factored axes last.
    rows_along_a: bool  # Whether "row" statistics (averaged over d0) live on A.

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "Factoring | None":
        """Roles of the axes: ``d1, d0 = argsort(shape)[-2:]``, the sort stable."""
        if len(shape) < 2:
            return None
        d1, d0 = (int(d) for d in np.argsort(shape, kind="stable")[-2:])
        a, b = sorted((d1, d0))
        rest = tuple(i for i in range(len(shape)) if i not in (a, b))
        k = math.prod(shape[i] for i in rest)
        return cls((k, shape[a], shape[b]), (*rest, a, b), d1 == a)

    def split(self, x: jax.Array) -> jax.Array:
        """(*lead, *shape) → (*lead, K, A, B)."""
        lead = x.ndim - len(self.order)
        order = (*range(lead), *(lead + i for i in self.order))
        return x.transpose(order).reshape(*x.shape[:lead], *self.shape)

    def merge(self, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """(*lead, K, A, B) → (*lead, *shape)."""
        lead = x.ndim - 3
        x = x.reshape(*x.shape[:lead], *(shape[i] for i in self.order))
        back = np.argsort(self.order)
        return x.transpose(*range(lead), *(lead + int(i) for i in back))


def init(param: jax.typing.ArrayLike, num_momenta: int) -> LeafState:
    """Zero accumulators for one array of any shape and floating dtype."""
    shape = jnp.shape(param)
    factoring = Factoring.of(shape)
    if factoring is None:
        along_a = along_b = (num_momenta, math.prod(shape))
    else:
        k, a, b = factoring.shape
        along_a, along_b = (num_momenta, k, a), (num_momenta, k, b)
    return LeafState(
        momentum=jnp.zeros((num_momenta, *shape), jnp.float32),
        rms=jnp.zeros(shape, jnp.float32),
        along_a=jnp.zeros(along_a, jnp.float32),
        along_b=jnp.zeros(along_b, jnp.float32),
    )


def init_leaves(rule: HasDecays, params: Any) -> LeafState:
    """Zero accumulators for every leaf, for the decays of a rule."""
    momenta = len(rule.initial_momentum_decays)
    return init_tree(LeafState, params, lambda p: init(p, momenta))
