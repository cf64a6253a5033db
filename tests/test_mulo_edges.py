"""The edges of the number range: zero, tiny and rank-one gradients, full counters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.contract_parts import NAMES, draw, make

import mulo
from mulo._designed import roots

RANK_ONE = np.outer(np.arange(1.0, 7.0), np.cos(np.arange(4.0))).astype(np.float32)


def steps(tx, grads):
    """Updates of gradients (T, *shape), one after the other, and the last state."""

    @jax.jit
    def run(grads):
        def step(state, grad):
            updates, state = tx.update(grad, state, params)
            return state, updates

        params = jnp.ones(grads.shape[1:], grads.dtype)
        return jax.lax.scan(step, tx.init(params), grads)

    state, updates = run(jnp.asarray(grads))
    return np.asarray(updates), state


@pytest.mark.parametrize("zeros", [1, 3])
def test_zero_gradients_in_front_do_not_use_up_soaps_first_bases(zeros):
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((4, 6, 4)).astype(np.float32)
    tx = mulo.scale_by_soap(precondition_frequency=100)
    want, _ = steps(tx, grads)
    got, _ = steps(tx, np.concatenate([np.zeros((zeros, 6, 4), np.float32), grads]))
    np.testing.assert_array_equal(got[:zeros], 0.0)
    np.testing.assert_allclose(got[zeros:], want, rtol=1e-4, atol=1e-6)


def test_a_block_that_gets_its_first_gradient_late_gets_its_bases_then():
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((5, 4, 4)).astype(np.float32)
    grads[:2, 2:] = 0.0
    tx = mulo.scale_by_soap(precondition_frequency=100, block_size=2)
    updates, state = steps(tx, grads)
    np.testing.assert_array_equal(updates[:3, 2:], 0.0)
    assert np.all(updates[3:] != 0)
    for basis in state.groups["4x4"].regions[0].bases:
        assert np.all(np.abs(np.asarray(basis)) > 1e-3)  # No axis-aligned ones.


def test_a_zero_gradient_in_front_does_not_use_up_shampoos_first_roots():
    grads = np.stack([np.zeros_like(RANK_ONE), RANK_ONE])
    tx = mulo.scale_by_shampoo(precondition_frequency=100)
    for root in steps(tx, grads)[1].groups["6x4"].regions[0].roots:
        assert not np.allclose(root[0, 0], np.eye(root.shape[-1]))


def test_steps_along_rank_one_gradients_are_not_made_of_noise():
    grads = np.stack([RANK_ONE] * 30)
    # The exact direction is one number: the first singular vectors' product.
    u, _, vt = np.linalg.svd(RANK_ONE)
    exact = np.abs(np.outer(u[:, 0], vt[0]))
    updates, _ = steps(mulo.scale_by_soap(), grads)
    np.testing.assert_allclose(
        np.abs(updates[1:]), exact[None] + 0 * updates[1:], atol=0.1
    )


@pytest.mark.parametrize("scale", [1e-20, 1e-28, 1e-34])
def test_normalized_steps_do_not_grow_where_gradients_vanish(scale):
    grads = np.stack([scale * RANK_ONE] * 3)
    updates, _ = steps(mulo.scale_by_soap(normalize_grads=True), grads)
    size = np.sqrt(np.mean(updates[2] ** 2))
    # Rescaled after it was normalized to 1, for the averages' start at zero.
    np.testing.assert_allclose(size, np.sqrt(1 - 0.95**2) / (1 - 0.95**2), rtol=1e-3)


def test_grafted_steps_do_not_grow_where_gradients_vanish():
    grads = np.stack([1e-28 * RANK_ONE] * 2)
    updates, _ = steps(mulo.scale_by_shampoo(), grads)
    assert np.max(np.abs(updates)) < 1e-15  # RMSProp's: over an eps of 1e-10.


@pytest.mark.parametrize(("power", "size"), [(2, 3), (2, 4), (4, 8), (6, 12)])
def test_newton_finds_the_roots_of_matrices_whose_residual_rises_first(power, size):
    ones = jnp.ones((1, size, size))
    newton, eigh = (
        roots.inverse_root(ones, 0 * ones, 1 / power, ridge=1e-2, method=method)
        for method in ("newton", "eigh")
    )
    np.testing.assert_allclose(newton, eigh, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_counters_stay_at_their_largest(name):
    if name == "adafactor":
        pytest.skip("optax's decay rate adds one to an int32 counter, which wraps")
    tx = make(name, None)
    params = draw(0, names=("b",))
    largest = np.iinfo(np.int32).max

    @jax.jit
    def step():
        _, state = tx.update(params, tx.init(params), params, value=1.0)
        full = jax.tree.map(
            lambda x: jnp.full_like(x, largest) if x.dtype == jnp.int32 else x, state
        )
        return tx.update(params, full, params, value=1.0)

    updates, state = step()
    assert np.all(np.isfinite(updates["b"]))
    for x in jax.tree.leaves(state):
        assert x.dtype != jnp.int32 or np.all(x == largest)
