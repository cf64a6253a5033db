"""SmallFC's arithmetic: accumulators, features and network of parameter arrays.

The published network sees 39 inputs per parameter. Three exact rewritings make it
cheap; the feature-last original is kept as the oracle of the tests:

* the 11 time embeddings are the same for every parameter: they go into the bias;
* each feature's normalizer is one number per tensor: it goes into the weights;
* the 12 row and column features of a factored array vary along one axis only: their
  share of the first layer is computed per row and per column, and added.

What is left is 16 features. A network of few units is written out in scalars, one fused
loop (:mod:`mulo._scalar_network`); for a larger one the features are laid out
feature-major and sent through matrix products in blocks of rows that stay in cache.
Scalars and vectors have nothing to factor; they are
small, and all of them go through the network as one long vector.

Axis names: F features, M momenta (as many factored moments), K product of the
unfactored axes, A and B the two factored axes in the array's own order, N entries of
the long vector, L arrays in it, H hidden units.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mulo import _long_vectors as long_vectors
from mulo import _row_blocks as row_blocks
from mulo import _scalar_network as scalar_network
from mulo._accumulators import Factoring, LeafState

TIMESCALES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)  # Steps.


class Network(NamedTuple):
    """The MLP at one step, its time features folded into the first bias."""

    features: jax.Array  # (28, H). First-layer weights of the normalized features.
    bias: jax.Array  # (H,). First-layer bias plus the share of the time features.
    layers: tuple[tuple[jax.Array, jax.Array], ...]  # Remaining (weights, bias).


def fold_time(theta_nn: dict[str, jax.Array], count: jax.Array) -> Network:
    """Fold ``tanh(count / timescale - 1)`` into the first layer's bias."""
    time = jnp.tanh(
        count.astype(jnp.float32) / np.asarray(TIMESCALES, np.float32) - 1.0
    )
    split = theta_nn["w0"].shape[0] - len(TIMESCALES)
    layers = range(1, len(theta_nn) // 2)
    return Network(
        features=theta_nn["w0"][:split],
        bias=theta_nn["b0"] + time @ theta_nn["w0"][split:],
        layers=tuple((theta_nn[f"w{i}"], theta_nn[f"b{i}"]) for i in layers),
    )


def _expand(x, ndim):
    return x.reshape(*x.shape, *(1,) * (ndim - x.ndim))


def _ema(decay, old, new):
    return decay * old + (1.0 - decay) * new


def update(network, decays, exp_mult, grad, param, state):
    """One step on one array.

    Args:
      network: As :func:`fold_time` returns it.
      decays: Effective decay rates.
      exp_mult: Scale of the magnitude output inside the exponential.
      grad: Gradient, floating.
      param: Parameters, as grad.
      state: Accumulators.

    Returns:
      ``d * exp(exp_mult * m)`` of shape ``grad.shape``, float32, and the new state.
    """
    factoring = Factoring.of(jnp.shape(grad))
    if factoring is None:
        lists = ([x] for x in (grad, param, state))
        (out,), (new,) = update_vectors(network, decays, exp_mult, *lists)
        return out, new
    grad, param, momentum, rms = _moments(decays, grad, param, state)
    g, p, m, v = (factoring.split(x) for x in (grad, param, momentum, rms))

    # Adafactor statistics, (M, K, A) and (M, K, B).
    decay = _expand(decays.adafactor, 3)
    square = jnp.square(g) + 1e-30
    along_a = _ema(decay, state.along_a, jnp.mean(square, axis=2)[None])
    along_b = _ema(decay, state.along_b, jnp.mean(square, axis=1)[None])
    row, col = (along_a, along_b) if factoring.rows_along_a else (along_b, along_a)
    factors = (
        _safe_rsqrt(row / (jnp.mean(row, axis=2, keepdims=True) + 1e-9)),
        _safe_rsqrt(col),
    )
    # Share of the row and column features in the first layer.
    row_rows, col_rows, inv_row_rows, inv_col_rows = _vector_rows(momentum.shape[0])
    shares = (
        _share(network, row, row_rows, inv_row_rows),
        _share(network, col, col_rows, inv_col_rows),
    )
    order = slice(None, None, 1 if factoring.rows_along_a else -1)
    factor_a, factor_b = factors[order]
    share_a, share_b = shares[order]
    share_a = share_a + network.bias.reshape(-1, 1, 1)
    run = _in_scalars if _is_small(network) else _in_matrices
    out = run(
        network,
        exp_mult,
        (g, p, m, v),
        (factor_a, factor_b),
        (share_a, share_b),
    )
    return factoring.merge(out, jnp.shape(grad)), LeafState(
        momentum, rms, along_a, along_b
    )


def at_once(network):
    """Entries that a CPU should step at a time; None if it makes no difference."""
    return None if _is_small(network) else row_blocks.CPU_BLOCK_SIZE


def _is_small(network):
    momenta = (network.features.shape[0] - 4) // 8
    sizes = [x.shape[0] for x, _ in network.layers] + [2]
    return scalar_network.is_small(4 + 4 * momenta, sizes)


def _in_matrices(network, exp_mult, accumulators, factors, shares):
    """The network as matrix products on blocks of rows.

    Args:
      network: As :func:`fold_time` returns it.
      exp_mult: Scale of the magnitude output inside the exponential.
      accumulators: g, p (K, A, B), m (M, K, A, B) and v (K, A, B).
      factors: Adafactor's, (M, K, A) and (M, K, B).
      shares: Of the row and column features in the first layer, bias included:
        (H, K, A) and (H, K, B).

    Returns:
      ``d * exp(exp_mult * m)``, (K, A, B).
    """
    g, p, m, v = accumulators
    factor_a, factor_b = factors
    share_a, share_b = (jnp.moveaxis(share, 0, -1) for share in shares)

    # First pass over the array: what each feature is divided by.
    normalizers = _normalizers(_planes_of(accumulators, factors))
    weights = network.features[np.asarray(_plane_rows(m.shape[0]))]
    weights = weights * normalizers[:, None]

    # Second pass: the network.
    def run(g, p, m, v, factor_a, share_a, factor_b, share_b):
        """(…, A, B) arrays, any number of rows A; shares (…, A, H), (…, B, H)."""
        scale = factor_a[..., :, None] * factor_b[..., None, :]
        features = jnp.stack(_planes(g, p, m, v, scale, scale))
        hidden = _first_layer(features, weights)
        hidden = hidden + (share_a[..., :, None, :] + share_b[..., None, :, :])
        return _later_layers(hidden, network.layers, exp_mult)

    return row_blocks.in_blocks(
        run, g.shape, (g, p, m, v, factor_a, share_a), (factor_b, share_b)
    )


def _in_scalars(network, exp_mult, accumulators, factors, shares):
    """As `_in_matrices`, written out for networks of few units."""
    normalizers = _normalizers(_planes_of(accumulators, factors))
    weights = network.features[np.asarray(_plane_rows(accumulators[2].shape[0]))]
    weights = weights * normalizers[:, None]
    hidden = [a[..., None] + b[..., None, :] for a, b in zip(*shares, strict=True)]
    planes = _planes_of(*scalar_network.made_anew((accumulators, factors)))
    direction, magnitude = scalar_network.mlp(
        hidden, planes, weights, network.layers, 2
    )
    return direction * jnp.exp(exp_mult * magnitude)


def _planes_of(accumulators, factors):
    g, p, m, v = accumulators
    # Lists, since arrays of several planes would be written to memory.
    scale = [a[..., None] * b[..., None, :] for a, b in zip(*factors, strict=True)]
    return _planes(g, p, list(m), v, scale, scale)


def _normalizers(planes):
    """1 / root mean square of each plane (K, A, B): (F,)."""
    m = (len(planes) - 4) // 4
    together = (
        (0, 1, *range(4 + 2 * m, 4 + 3 * m)),  # Gradient and parameters,
        (*range(2, 2 + m), *range(4 + 3 * m, 4 + 4 * m)),  # momenta,
        range(2 + m, 4 + 2 * m),  # these with the second moment.
    )
    by_row = scalar_network.row_mean_squares(planes, together)
    return _inverse_rms(jnp.stack([jnp.mean(x) for x in by_row]))


def update_vectors(network, decays, exp_mult, grads, params, states):
    """One step on scalars and vectors, as :func:`update` on each.

    Args:
      network: As :func:`fold_time` returns it.
      decays: Effective decay rates.
      exp_mult: Scale of the magnitude output inside the exponential.
      grads: Gradients, a list of L floating arrays of at most one axis.
      params: Parameters, as grads.
      states: Accumulators, one per array.

    Returns:
      Lists of ``d * exp(exp_mult * m)``, float32, and of new states.
    """

    def step(grads, params, states):
        return _update_long_vector(network, decays, exp_mult, grads, params, states)

    return long_vectors.in_chunks(step, grads, params, states)


def _update_long_vector(network, decays, exp_mult, grads, params, states):
    layout = long_vectors.Layout(grads)
    second = jnp.concatenate([s.along_a for s in states], axis=-1)
    joined = LeafState(
        layout.join([s.momentum for s in states]),
        layout.join([s.rms for s in states]),
        second,
        second,
    )
    g, p, m, v = _moments(decays, layout.join(grads), layout.join(params), joined)
    second = _ema(_expand(decays.adafactor, 2), second, jnp.square(g)[None] + 1e-30)
    # Row and column features coincide here: their weights add up.
    row, col, inv_row, inv_col = (
        network.features[rows] for rows in _vector_rows(m.shape[0])
    )
    weights = network.features[np.asarray(_plane_rows(m.shape[0]))]
    weights = jnp.concatenate([weights, row + col, inv_row + inv_col])

    def features(g, p, m, v, second):
        by_second = _safe_rsqrt(second + 1e-9), (second + 1e-6) ** -0.5
        planes = _planes(g, p, m, v, *by_second)
        return jnp.stack([*planes, *second, *jax.lax.rsqrt(second + 1e-8)])

    def run(features):
        hidden = _first_layer(features, weights) + network.bias[None]
        return _later_layers(hidden, network.layers, exp_mult)

    # Each array is normalized on its own: what overflows in one stays there.
    out = long_vectors.normalized(
        layout, _inverse_rms, features, run, (g, p, m, v, second)
    )
    flat_second = layout.pieces(second)
    new_states = [
        LeafState(*leaves)
        for leaves in zip(
            layout.split(m), layout.split(v), flat_second, flat_second, strict=True
        )
    ]
    return layout.split(out), new_states


def _moments(decays, grad, param, state):
    """Gradient and parameters in float32, momenta (M, …) and second moment, new."""
    grad = jnp.asarray(grad, jnp.float32)
    momentum = _ema(_expand(decays.momentum, grad.ndim + 1), state.momentum, grad[None])
    rms = _ema(decays.rms.reshape((1,) * grad.ndim), state.rms, jnp.square(grad))
    return grad, jnp.asarray(param, jnp.float32), momentum, rms


def _planes(grad, param, momentum, rms, grad_scale, momentum_scale):
    """Features that vary along both axes: 4 + 4 M arrays (…).

    Args:
      grad: Gradient, (…).
      param: Parameters, (…).
      momentum: (M, …).
      rms: (…).
      grad_scale: Adafactor's factor of the gradient, (M, …).
      momentum_scale: The same for the momenta, (M, …).
    """
    scale = jax.lax.rsqrt(rms + 1e-6)
    return [
        grad,
        param,
        *momentum,
        rms,
        *(m * scale for m in momentum),
        scale,
        *(grad * s for s in grad_scale),
        *(m * s for m, s in zip(momentum, momentum_scale, strict=True)),
    ]


def _plane_rows(num_momenta):
    """Rows of the first layer's weights that belong to `_planes`, in its order."""
    m = num_momenta
    dense = 4 + 3 * m  # Up to the Adafactor-normalized gradients.
    return [*range(dense), *range(dense + 4 * m, dense + 5 * m)]


def _vector_rows(num_momenta):
    """Rows of row, column, 1/sqrt(row) and 1/sqrt(column) features, M each."""
    m = num_momenta
    start = 4 + 3 * m
    return [slice(start + i * m, start + (i + 1) * m) for i in range(4)]


def _share(network, stats, raw_rows, inv_rows):
    """First-layer share of row or column statistics (M, K, X): (H, K, X)."""
    features = jnp.concatenate([stats, jax.lax.rsqrt(stats + 1e-8)])
    scale = _inverse_rms(jnp.mean(jnp.square(features), axis=(1, 2)))
    weights = jnp.concatenate([network.features[raw_rows], network.features[inv_rows]])
    return jnp.einsum("fkx,fh->hkx", features, weights * scale[:, None])


def _first_layer(features, weights):
    """(F, …), (F, H) → (…, H)."""
    return jax.lax.dot_general(features, weights, (((0,), (0,)), ((), ())))


def _later_layers(hidden, layers, exp_mult):
    """Pre-activations of the first layer (…, H) → d * exp(exp_mult * m), (…)."""
    for i, (weights, bias) in enumerate(layers):
        hidden = scalar_network.relu(hidden)
        if i < len(layers) - 1:
            hidden = hidden @ weights + bias.reshape((1,) * (hidden.ndim - 1) + (-1,))
    # Two products with vectors: faster on CPUs than one with a matrix of two columns.
    weights, bias = layers[-1]
    direction = hidden @ weights[:, 0] + bias[0]
    return direction * jnp.exp(exp_mult * (hidden @ weights[:, 1] + bias[1]))


def _safe_rsqrt(x):
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _inverse_rms(mean_square):
    return jax.lax.rsqrt(1e-5 + mean_square)
