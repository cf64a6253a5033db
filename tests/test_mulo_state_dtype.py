"""First moments kept in bfloat16."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.contract_parts import NAMES, SCALINGS, draw, make

import mulo

MOMENTUMLESS = ("sgd", "adafactor", "schedule_free_adamw")


def dtypes(tree):
    return jax.tree.map(lambda x: x.dtype, tree)


def of(tree, dtype):
    """Entries of arrays of this dtype."""
    return sum(x.size for x in jax.tree.leaves(tree) if x.dtype == dtype)


@pytest.mark.parametrize("name", NAMES)
def test_states_keep_their_dtypes_and_first_moments_are_narrow(name):
    tx = make(name, state_dtype="bfloat16")
    params = draw(0)
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(
        lambda s: tx.update(params, s, params, value=1.0), state
    )
    assert dtypes(after) == dtypes(state)
    assert set(jax.tree.leaves(dtypes(updates))) == {jnp.dtype("float32")}
    num = sum(x.size for x in params.values() if x.ndim)  # Scalars stay as they are.
    assert (of(state, jnp.bfloat16) >= num) == (name not in MOMENTUMLESS)
    plain = jax.eval_shape(make(name).init, params)
    assert of(plain, jnp.float32) == of(state, jnp.float32) + of(state, jnp.bfloat16)


@pytest.mark.parametrize("name", ["adam", "muon", "soap", "learned_muon"])
def test_steps_differ_by_rounding_alone(name):
    params = draw(0, names=("w", "b"))
    scalings = {k: SCALINGS[k] for k in params}

    def steps(tx):
        @jax.jit
        def run(params):
            def step(state, seed):
                grads = jax.tree.map(
                    lambda p: p + jax.random.normal(jax.random.key(seed), p.shape),
                    params,
                )
                updates, state = tx.update(grads, state, params)
                return state, updates

            return jax.lax.scan(step, tx.init(params), jnp.arange(6))[1]

        return run(params)

    want = steps(make(name, scalings))
    got = steps(make(name, scalings, state_dtype=jnp.bfloat16))
    for k in params:
        size = np.sqrt(np.mean(np.square(want[k])))
        error = np.sqrt(np.mean(np.square(got[k] - want[k])))
        assert 0 < error < 0.03 * size


def test_second_moments_and_parameters_named_like_first_ones_stay_float32():
    params = {"mu": jnp.ones(3), "momentum": jnp.ones((2, 2))}
    tx = mulo.with_state_dtype(
        optax.chain(
            optax.masked(optax.scale_by_adam(), {"mu": True, "momentum": False}),
            optax.trace(0.9),
        )
    )
    state: Any = tx.init(params)
    masked, trace = state
    assert masked.inner_state.mu["mu"].dtype == jnp.bfloat16
    assert masked.inner_state.nu["mu"].dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(trace)} == {jnp.dtype("bfloat16")}


def test_map_params_and_inject_hyperparams_take_it():
    params = {"w": jnp.ones((2, 2))}
    tx = make("adam", None, state_dtype="bfloat16")
    state = optax.tree.map_params(tx, lambda x: x + 1, tx.init(params))
    assert float(state[0].mu["w"][0, 0]) == 1.0
    injected = optax.inject_hyperparams(mulo.optimizers.get, static_args="name")(
        name="adam", learning_rate=0.1, state_dtype="bfloat16"
    )
    updates, _ = injected.update(params, injected.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.1, rtol=1e-2)


def test_a_dtype_that_is_not_floating_is_named():
    with pytest.raises(ValueError, match="floating dtype, got 'int8'"):
        make("adam", state_dtype="int8")
