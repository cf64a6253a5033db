"""What rules trace for accelerators does what their form for CPUs does; run on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.theta_parts import drawn_theta

import mulo
from mulo._learned import row_blocks, scalar_network

WIDE = mulo.SmallFC(hidden_size=32)
RULES = {
    "matrix products": WIDE,
    "one loop": mulo.SmallFC(hidden_size=4),
    "networks of each tensor": mulo.VeLO(**mulo.VeLO.TINY),
    "normalized by matrix": mulo.Celo2(**mulo.Celo2.TINY),
}
LARGE = {"large": (17, 12), "bias": (5,)}  # The first is taken in blocks of rows.
STACKED = {f"w{i}": (3, 5) for i in range(4)}  # Of one shape: a stack.


@pytest.fixture
def accelerator(monkeypatch):
    """From its call on, what is traced is for an accelerator."""

    def begin():
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(jax, "device_count", lambda: 1)
        monkeypatch.setattr(row_blocks, "_ACCELERATOR_BLOCK_SIZE", 60)

    return begin


def draw(shapes, seed):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def step(rule, theta, shapes):
    horizon = {"num_steps": 100} if rule.NEEDS_NUM_STEPS else {}
    tx, params = rule.transform(theta, **horizon), draw(shapes, 0)
    return tx.update(draw(shapes, 1), tx.init(params), params, value=1.0)


def assert_close(got, want):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.max(np.abs(y)))


@pytest.mark.parametrize("name", RULES)
def test_the_form_for_accelerators_is_the_form_for_cpus(name, accelerator):
    rule = RULES[name]
    theta = drawn_theta(rule)
    want = jax.jit(lambda: step(rule, theta, LARGE | STACKED))()
    accelerator()
    assert_close(jax.jit(lambda: step(rule, theta, LARGE | STACKED))(), want)


def test_its_derivatives_are_those_of_the_form_for_cpus(accelerator):
    def squares(theta):
        return sum(jnp.sum(x**2) for x in step(WIDE, theta, LARGE)[0].values())

    theta = drawn_theta(WIDE)
    want = jax.jit(jax.grad(squares))(theta)
    accelerator()
    again = lambda theta: squares(theta)  # noqa: E731 - Another function: traced anew.
    assert_close(jax.jit(jax.grad(again))(theta), want)


def test_relu_for_accelerators_has_the_values_and_derivatives_of_the_one_for_cpus(
    accelerator,
):
    x = jnp.asarray([-1.0, 0.0, 2.0, jnp.inf, -jnp.inf, jnp.nan])

    def both():
        return jax.vmap(jax.value_and_grad(scalar_network.relu))(x)

    want = both()
    np.testing.assert_array_equal(want[1][:3], [0.0, 1.0, 1.0])
    accelerator()
    np.testing.assert_array_equal(both(), want)
