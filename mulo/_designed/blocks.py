"""How leaves become batches of small tensors for matrix preconditioners.

Leaves of the same shape are stacked, large axes are cut into blocks, and blocks of the
same size are handled together; so the size of the compiled program depends on the
number of different shapes, not on the number of layers. Nothing here depends on values:
the layout is worked out from shapes each time a program is traced.

Axis names: N leaves of a group, B blocks of a leaf, d an axis of the leaf, s its size
in a block.
"""

import dataclasses
import itertools
import math
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import Precision

from mulo._checks import masked_leaves, rule_inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What decides the layout.

    Attributes:
      max_precondition_dim: Axes larger than this (after blocking) get no
        preconditioner.
      block_size: Largest size of a preconditioned axis in a block; None for no blocks.
      merge_dims: Whether neighbouring axes are merged while their product is at most
        the block size, or max_precondition_dim without blocks.
      precondition_1d: Whether vectors get a preconditioner.
      one_sided: Whether the largest axis of a leaf of two or more axes gets none.
    """

    max_precondition_dim: int
    block_size: int | None = None
    merge_dims: bool = False
    precondition_1d: bool = False
    one_sided: bool = False

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """Make it from those of a function's arguments that are its fields."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in arguments.items() if k in names})

    def __post_init__(self):
        """Check every field."""
        for name in ("max_precondition_dim", "block_size"):
            value = getattr(self, name)
            if value is None and name == "block_size":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} must be an integer >= 1, as it decides shapes; got "
                    f"{value!r}. With optax.inject_hyperparams name it in static_args."
                )
        rule_inputs.check_bools(self, ("merge_dims", "precondition_1d", "one_sided"))
        if (self.block_size or 0) > self.max_precondition_dim:
            raise ValueError(
                "block_size must be at most max_precondition_dim, or no block gets a "
                f"preconditioner; got {self.block_size} and "
                f"{self.max_precondition_dim}."
            )


@dataclasses.dataclass(frozen=True)
class Region:
    """Blocks of one size: for each axis, where they begin, how many, how large."""

    starts: tuple[int, ...]
    counts: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """Leaves that are handled as one array (N, *dims)."""

    name: str  # Key in the state, such as "128x64".
    leaves: tuple[int, ...]  # Positions among the flattened leaves.
    dims: tuple[int, ...]  # After merging.
    tracked: tuple[bool, ...]  # Which axes have a preconditioner.
    dtype: Any  # Of the statistics: the leaf's, float32 at least.
    regions: tuple[Region, ...]  # C order of blocks along the axes.

    def stack(self, leaves: Sequence[Any]) -> jax.Array:
        """Return the group's leaves as (N, *dims), in the statistics' dtype."""
        return jnp.stack(
            [jnp.reshape(leaves[i], self.dims).astype(self.dtype) for i in self.leaves]
        )

    def split(self, array: jax.Array) -> list[jax.Array]:
        """Cut (N, *dims) into one array (N, B, *sizes) per region."""
        rank = len(self.dims)
        parts = []
        for region in self.regions:
            part = array
            if len(self.regions) > 1:
                stops = [
                    a + c * s
                    for a, c, s in zip(
                        region.starts, region.counts, region.sizes, strict=True
                    )
                ]
                part = jax.lax.slice(
                    array, (0, *region.starts), (len(self.leaves), *stops)
                )
            pairs = zip(region.counts, region.sizes, strict=True)
            part = part.reshape(len(self.leaves), *itertools.chain(*pairs))
            counts, sizes = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
            part = part.transpose(0, *counts, *sizes)
            parts.append(part.reshape(len(self.leaves), -1, *region.sizes))
        return parts

    def join(self, parts: Sequence[jax.Array]) -> jax.Array:
        """Undo `split`."""
        rank = len(self.dims)
        whole = []
        for region, part in zip(self.regions, parts, strict=True):
            part = part.reshape(len(self.leaves), *region.counts, *region.sizes)
            order = itertools.chain(*((1 + k, 1 + rank + k) for k in range(rank)))
            part = part.transpose(0, *order)
            pairs = zip(region.counts, region.sizes, strict=True)
            whole.append(part.reshape(len(self.leaves), *(c * s for c, s in pairs)))
        return _concatenate(self.regions, whole, 0)

    def per_axis(
        self, region: Region, make: Callable[[int], jax.Array]
    ) -> tuple[jax.Array | None, ...]:
        """Return ``make(s)`` for every block, (N, B, s, s), for each tracked axis."""
        lead = (len(self.leaves), math.prod(region.counts))
        return tuple(
            jnp.broadcast_to(make(s)[None, None], (*lead, s, s)).astype(self.dtype)
            if tracked
            else None
            for s, tracked in zip(region.sizes, self.tracked, strict=True)
        )

    def unstack(self, array: jax.Array, leaves: list[Any]) -> None:
        """Put (N, *dims) back in place of the leaves, in their shapes and dtypes."""
        for row, i in enumerate(self.leaves):
            leaf = leaves[i]
            leaves[i] = (
                array[row].reshape(jnp.shape(leaf)).astype(jnp.result_type(leaf))
            )


def layout(leaves: Sequence[Any], options: Options) -> tuple[Group, ...]:
    """Group leaves by what is done with them; masked and empty ones are left out."""
    members: dict[tuple, list[int]] = {}
    for i in masked_leaves.live(leaves):
        dims, tracked, _ = _axes(tuple(np.shape(leaves[i])), options)
        dtype = jnp.promote_types(jnp.result_type(leaves[i]), jnp.float32)
        members.setdefault((dims, tracked, jnp.dtype(dtype).name), []).append(i)
    groups = []
    for (dims, tracked, dtype), positions in members.items():
        name = "x".join(map(str, dims)) or "scalar"
        if tracked != (True,) * len(dims) and dims:
            marks = "".join("p" if t else "-" for t in tracked)
            name = f"{name}:{marks}"
        if dtype != "float32":
            name = f"{name}:{dtype}"
        regions = []
        axes = [
            _segments(d, options.block_size if t else None)
            for d, t in zip(dims, tracked, strict=True)
        ]
        for chosen in itertools.product(*axes):
            starts, counts, sizes = zip(*chosen, strict=True) if chosen else ((),) * 3
            regions.append(Region(starts, counts, sizes))
        groups.append(
            Group(name, tuple(positions), dims, tracked, dtype, tuple(regions))
        )
    return tuple(groups)


def init(rule: str, params: Any, options: Options, make: Callable[[Group], Any]) -> Any:
    """State of every group by its name, from that of one group's leaves."""
    rule_inputs.check_floating(rule, params)
    if masked_leaves.is_placeholder(params):
        # Stacks of leaves are no copies of the parameters: one non-parameter.
        return jnp.zeros(())
    leaves = jax.tree.leaves(params, is_leaf=masked_leaves.is_masked)
    return {group.name: make(group) for group in layout(leaves, options)}


def flatten(
    rule: str, updates: Any, state: Mapping[str, Any], options: Options
) -> tuple[list[Any], Any, tuple[Group, ...]]:
    """Leaves of the updates, their structure and groups, which the state must have."""
    rule_inputs.check_floating(rule, updates)
    leaves, treedef = jax.tree.flatten(updates, is_leaf=masked_leaves.is_masked)
    groups = layout(leaves, options)
    check_state(rule, groups, state)
    return leaves, treedef, groups


def check_state(rule: str, groups: Sequence[Group], state: Mapping[str, Any]) -> None:
    """Raise ValueError unless the state was made for leaves of these shapes.

    Args:
      rule: For the message.
      groups: Of the updates.
      state: By group name, with ``seen``, shape=(N,).
    """
    want = {group.name: len(group.leaves) for group in groups}
    have = {name: group.seen.shape[0] for name, group in state.items()}
    if want != have:
        raise ValueError(
            f"The state of {rule} belongs to other parameters or options: it has "
            f"leaves {_counts(have)}, the updates have {_counts(want)}. Make it with "
            "tx.init(params) of the same transformation."
        )


def tracked_axes(shape: tuple[int, ...], options: Options) -> tuple[bool, ...]:
    """Say which axes of a leaf, as it comes, have a preconditioner."""
    _, tracked, owner = _axes(shape, options)
    return tuple(tracked[k] for k in owner)


def rotate(x: jax.Array, matrices: Sequence[jax.Array | None], *, back: bool = False):
    """Multiply every axis of each block by its matrix, or by the transposed one.

    Args:
      x: shape=(N, B, *sizes).
      matrices: One per axis, shape=(N, B, s, s), or None to leave the axis alone.
      back: Contract the matrix's second index instead of its first.

    Returns:
      shape=(N, B, *sizes).
    """
    letters = string.ascii_lowercase[: x.ndim]
    for k, matrix in enumerate(matrices):
        if matrix is None:
            continue
        axis = letters[2 + k]
        pair = f"z{axis}" if back else f"{axis}z"
        out = letters.replace(axis, "z")
        x = jnp.einsum(
            f"{letters},ab{pair}->{out}", x, matrix, precision=Precision.HIGHEST
        )
    return x


def outer(x: jax.Array, axis: int) -> jax.Array:
    """Contract (N, B, *sizes) with itself over all axes but one: (N, B, s, s)."""
    letters = string.ascii_lowercase[: x.ndim]
    kept = letters[2 + axis]
    other = letters.replace(kept, "z")
    return jnp.einsum(
        f"{letters},{other}->ab{kept}z", x, x, precision=Precision.HIGHEST
    )


def by_size(
    function: Callable[..., Any], *columns: Sequence[jax.Array]
) -> list[tuple[jax.Array, ...]]:
    """Call a batched function once per matrix size instead of once per matrix.

    Args:
      function: Maps arrays with a leading batch axis to one such array or several.
      *columns: Its arguments, each a list of arrays (N, B, s, …). Entries whose first
        argument has the same s and dtype are done in one call.

    Returns:
      For every entry the tuple of its results, (N, B, …).
    """
    first = columns[0]
    sizes: dict[tuple, list[int]] = {}
    for i, x in enumerate(first):
        sizes.setdefault((x.shape[2:], x.dtype.name), []).append(i)
    results: list[Any] = [None] * len(first)
    for members in sizes.values():
        batches = [
            jnp.concatenate([c[i].reshape(-1, *c[i].shape[2:]) for i in members])
            for c in columns
        ]
        out = function(*batches)
        out = out if isinstance(out, tuple) else (out,)
        start = 0
        for i in members:
            lead = first[i].shape[:2]
            stop = start + math.prod(lead)
            results[i] = tuple(y[start:stop].reshape(*lead, *y.shape[1:]) for y in out)
            start = stop
    return results


def finite_only(grads: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Say which leaves of (N, *dims) can be used, and put zeros for the others.

    A leaf can if the sum of its squares is finite: every square and product that comes
    later is at most that sum, so nothing can overflow.
    """
    finite = jnp.isfinite(jnp.sum(grads**2, axis=tuple(range(1, grads.ndim))))
    return jnp.where(per_leaf(finite, grads), grads, 0.0), finite


def counted(seen: jax.Array, more: jax.Array) -> jax.Array:
    """Add one where ``more`` is true, up to int32's largest."""
    return jnp.where(more, optax.safe_increment(seen), seen)


def norm(x: jax.Array) -> jax.Array:
    """Of every leaf of (N, *dims), shape=(N, 1, …); squares do not underflow."""
    axes = tuple(range(1, x.ndim))
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True)
    unit = x / jnp.where(largest > 0, largest, 1.0)
    return largest * jnp.sqrt(jnp.sum(unit**2, axis=axes, keepdims=True))


def number(value: Any, dtype: Any) -> Any:
    """Leave a Python number as it is; give an array, maybe traced, this dtype."""
    return value if isinstance(value, int | float) else jnp.asarray(value, dtype)


def per_leaf(values: jax.Array, like: jax.Array) -> jax.Array:
    """Give (N,) as many axes as ``like`` (N, …) has."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def per_block(values: jax.Array, like: jax.Array) -> jax.Array:
    """Give (N, B) as many axes as ``like`` (N, B, …) has."""
    return values.reshape(*values.shape, *(1,) * (like.ndim - 2))


def _counts(leaves):
    return ", ".join(f"{n} × {name}" for name, n in leaves.items()) or "none"


def _axes(shape, options):
    """Axes after merging, which are tracked, and where each original axis went."""
    limit = options.block_size or options.max_precondition_dim
    owner = list(range(len(shape)))
    dims = list(shape)
    if options.merge_dims and len(shape) > 1:
        dims, owner = _merge(shape, limit)
    in_block = [min(d, options.block_size or d) for d in dims]
    tracked = [s <= options.max_precondition_dim for s in in_block]
    if len(shape) == 1 and not options.precondition_1d:
        tracked = [False]
    if options.one_sided and len(dims) > 1:
        # The last of the largest: a square matrix keeps its first axis.
        tracked[max(range(len(dims)), key=lambda k: (dims[k], k))] = False
    return tuple(dims), tuple(tracked), owner


def _merge(shape, limit):
    """Merge neighbours from the left while their product is within the limit."""
    dims, owner = [1], []
    for d in shape:
        if dims[-1] * d > limit and dims[-1] > 1 and d > 1:
            dims.append(1)
        dims[-1] *= d
        owner.append(len(dims) - 1)
    return dims, owner


def _segments(d, block_size):
    """(start, count, size): whole blocks, then what is left of the axis."""
    if block_size is None or d <= block_size:
        return [(0, 1, d)]
    count = d // block_size
    rest = [(count * block_size, 1, d % block_size)] if d % block_size else []
    return [(0, count, block_size), *rest]


def _concatenate(regions, parts, axis):
    if len(parts) == 1:
        return parts[0]
    starts = sorted({region.starts[axis] for region in regions})
    rows = []
    for start in starts:
        chosen = [k for k, r in enumerate(regions) if r.starts[axis] == start]
        rows.append(
            _concatenate(
                [regions[k] for k in chosen], [parts[k] for k in chosen], axis + 1
            )
        )
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows, axis=axis + 1)
