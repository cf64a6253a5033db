"""Celo2's arithmetic: accumulators, features and network of parameter arrays.

The published network sees up to 30 inputs per parameter, each divided by its root mean
square over the last two axes of the array, and has 8 hidden units per layer. At that
size it is not a chain of matrix products but a few hundred multiply-adds per
parameter: written out element by element, everything between the accumulators and the
direction is one fused loop that keeps the features in registers. Two exact rewritings
make the loop short:

* a feature's normalizer is one number per matrix: it goes into the weights;
* row and column features vary along one axis: their share of the first layer is
  computed per row and per column, and added.

Scalars and vectors have no row and column features; all of them go through the network
as one long vector.

Axis names: M momenta (as many factored moments), K product of all axes but the last
two, A and B the last two, H hidden units, L arrays in a list, N entries of them all.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mulo import _long_vectors as long_vectors
from mulo import _scalar_network as scalar_network
from mulo._accumulators import Factoring, LeafState

# Features by group, as the public file splits the first layer. The last five groups
# need factored moments: scalars and vectors have none of them.
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

_CLIP = 1000.0  # Gradient units.
_CLIP_FEATURE = 0.1  # Gradient units.

# Groups of features that are read from the same arrays: the gradient and parameters,
# the momenta, and these with the second moment.
_READ_TOGETHER = (
    ("gradient", "clipped_gradient", "parameter", "factored_gradient"),
    ("momentum", "factored_momentum"),
    ("rms", "momentum_by_rms", "inverse_rms", "gradient_by_rms"),
)


class Network(NamedTuple):
    """The MLP, its first layer split into groups."""

    groups: dict[str, jax.Array]  # (group size, H) for each of `GROUPS`.
    bias: jax.Array  # (H,).
    layers: tuple[tuple[jax.Array, jax.Array], ...]  # Remaining (weights, bias).


def group_sizes(num_momenta: int) -> tuple[int, ...]:
    """Inputs of each of `GROUPS`; 1, 1, 1, 3, 1, 3, 1, 3, 1, 3, … for three momenta."""
    many = {"momentum", "momentum_by_rms", "factored_gradient", *GROUPS[9:]}
    return tuple(num_momenta if group in many else 1 for group in GROUPS)


def clean(grad):
    """A gradient in float32, clipped; what is not a number counts as zero."""
    # Differs from the public code, which lets one NaN into its accumulators for good.
    grad = jnp.nan_to_num(jnp.asarray(grad, jnp.float32), posinf=_CLIP, neginf=-_CLIP)
    return jnp.clip(grad, -_CLIP, _CLIP)


def update(network, decays, grad, param, state):
    """One step on one array.

    Args:
      network: The MLP.
      decays: Decay rates per step.
      grad: Gradient, floating.
      param: Parameters, as grad.
      state: Accumulators.

    Returns:
      The network's first output, of shape ``grad.shape``, float32, and the new state.
    """
    shape = jnp.shape(grad)
    factoring = Factoring.of(shape)
    if factoring is None:
        (out,), (new,) = update_vectors(network, decays, [grad], [param], [state])
        return out, new
    last_two = (math.prod(shape[:-2]), *shape[-2:])
    grad, param, momentum, rms = _moments(decays, grad, param, state)

    # Adafactor statistics: (M, K', A'), (M, K', B') in the factored layout.
    decay = decays.adafactor.reshape(-1, 1, 1)
    square = factoring.split(jnp.square(grad)) + 1e-30
    along_a = decay * state.along_a + (1.0 - decay) * jnp.mean(square, axis=2)[None]
    along_b = decay * state.along_b + (1.0 - decay) * jnp.mean(square, axis=1)[None]
    row, col = (along_a, along_b) if factoring.rows_along_a else (along_b, along_a)
    row_factor = _safe_rsqrt(row / (jnp.mean(row, axis=2, keepdims=True) + 1e-9))
    col_factor = _safe_rsqrt(col)

    def lay(stats, on_rows):
        """Row or column statistics → (M, K, A, B), axes they do not vary along 1."""
        along_a = on_rows == factoring.rows_along_a
        stats = stats[..., :, None] if along_a else stats[..., None, :]
        reduced = factoring.order[-1] if along_a else factoring.order[-2]
        kept = [1 if axis == reduced else size for axis, size in enumerate(shape)]
        stats = factoring.merge(stats, tuple(kept))
        if reduced < len(shape) - 2:
            stats = jnp.broadcast_to(stats, (stats.shape[0], *shape))
        return stats.reshape(stats.shape[0], last_two[0], *stats.shape[-2:])

    row, row_factor = lay(row, True), lay(row_factor, True)
    col, col_factor = lay(col, False), lay(col_factor, False)
    g, p, v = (x.reshape(last_two) for x in (grad, param, rms))
    m = momentum.reshape(-1, *last_two)
    factors = list(zip(row_factor, col_factor, strict=True))

    def planes_of(g, p, m, v, factors):
        planes = _planes(g, p, m, v, [g * r * c for r, c in factors])
        planes["factored_momentum"] = [
            x * r * c for x, (r, c) in zip(m, factors, strict=True)
        ]
        return planes

    by_row = _share(network, {"row": row, "inverse_row": _inverse(row)})
    by_column = _share(network, {"column": col, "inverse_column": _inverse(col)})
    hidden = [
        bias + a + b
        for bias, a, b in zip(
            network.bias.reshape(-1, 1, 1, 1), by_row, by_column, strict=True
        )
    ]
    planes = planes_of(g, p, m, v, factors)
    names = [group for group, features in planes.items() for _ in features]
    together = [
        [i for i, name in enumerate(names) if name in groups]
        for groups in _READ_TOGETHER
    ]
    by_row = scalar_network.row_mean_squares(_flat(planes), together)
    scales = _inverse_rms(jnp.mean(jnp.stack(by_row), 2)[..., None, None])
    weights = jnp.concatenate([network.groups[group] for group in planes])
    planes = planes_of(*scalar_network.made_anew((g, p, m, v, factors)))
    weights = weights[:, :, None, None, None] * scales[:, None]
    (out,) = scalar_network.mlp(hidden, _flat(planes), weights, network.layers, 1)
    return out.reshape(shape), LeafState(momentum, rms, along_a, along_b)


def update_vectors(network, decays, grads, params, states):
    """One step on scalars and vectors, as :func:`update` on each.

    Args:
      network: The MLP.
      decays: Decay rates per step.
      grads: Gradients, a list of L floating arrays of at most one axis.
      params: Parameters, as grads.
      states: Accumulators, one per array.

    Returns:
      Lists of the network's first output, float32, and of new states.
    """

    def step(grads, params, states):
        return _update_long_vector(network, decays, grads, params, states)

    return long_vectors.in_chunks(step, grads, params, states)


def _update_long_vector(network, decays, grads, params, states):
    layout = long_vectors.Layout(grads)
    second = jnp.concatenate([s.along_a for s in states], axis=-1)
    joined = LeafState(
        layout.join([s.momentum for s in states]),
        layout.join([s.rms for s in states]),
        second,
        second,
    )
    g, p, m, v = _moments(decays, layout.join(grads), layout.join(params), joined)
    decay = decays.adafactor.reshape(-1, 1)
    second = decay * second + (1.0 - decay) * (jnp.square(g)[None] + 1e-30)

    def planes_of(g, p, m, v, second):
        return _planes(g, p, list(m), v, [g * s for s in _safe_rsqrt(second + 1e-9)])

    def features(*arrays):
        return jnp.stack(_flat(planes_of(*arrays)))

    made_of = (g, p, m, v, second)
    weights = jnp.concatenate([network.groups[group] for group in planes_of(*made_of)])

    def run(features):
        (out,) = scalar_network.mlp(
            list(network.bias.reshape(-1, 1)),
            list(features),
            weights[:, :, None],
            network.layers,
            1,
        )
        return out

    out = long_vectors.normalized(layout, _inverse_rms, features, run, made_of)
    flat_second = layout.pieces(second)
    new_states = [
        LeafState(*leaves)
        for leaves in zip(
            layout.split(m), layout.split(v), flat_second, flat_second, strict=True
        )
    ]
    return layout.split(out), new_states


def normalize(x: jax.Array) -> jax.Array:
    """Divide by the root mean square over the last two axes, or all of fewer."""
    axes = tuple(range(x.ndim))[-2:]
    return x * _inverse_rms(jnp.mean(jnp.square(x), axes, keepdims=True))


def _moments(decays, grad, param, state):
    """Gradient and parameters in float32, momenta (M, …) and second moment, new."""
    grad = clean(grad)
    decay = decays.momentum.reshape(-1, *(1,) * grad.ndim)
    momentum = decay * state.momentum + (1.0 - decay) * grad[None]
    decay = decays.rms.reshape((1,) * grad.ndim)
    rms = decay * state.rms + (1.0 - decay) * jnp.square(grad)
    return grad, jnp.asarray(param, jnp.float32), momentum, rms


def _planes(g, p, m, v, factored):
    """Features that every array has, by group; lists of arrays like g."""
    inverse = _inverse(v)
    return {
        "gradient": [g],
        "clipped_gradient": [jnp.clip(g, -_CLIP_FEATURE, _CLIP_FEATURE)],
        "parameter": [p],
        "momentum": list(m),
        "rms": [v],
        "momentum_by_rms": [x * inverse for x in m],
        "inverse_rms": [inverse],
        "factored_gradient": factored,
        "gradient_by_rms": [g * inverse],
    }


def _flat(planes):
    return [feature for group in planes.values() for feature in group]


def _share(network, groups):
    """First-layer share of row or column statistics (M, K, …): (H, K, …)."""
    stats = jnp.concatenate(list(groups.values()))
    weights = jnp.concatenate([network.groups[group] for group in groups])
    scale = _inverse_rms(jnp.mean(jnp.square(stats), (-2, -1), keepdims=True))
    return jnp.einsum("fkab,fh->hkab", stats * scale, weights)


def _safe_rsqrt(x):
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _inverse(x):
    return jax.lax.rsqrt(x + 1e-8)


def _inverse_rms(mean_square):
    return jax.lax.rsqrt(1e-9 + mean_square)
