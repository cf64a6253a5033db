import jax
import jax.numpy as jnp
import numpy as np

from mulo._learned import scalar_network


def test_mean_squares_have_derivatives_where_some_arrays_are_constant():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)), jnp.float32)

    def total(y):
        means = scalar_network.row_mean_squares([x, y, y * x], [(0, 1), (2,)])
        return sum(weight * jnp.sum(m) for weight, m in enumerate(means, start=1))

    y = x + 1.0
    want = 2 * (2 * y / 5) + 3 * (2 * y * x**2 / 5)
    np.testing.assert_allclose(jax.grad(total)(y), want, rtol=1e-5)


def test_relu_keeps_what_is_no_number():
    x = jnp.asarray([-1.0, 0.0, 2.0, jnp.inf, -jnp.inf, jnp.nan])
    want = [0.0, 0.0, 2.0, jnp.inf, 0.0, jnp.nan]
    np.testing.assert_array_equal(scalar_network.relu(x), want)
