from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mulo import sgd
from mulo._transforms.float32 import in_float32
from mulo.mup import Scaling

# Base width 2. The bottleneck's fans differ, so its step by fan_out/fan_in shows.
MUP = {
    "in": Scaling("input", 3, 8),
    "mid": Scaling("hidden", 8, 4),
    "out": Scaling("output", 8, 2),
    "bias": Scaling("input", 1, 8),
    "scale": Scaling("input", 1, 1, finite=True),
}
SIZES = {"in": (3, 8), "mid": (8, 4), "out": (8, 2), "bias": (8,), "scale": ()}
FACTORS = {"in": 4.0, "mid": 0.5, "out": 4.0, "bias": 4.0, "scale": 1.0}


def random_tree(seed, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), len(SIZES))
    return {
        name: jax.random.normal(key, size, dtype)
        for key, (name, size) in zip(keys, SIZES.items(), strict=True)
    }


def run(tx: Any, num_steps=3, dtype=jnp.float32) -> Any:
    params = random_tree(0, dtype)
    state = tx.init(params)
    updates = {}
    for step in range(num_steps):
        updates, state = tx.update(random_tree(step + 1, dtype), state, params)
        params = optax.apply_updates(params, updates)
    return params, updates, state


def test_one_step_by_hand():
    updates = run(sgd(0.1, mup=MUP, base_width=2.0), 1)[1]
    for name, g in random_tree(1).items():
        np.testing.assert_allclose(updates[name], -0.1 * FACTORS[name] * g, rtol=1e-6)


def test_two_steps_of_momentum_by_hand():
    updates = run(sgd(0.1, mup=MUP, base_width=2.0, momentum=0.5), 2)[1]
    first, second = random_tree(1), random_tree(2)
    for name, factor in FACTORS.items():
        expected = -0.1 * factor * (0.5 * first[name] + second[name])
        np.testing.assert_allclose(updates[name], expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}]
)
def test_without_a_mu_tree_it_is_optax_sgd_exactly(options, dtype):
    ours = run(sgd(0.1, mup=None, base_width=1.0, **options), dtype=dtype)
    theirs = run(in_float32(optax.sgd(0.1, **options)), dtype=dtype)
    jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])
    assert len(jax.tree.leaves(ours[2])) == len(jax.tree.leaves(theirs[2]))


def test_injected_base_width_gives_the_multipliers_of_the_given_one():
    injected = optax.inject_hyperparams(sgd)(0.1, mup=MUP, base_width=2.0)
    params, grads = random_tree(0), random_tree(1)
    state: Any = injected.init(params)
    for base in (2.0, 4.0):
        state.hyperparams["base_width"] = jnp.asarray(base)
        got = jax.jit(injected.update)(grads, state, params)[0]
        tx = sgd(0.1, mup=MUP, base_width=base)
        want = tx.update(grads, tx.init(params), params)[0]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want
        )


def test_a_base_width_that_is_not_positive_is_an_error():
    with pytest.raises(ValueError, match="base_width must be finite and > 0, got 0"):
        sgd(0.1, mup=MUP, base_width=0)
