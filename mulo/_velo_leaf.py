"""Per-parameter arithmetic of VeLO and Celo: accumulators, 30 features, a tiny MLP.

The features are SmallFC's 28, the gradient clipped to ±0.1 and the gradient over its
root mean square, each divided by its root mean square over the tensor; no time
features, and a bare ``v ** -0.5`` for vectors' normalized momenta. With 4 hidden units
the network is no chain of matrix products but some two hundred multiply-adds per
parameter: written out element by element, it is one fused loop. Normalizers, one number
per tensor, go into the weights; row and column features go into the first layer per
row and per column.

Axis names: L tensors of one shape, M momenta (as many factored moments), K product of
the unfactored axes, A and B the factored axes, H hidden units, F features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mulo import _long_vectors as long_vectors
from mulo import _scalar_network as scalar_network
from mulo._accumulators import Decays, Factoring, LeafState

GRADIENT_CLIP = 1_000.0  # Gradient units.
_CLIP_FEATURE = 0.1  # Gradient units.


class Network(NamedTuple):
    """Weights of the MLP; with a leading axis, of several."""

    features: jax.Array  # (F, H). First layer.
    bias: jax.Array  # (H,).
    layers: tuple[tuple[jax.Array, jax.Array], ...]  # Remaining (weights, bias).


def group_sizes(num_momenta: int) -> tuple[int, ...]:
    """Inputs of each group of features, as public files split the first layer."""
    m = num_momenta
    return (1, 1, 1, m, 1, m, 1, m, 1, m, m, m, m, m)


def clean(grad: jax.typing.ArrayLike) -> jax.Array:
    """A gradient in float32, cut to ±1000; what is not a number counts as zero."""
    # Differs from the public code, where one NaN stays in the accumulators and, by way
    # of the LSTM, reaches every tensor.
    grad = jnp.nan_to_num(
        jnp.asarray(grad, jnp.float32), posinf=GRADIENT_CLIP, neginf=-GRADIENT_CLIP
    )
    return jnp.clip(grad, -GRADIENT_CLIP, GRADIENT_CLIP)


def update(
    network: Network,
    decays: Decays,
    exp_mult: float,
    grad: jax.Array,
    param: jax.Array,
    state: LeafState,
) -> tuple[jax.Array, LeafState]:
    """One step on one tensor.

    Args:
      network: The MLP.
      decays: Effective decay rates.
      exp_mult: Scale of the magnitude output inside the exponential.
      grad: Gradient, float32, finite.
      param: As grad.
      state: Accumulators.

    Returns:
      ``d * exp(exp_mult * m)``, as grad, and the new accumulators.
    """
    one = _factored if grad.ndim > 1 else _vector
    return one(network, decays, exp_mult, grad, param, state)


def scale_of(params: jax.Array) -> jax.Array:
    """Root mean square of each of L tensors, (L,)."""
    axes = tuple(range(1, params.ndim))
    return jnp.sqrt(jnp.mean(jnp.square(params), axis=axes) + 1e-9)


def times(factors: jax.Array, x: jax.Array) -> jax.Array:
    """Multiply each of L tensors (L, *shape) by its factor (L,)."""
    return x * factors.reshape(-1, *(1,) * (x.ndim - 1))


def _factored(network, decays, exp_mult, grad, param, state):
    shape = grad.shape
    factoring = Factoring.of(shape)
    assert factoring is not None
    g, p, m, v = (
        factoring.split(x)
        for x in (grad, param, *_moments(decays, grad, state, axes=grad.ndim))
    )
    decay = decays.adafactor.reshape(-1, 1, 1)
    square = jnp.square(g) + 1e-30
    along_a = _ema(decay, state.along_a, jnp.mean(square, axis=2)[None])
    along_b = _ema(decay, state.along_b, jnp.mean(square, axis=1)[None])
    row, col = (along_a, along_b) if factoring.rows_along_a else (along_b, along_a)
    row_factor = _safe_rsqrt(row / (jnp.mean(row, axis=2, keepdims=True) + 1e-9))
    col_factor = _safe_rsqrt(col)

    def lay(x, rows):
        """(…, K, A) or (…, K, B) → (…, K, A, 1) or (…, K, 1, B)."""
        return x[..., None] if rows == factoring.rows_along_a else x[..., None, :]

    row_factor, col_factor = lay(row_factor, True), lay(col_factor, False)

    def planes_of(g, p, m, v, row_factor, col_factor):
        factors = list(zip(row_factor, col_factor, strict=True))
        factored_m = [x * r * c for x, (r, c) in zip(m, factors, strict=True)]
        return _planes(g, p, m, v, [g * r * c for r, c in factors], factored_m)

    rows = _side_rows(m.shape[0])
    by_row = _share(network, row, rows[0], rows[2])
    by_col = _share(network, col, rows[1], rows[3])
    hidden = [
        bias + lay(r, True) + lay(c, False)
        for bias, r, c in zip(network.bias, by_row, by_col, strict=True)
    ]
    made_of = (g, p, m, v, row_factor, col_factor)
    out = _run(network, exp_mult, hidden, planes_of, made_of, m.shape[0])
    return factoring.merge(out, shape), LeafState(
        factoring.merge(m, shape), factoring.merge(v, shape), along_a, along_b
    )


def _vector(network, decays, exp_mult, grad, param, state):
    g, p = grad.reshape(-1), param.reshape(-1)
    flat = LeafState(
        state.momentum.reshape(-1, g.size),
        state.rms.reshape(-1),
        state.along_a,
        state.along_b,
    )
    m, v = _moments(decays, g, flat, axes=1)
    second = _ema(
        decays.adafactor.reshape(-1, 1), flat.along_a, jnp.square(g)[None] + 1e-30
    )

    def planes_of(g, p, m, v, second):
        factored_g = list(g[None] * _safe_rsqrt(second + 1e-9))
        return _planes(g, p, m, v, factored_g, list(m * second**-0.5))

    def stats_of(second):
        return [*second, *jax.lax.rsqrt(second + 1e-8)]

    made_of = (g, p, m, v, second)
    if long_vectors.is_long(g.size):
        mean_squares, plane_squares = long_vectors.mean_of_blocks(
            lambda *xs: (
                _means(stats_of(xs[-1])),
                _mean_squares(planes_of(*xs), m.shape[0]),
            ),
            made_of,
        )
    else:
        mean_squares, plane_squares = _means(stats_of(second)), None

    def run(*xs):
        hidden = _vector_hidden(network, stats_of(xs[-1]), mean_squares, m.shape[0])
        return _run(network, exp_mult, hidden, planes_of, xs, m.shape[0], plane_squares)

    if plane_squares is None:
        out = run(*made_of)
    else:
        out = long_vectors.joined(*long_vectors.per_block(run, made_of))
    return out.reshape(grad.shape), LeafState(
        m.reshape(state.momentum.shape), v.reshape(grad.shape), second, second
    )


def _vector_hidden(network, stats, mean_squares, num_momenta):
    """First-layer share of a vector's row and column statistics: H arrays like it.

    They coincide: their weights add up. Scalars, since a product of matrices would
    write the share of every hidden unit to memory.
    """
    row, column, inverse_row, inverse_column = (
        network.features[rows] for rows in _side_rows(num_momenta)
    )
    weights = jnp.concatenate([row + column, inverse_row + inverse_column])
    weights = weights * _inverse_rms(mean_squares)[:, None]
    hidden = list(network.bias)
    for x, unit_weights in zip(stats, weights, strict=True):
        hidden = [h + x * w for h, w in zip(hidden, unit_weights, strict=True)]
    return hidden


def _means(stats):
    return jnp.stack([jnp.mean(jnp.square(x)) for x in stats])


def _moments(decays, grad, state, axes):
    """New momenta (M, …) and second moment."""
    momentum = _ema(
        decays.momentum.reshape(-1, *(1,) * axes), state.momentum, grad[None]
    )
    return momentum, _ema(decays.rms.reshape((1,) * axes), state.rms, jnp.square(grad))


def _planes(g, p, m, v, factored_g, factored_m):
    """Features that vary along every axis, 6 + 4 M arrays like g, as in the rows."""
    inverse = jax.lax.rsqrt(v + 1e-6)
    return [
        g,
        jnp.clip(g, -_CLIP_FEATURE, _CLIP_FEATURE),
        p,
        *m,
        v,
        *(x * inverse for x in m),
        inverse,
        *factored_g,
        g * inverse,
        *factored_m,
    ]


def _plane_rows(num_momenta):
    """Rows of the first layer's weights that belong to `_planes`."""
    m = num_momenta
    dense = 6 + 3 * m
    return [*range(dense), *range(dense + 4 * m, dense + 5 * m)]


def _side_rows(num_momenta):
    """Rows of row, column, 1/sqrt(row) and 1/sqrt(column) features."""
    m = num_momenta
    start = 6 + 3 * m
    return [slice(start + i * m, start + (i + 1) * m) for i in range(4)]


def _share(network, stats, raw_rows, inverse_rows):
    """First-layer share of row or column statistics (M, K, X): (H, K, X)."""
    features = jnp.concatenate([stats, jax.lax.rsqrt(stats + 1e-8)])
    scale = _inverse_rms(jnp.mean(jnp.square(features), axis=(1, 2)))
    weights = jnp.concatenate(
        [network.features[raw_rows], network.features[inverse_rows]]
    )
    return jnp.einsum("fkx,fh->hkx", features, weights * scale[:, None])


def _run(network, exp_mult, hidden, planes_of, made_of, num_momenta, mean_squares=None):
    """The network on H partial pre-activations and planes: d * exp(exp_mult m).

    Planes are ``planes_of(*made_of)``, once for their normalizers, unless their mean
    squares are given, once for the layers.
    """
    if mean_squares is None:
        mean_squares = _mean_squares(planes_of(*made_of), num_momenta)
        made_of = scalar_network.made_anew(made_of)
    weights = network.features[np.asarray(_plane_rows(num_momenta))]
    weights = weights * _inverse_rms(mean_squares)[:, None]
    planes = planes_of(*made_of)
    # Direction and magnitude; the third output of the last layer is not used.
    direction, magnitude = scalar_network.mlp(
        hidden, planes, weights, network.layers, 2
    )
    return direction * jnp.exp(exp_mult * magnitude)


def _mean_squares(planes, num_momenta):
    """Mean square of each of F arrays, (F,)."""
    m = num_momenta
    momenta, by_rms = range(3, 3 + m), range(4 + m, 4 + 2 * m)
    factored_g = range(5 + 2 * m, 5 + 3 * m)
    factored_m = range(6 + 3 * m, 6 + 4 * m)
    together = (
        (0, 1, 2, *factored_g),
        (*momenta, *factored_m),
        (3 + m, *by_rms, 4 + 2 * m, 5 + 3 * m),
    )
    by_row = scalar_network.row_mean_squares(planes, together)
    return jnp.stack([jnp.mean(x) for x in by_row])


def _ema(decay, old, new):
    return decay * old + (1.0 - decay) * new


def _safe_rsqrt(x):
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _inverse_rms(mean_square):
    return jax.lax.rsqrt(1e-5 + mean_square)
