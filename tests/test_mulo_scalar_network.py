import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mulo._learned import placement, row_blocks, scalar_network


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


@pytest.mark.parametrize("length", [5, 32])
def test_row_mean_squares_are_what_they_say(length):
    x = np.random.default_rng(1).normal(size=(2, 3, length))
    got = scalar_network.row_mean_squares([*jnp.asarray(x, jnp.float32)], [(1,), (0,)])
    np.testing.assert_allclose(got, np.mean(x**2, axis=-1), rtol=1e-6)


@pytest.mark.parametrize(("rows", "shared"), [(11, False), (9, True), (4, False)])
def test_a_matrix_in_blocks_of_rows_is_the_matrix(rows, shared, monkeypatch):
    # 3 rows, 5 if cores share them; all of 4.
    monkeypatch.setattr(row_blocks, "CPU_BLOCK_SIZE", 12)
    monkeypatch.setattr(placement, "shares_cores", lambda: shared)
    draw = np.random.default_rng(rows).normal
    g, p, m, v, factor_a, share_a, factor_b, share_b = (
        jnp.asarray(draw(size=size), jnp.float32)
        for size in (
            *((2, rows, 4), (2, rows, 4), (3, 2, rows, 4), (2, rows, 4)),
            *((3, 2, rows), (5, 2, rows), (3, 2, 4), (5, 2, 4)),
        )
    )

    def run(g, p, m, v, factor_a, share_a, factor_b, share_b):
        of_momenta = m * factor_a[..., :, None] * factor_b[..., None, :]
        shares = share_a[..., :, None] - share_b[..., None, :]
        return g + p * v + jnp.sum(of_momenta, axis=0) + jnp.sum(shares, axis=0)

    by_row, by_column = (g, p, m, v, factor_a, share_a), (factor_b, share_b)
    got = row_blocks.in_blocks(run, (2, rows, 4), by_row, by_column)
    np.testing.assert_allclose(got, run(*by_row, *by_column), rtol=1e-5, atol=1e-6)
