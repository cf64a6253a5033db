"""The features that per-parameter networks read: of SmallFC, ELO, VeLO, Celo and Celo2.

They are one set of groups, made of the gradient, the parameter and the accumulators;
a rule's `Form` says which groups it has and the constants in which the published codes
differ.

Row and column groups are statistics of one axis only. Scalars and vectors have nothing
to factor: there both are the elementwise second moment.

Axis names: M momenta (as many factored moments), K, A and B of an array seen as K
matrices, N entries of a vector.
"""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mulo._learned.accumulators import Decays, Factoring, LeafState
from mulo._learned.gradient_cleaning import clean

# In the order of the published networks' inputs, and as public files split the first
# layer of those that have all of them.
GROUPS = (
    "gradient",
    "clipped_gradient",
    "parameter",
    "momentum",
    "rms",
    "momentum_by_rms",
    "inverse_rms",
    "factored_gradient",
    "gradient_by_rms",
    "row",
    "column",
    "inverse_row",
    "inverse_column",
    "factored_momentum",
)

SIDES = GROUPS[9:13]  # Vary along one axis of a matrix.

# One feature per momentum, or factored moment; the others are one feature.
_PER_MOMENTUM = {
    *("momentum", "momentum_by_rms", "factored_gradient", "factored_momentum"),
    *SIDES,
}

# Groups that are made of the same arrays: the gradient and parameters, the momenta,
# these with the second moment, and vectors' factored moments.
READ_TOGETHER = (
    ("gradient", "clipped_gradient", "parameter", "factored_gradient"),
    ("momentum", "factored_momentum"),
    ("rms", "momentum_by_rms", "inverse_rms", "gradient_by_rms"),
    ("row", "inverse_row"),
)

TIMESCALES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)  # Steps.

_CLIP_FEATURE = 0.1  # Gradient units.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """In what the features of one rule differ from those of another.

    Attributes:
      groups: Names among `GROUPS`, in that order.
      cleans: Whether gradients go through `clean`.
      rms_eps: Added to the second moment under the root.
      vector_eps: The same for the second moment that vectors' momenta are divided by;
        None if vectors have neither this group nor those of rows and columns.
      norm_eps: Added to a feature's mean square.
      by_matrix: Whether features are normalized over the last two axes of the array,
        rather than over all of it.
    """

    groups: tuple[str, ...] = GROUPS
    cleans: bool = True
    rms_eps: float = 1e-6
    vector_eps: float | None
    norm_eps: float = 1e-5
    by_matrix: bool = False

    @property
    def matrix_groups(self) -> tuple[str, ...]:
        """Groups that vary along both axes of a matrix."""
        return tuple(x for x in self.groups if x not in SIDES)

    @property
    def vector_groups(self) -> tuple[str, ...]:
        """Groups of scalars and vectors, where rows stand for columns too."""
        if self.vector_eps is None:
            return tuple(x for x in self.matrix_groups if x != "factored_momentum")
        return (*self.matrix_groups, "row", "inverse_row")

    def sizes(self, num_momenta: int) -> tuple[int, ...]:
        """Features of each group; 1, 1, 1, 3, 1, 3, … for all and three momenta."""
        return tuple(num_momenta if x in _PER_MOMENTUM else 1 for x in self.groups)

    def rows(self, num_features: int) -> dict[str, range]:
        """Rows of each group in the first layer's weights."""
        once = sum(x not in _PER_MOMENTUM for x in self.groups)
        sizes = self.sizes((num_features - once) // (len(self.groups) - once))
        ends = itertools.accumulate(sizes)
        each = zip(self.groups, sizes, ends, strict=True)
        return {group: range(end - size, end) for group, size, end in each}

    def inverse_rms(self, mean_square: jax.Array) -> jax.Array:
        """What a feature of this mean square is multiplied by."""
        return jax.lax.rsqrt(self.norm_eps + mean_square)


SMALL_FC = Form(
    groups=tuple(x for x in GROUPS if x not in ("clipped_gradient", "gradient_by_rms")),
    cleans=False,
    vector_eps=1e-6,
)
VELO = Form(vector_eps=0.0)
CELO2 = Form(rms_eps=1e-8, vector_eps=None, norm_eps=1e-9, by_matrix=True)


def moments(form: Form, decays: Decays, grad: jax.Array, state: LeafState) -> LeafState:
    """Take one gradient into the moments of single entries.

    Args:
      form: The rule's.
      decays: Decay rates per step.
      grad: Gradient of any shape, floating.
      state: Accumulators.

    Returns:
      Accumulators with a new momentum and second moment.
    """
    grad = _read(form, grad)
    decay = decays.momentum.reshape(-1, *(1,) * grad.ndim)
    momentum = _ema(decay, state.momentum, grad[None])
    decay = decays.rms.reshape((1,) * grad.ndim)
    rms = _ema(decay, state.rms, jnp.square(grad))
    return state._replace(momentum=momentum, rms=rms)


def factored(
    form: Form, decays: Decays, grad: jax.Array, param: jax.Array, state: LeafState
) -> tuple[jax.Array, jax.Array, LeafState]:
    """Take one gradient into the factored second moments.

    Args:
      form: The rule's.
      decays: Decay rates per step.
      grad: Gradient of a vector, or of an array of more axes, floating.
      param: As grad.
      state: Accumulators, with new `moments`.

    Returns:
      Gradient and parameters in float32, and new accumulators.
    """
    grad = _read(form, grad)
    decay = decays.adafactor.reshape(-1, *(1,) * (state.along_a.ndim - 1))
    factoring = Factoring.of(grad.shape)
    if factoring is None:
        square = jnp.square(grad)[None] + 1e-30
        along_a = along_b = _ema(decay, state.along_a, square)
    else:
        square = jnp.square(factoring.split(grad)) + 1e-30
        along_a = _ema(decay, state.along_a, jnp.mean(square, axis=2)[None])
        along_b = _ema(decay, state.along_b, jnp.mean(square, axis=1)[None])
    state = state._replace(along_a=along_a, along_b=along_b)
    return grad, jnp.asarray(param, jnp.float32), state


def _read(form, grad):
    return clean(grad) if form.cleans else jnp.asarray(grad, jnp.float32)


class Matrices(NamedTuple):
    """How an array is seen as matrices (K, A, B)."""

    shape: tuple[int, ...]
    factoring: Factoring
    as_it_is: bool  # Whether A and B are the last two axes, not the factored ones.

    def split(self, x: jax.Array) -> jax.Array:
        """(*lead, *shape) → (*lead, K, A, B)."""
        if not self.as_it_is:
            return self.factoring.split(x)
        lead = x.shape[: x.ndim - len(self.shape)]
        return x.reshape(*lead, math.prod(self.shape[:-2]), *self.shape[-2:])

    def merge(self, x: jax.Array) -> jax.Array:
        """(K, A, B) → (*shape)."""
        if self.as_it_is:
            return x.reshape(self.shape)
        return self.factoring.merge(x, self.shape)

    def lay(self, stats: jax.Array, on_rows: bool) -> jax.Array:
        """Row or column statistics → (M, K, A, B), axes they do not vary along 1."""
        along_a = on_rows == self.factoring.rows_along_a
        stats = stats[..., :, None] if along_a else stats[..., None, :]
        if not self.as_it_is:
            return stats
        reduced = self.factoring.order[-1 if along_a else -2]
        kept = [1 if axis == reduced else n for axis, n in enumerate(self.shape)]
        stats = self.factoring.merge(stats, tuple(kept))
        if reduced < len(self.shape) - 2:
            stats = jnp.broadcast_to(stats, (stats.shape[0], *self.shape))
        k = math.prod(self.shape[:-2])
        return stats.reshape(stats.shape[0], k, *stats.shape[-2:])

    def sides(
        self, state: LeafState
    ) -> tuple[dict[str, jax.Array], tuple[jax.Array, jax.Array]]:
        """Row and column groups and Adafactor's two factors, (M, K, A, B)."""
        row, column = state.along_a, state.along_b
        if not self.factoring.rows_along_a:
            row, column = column, row
        row_factor = _safe_rsqrt(row / (jnp.mean(row, axis=2, keepdims=True) + 1e-9))
        factors = self.lay(row_factor, True), self.lay(_safe_rsqrt(column), False)
        row, column = self.lay(row, True), self.lay(column, False)
        stats = row, column, _inverse(row), _inverse(column)
        return dict(zip(SIDES, stats, strict=True)), factors


def matrix_planes(
    form: Form, g: jax.Array, p: jax.Array, m: jax.Array, v: jax.Array, *factors: Any
) -> list[jax.Array]:
    """Features of matrices that vary along both axes, as in ``form.matrix_groups``.

    Args:
      form: The rule's.
      g: Gradient, (…).
      p: Parameters, (…).
      m: Momenta, (M, …).
      v: Second moment, (…).
      *factors: Adafactor's two, (M, …), broadcast against the rest.

    Returns:
      Arrays like g.
    """
    scale = [a * b for a, b in zip(*factors, strict=True)]
    planes = _planes(form, g, p, m, v, scale) | {"factored_momentum": _times(m, scale)}
    return [x for group in form.matrix_groups for x in planes[group]]


def vector_planes(
    form: Form, g: jax.Array, p: jax.Array, m: jax.Array, v: jax.Array, second: Any
) -> list[jax.Array]:
    """Features of vectors, as in ``form.vector_groups``.

    Args:
      form: The rule's.
      g: Gradient, (N,).
      p: Parameters, (N,).
      m: Momenta, (M, N).
      v: Second moment, (N,).
      second: Second moments in place of factored ones, (M, N).

    Returns:
      Arrays (N,).
    """
    planes = _planes(form, g, p, m, v, _safe_rsqrt(second + 1e-9))
    if form.vector_eps is not None:
        planes |= {
            "row": list(second),
            "inverse_row": list(_inverse(second)),
            "factored_momentum": _times(m, (second + form.vector_eps) ** -0.5),
        }
    return [x for group in form.vector_groups for x in planes[group]]


def _planes(form, g, p, m, v, scale):
    # Lists, since arrays of several planes would be written to memory.
    inverse = jax.lax.rsqrt(v + form.rms_eps)
    return {
        "gradient": [g],
        "clipped_gradient": [jnp.clip(g, -_CLIP_FEATURE, _CLIP_FEATURE)],
        "parameter": [p],
        "momentum": list(m),
        "rms": [v],
        "momentum_by_rms": [x * inverse for x in m],
        "inverse_rms": [inverse],
        "factored_gradient": [g * s for s in scale],
        "gradient_by_rms": [g * inverse],
    }


def _times(xs, ys):
    return [x * y for x, y in zip(xs, ys, strict=True)]


def _ema(decay, old, new):
    return decay * old + (1.0 - decay) * new


def _safe_rsqrt(x):
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _inverse(x):
    return jax.lax.rsqrt(x + 1e-8)
