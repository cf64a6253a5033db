import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mulo._designed import roots


def statistics(seed, size, rank, scale=1.0):
    """A covariance of the given rank, shape (1, size, size), float64 numpy."""
    g = np.random.default_rng(seed).standard_normal((size, rank))
    return scale * (g @ g.T)[None]


def exact_root(matrix, power, ridge):
    values, vectors = np.linalg.eigh(matrix[0])
    values = np.maximum(values, 0.0) + ridge * values[-1]
    return (vectors * values**-power) @ vectors.T


@pytest.mark.parametrize("scale", [1e-36, 1.0, 1e30])
def test_the_eigenbasis_is_orthogonal_and_sorted_at_any_scale(scale):
    # At 1e-36, squares and small entries are denormal in float32.
    matrix = jnp.asarray(statistics(0, 6, 3, scale), jnp.float32)
    basis = np.asarray(roots.eigenbasis(matrix, jnp.zeros_like(matrix)))[0]
    np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-5)
    values = np.diag(basis.T @ (statistics(0, 6, 3)[0]) @ basis)
    np.testing.assert_allclose(values[3:], 0.0, atol=1e-5 * values[0])
    assert values[0] > values[1] > values[2] > 0.1


def test_matrices_that_are_not_finite_keep_what_was_there_and_spare_the_others():
    good = jnp.asarray(statistics(0, 4, 4), jnp.float32)
    bad = good.at[0, 1, 1].set(jnp.inf)
    also_bad = good.at[0, 2, 1].set(jnp.nan)
    batch = jnp.concatenate([good, bad, also_bad])
    old = jnp.asarray(np.linalg.qr(statistics(1, 4, 4)[0])[0], jnp.float32)
    old = jnp.stack([old] * 3)
    basis = roots.eigenbasis(batch, old)
    refined, order = roots.refine(batch, old)
    by_eigh = roots.inverse_root(batch, old, 0.25, ridge=1e-6, method="eigh")
    by_newton = roots.inverse_root(batch, old, 0.25, ridge=1e-6, method="newton")
    for new in (basis, refined, by_eigh, by_newton):
        np.testing.assert_array_equal(new[1:], old[1:])
        assert np.all(np.isfinite(new[0]))
        assert not np.allclose(new[0], old[0])
    np.testing.assert_array_equal(order[1:], [[0, 1, 2, 3]] * 2)


def test_zero_matrices_have_the_identity_as_basis_and_no_root():
    zero = jnp.zeros((1, 3, 3))
    old = 7.0 * jnp.eye(3)[None]
    # Any orthogonal matrix is an eigenbasis; nothing but finiteness matters.
    basis = np.abs(np.asarray(roots.eigenbasis(zero, old)[0]))
    np.testing.assert_array_equal(basis @ basis.T, np.eye(3))
    for method in ("eigh", "newton"):
        root = roots.inverse_root(zero, old, 0.5, ridge=1e-6, method=method)
        np.testing.assert_array_equal(root, old)


def test_refining_converges_to_the_eigenbasis_of_eigh():
    with jax.enable_x64(True):
        vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
        values = np.array([16.0, 8.0, 4.0, 2.0, 1.0])
        matrix = jnp.asarray((vectors * values) @ vectors.T)[None]
        basis = jnp.eye(5)[None]
        errors = []
        for _ in range(40):
            basis, _ = roots.refine(matrix, basis)
            overlap = np.abs(vectors.T @ np.asarray(basis[0]))
            errors.append(np.abs(overlap - np.eye(5)).max())
        assert errors[-1] < 1e-9
        # Neighbouring eigenvalues differ twofold, so misalignment halves per step and
        # the overlap's distance from one, its square, quarters.
        assert errors[10] / errors[6] < 0.1


def test_refining_orders_columns_by_their_share_of_the_matrix():
    matrix = jnp.diag(jnp.array([1.0, 9.0, 4.0]))[None]
    basis, order = roots.refine(matrix, jnp.eye(3)[None])
    np.testing.assert_array_equal(order, [[1, 2, 0]])
    np.testing.assert_allclose(jnp.abs(basis[0]), jnp.eye(3)[:, order[0]], atol=1e-6)


@pytest.mark.parametrize("method", ["eigh", "newton"])
@pytest.mark.parametrize("power", [1.0, 0.5, 0.25, 1 / 6])
@pytest.mark.parametrize("rank", [2, 6])
def test_inverse_roots_are_those_of_an_exact_decomposition(method, power, rank):
    ridge = 1e-3
    with jax.enable_x64(True):
        matrix = statistics(0, 6, rank, scale=1e-5)
        root = roots.inverse_root(
            jnp.asarray(matrix), jnp.zeros((1, 6, 6)), power, ridge=ridge, method=method
        )
    want = exact_root(matrix, power, ridge)
    # Newton's ridge comes from 64 power iterations, 1e-3 of it uncertain.
    rtol = {"eigh": 1e-9, "newton": 2e-3}[method]
    np.testing.assert_allclose(root[0], want, rtol=0, atol=rtol * np.abs(want).max())


@pytest.mark.parametrize("method", ["eigh", "newton"])
def test_inverse_roots_in_float32_stand_a_condition_number_of_a_million(method):
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0]
    values = np.logspace(-6, 0, 16)
    matrix = ((vectors * values) @ vectors.T)[None]
    root = roots.inverse_root(
        jnp.asarray(matrix, jnp.float32),
        jnp.zeros((1, 16, 16)),
        0.25,
        ridge=1e-5,
        method=method,
    )
    want = exact_root(matrix, 0.25, 1e-5)
    np.testing.assert_allclose(root[0], want, rtol=0, atol=0.02 * np.abs(want).max())


def test_newton_refuses_powers_that_are_not_whole_roots():
    eye = jnp.eye(2)[None]
    with pytest.raises(ValueError, match=r'p = 1\.33333.*Use root="eigh"'):
        roots.inverse_root(eye, eye, 0.75, ridge=1e-6, method="newton")


_AT_ONCE = """
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, jax.numpy as jnp
from mulo._designed import roots

def decompose(matrices, olds):
    refined = [roots.refine(m, old)[0] for m, old in zip(matrices, olds)]
    return refined, [roots.eigenbasis(m, m) for m in matrices]

sizes = range(96, 104)
keys = jax.random.split(jax.random.key(0), len(sizes))
olds = [jnp.stack([jnp.eye(s)] * 6) for s in sizes]
halves = [jax.random.normal(k, (6, s, s)) for k, s in zip(keys, sizes)]
matrices = [h @ h.mT for h in halves]
run = jax.jit(decompose)
for _ in range(5):
    jax.block_until_ready(run(matrices, olds))
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_many_batches_at_once_on_two_cores_do_not_wait_for_each_other():
    done = subprocess.run(
        [sys.executable, "-c", _AT_ONCE],
        capture_output=True,
        text=True,
        timeout=300,  # Seconds, unless it waits or the machine is busy.
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout == "done\n", done.stderr
