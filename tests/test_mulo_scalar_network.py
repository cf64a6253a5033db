import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from mulo import _scalar_network as scalar_network


def draw(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


@pytest.mark.parametrize(("hidden_size", "small"), [(4, True), (24, False)])
def test_a_network_in_scalars_is_the_network_in_matrices(hidden_size, small):
    features = draw(6, 5, 7)
    sizes = (hidden_size, hidden_size, 3)
    layers = [
        (draw(i, o, seed=o), draw(o, seed=i)) for i, o in itertools.pairwise(sizes)
    ]
    weights, bias = draw(6, hidden_size, seed=1), draw(hidden_size, seed=2)
    assert scalar_network.is_small(6, (hidden_size, hidden_size, 2)) == small
    found = scalar_network.mlp(list(bias), list(features), weights, layers, 2)
    x = np.moveaxis(np.asarray(features), 0, -1) @ np.asarray(weights)
    x = x + np.asarray(bias)
    for kernel, offset in layers:
        x = np.maximum(x, 0.0) @ np.asarray(kernel) + np.asarray(offset)
    assert len(found) == 2
    for i in range(2):
        np.testing.assert_allclose(found[i], x[..., i], rtol=1e-4, atol=1e-4)


def test_mean_squares_are_over_rows_in_the_order_given():
    arrays = list(draw(5, 2, 3, 4))
    found = scalar_network.row_mean_squares(arrays, [(3, 0), (1,), (4, 2)])
    for x, mean in zip(arrays, found, strict=True):
        np.testing.assert_allclose(mean, np.mean(np.square(x), axis=-1), rtol=1e-6)
