"""One long vector: stepped in blocks, as if whole, in little memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import full_compile
from helpers.contract_parts import make, theta_for

import mulo
from mulo._learned import long_vectors

NAMES = ("small_fc", "celo2_base", "velo", "celo")


def draw(seed, size):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(size), jnp.float32)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_make_the_steps_of_the_whole(name, monkeypatch):
    sizes = {"whole blocks": 40, "and a rest": 43, "short": 5, "scalar": ()}
    params = {leaf: draw(k, size) for k, (leaf, size) in enumerate(sizes.items())}

    def steps():
        tx = make(name, None)

        def step(state, _):
            updates, state = tx.update(params, state, params, value=1.0)
            return state, updates

        return jax.jit(lambda: jax.lax.scan(step, tx.init(params), length=2)[1])()

    whole = steps()
    monkeypatch.setattr(long_vectors, "_BLOCK", 8)
    for k, update in steps().items():
        np.testing.assert_allclose(update[1], whole[k][1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_long_vector_takes_is_no_multiple_of_its_features(name):
    params = jax.ShapeDtypeStruct((1 << 18,), jnp.float32)
    tiny = mulo.optimizers.info(name).make.TINY
    theta = theta_for(name, tiny)
    tx = mulo.optimizers.get(name, theta=theta, num_steps=100, **tiny)
    state = jax.eval_shape(tx.init, params)
    update = full_compile.jit(
        lambda g, s, p: tx.update(g, s, p, value=1.0), donate_argnums=1
    )
    compiled = update.lower(params, state, params).compile()
    taken = compiled.memory_analysis().temp_size_in_bytes / params.size
    # Bytes per parameter; 39 features and 30 are 156 and 120. VeLO's vectors have three
    # accumulators as long as they are, which its matrices have not.
    assert taken < 32 + 12 * (name == "velo")
