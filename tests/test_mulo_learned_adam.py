import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from mulo import mup

RULE = mulo.LearnedAdam(
    initial_learning_rate=0.02, initial_b1=0.8, initial_b2=0.95, initial_eps=1e-3
)
THETA = RULE.init(jax.random.key(0))


def draw(seed):
    rng = np.random.default_rng(seed)
    shapes = {"w": (4, 3), "conv": (2, 2, 3), "b": (3,), "scalar": ()}
    return {
        k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()
    }


def test_a_fresh_theta_is_optax_adam():
    ours, theirs = RULE.transform(THETA), optax.adam(0.02, 0.8, 0.95, 1e-3)
    params = draw(0)
    states = [ours.init(params), theirs.init(params)]
    updates = [jax.jit(ours.update), jax.jit(theirs.update)]
    for step in range(20):
        grads = draw(step + 1)
        got, states[0] = updates[0](grads, states[0], params)
        want, states[1] = updates[1](grads, states[1], params)
        for name in params:
            np.testing.assert_allclose(got[name], want[name], rtol=2e-6, atol=1e-8)


def test_two_steps_by_hand_with_a_class_of_its_own_for_vectors():
    theta = {
        "matrix": {
            "log_lr": jnp.log(0.1),
            "one_minus_beta1": jnp.log(0.5),
            "one_minus_beta2": jnp.log(0.75),
            "log_epsilon": jnp.log(1.0),
        },
        "vector": {
            "log_lr": jnp.log(10.0),
            "one_minus_beta1": jnp.log(1.0),
            "one_minus_beta2": jnp.log(1.0),
            "log_epsilon": jnp.log(2.0),
        },
    }
    tx = RULE.transform(theta)
    params = {"w": jnp.zeros((1, 1)), "b": jnp.zeros(1)}
    state = tx.init(params)
    for grad, matrix, vector in (
        # m = 1 and v = 3, over 1/2 and 3/4: 2 / (√4 + 1).
        (2.0, -0.1 * 2 / 3, -10 * 2 / 4),
        # m = -1/2 - 1/2 … : 0.5 · 1 - 0.5 · 4 = -1.5 over 3/4; v = 12.75 over 15/16.
        (-4.0, -0.1 * -2.0 / (np.sqrt(13.6) + 1), -10 * -4 / 6),
    ):
        grads = {"w": jnp.full((1, 1), grad), "b": jnp.full(1, grad)}
        updates, state = tx.update(grads, state, params)
        np.testing.assert_allclose(updates["w"], matrix, rtol=1e-5)
        np.testing.assert_allclose(updates["b"], vector, rtol=1e-5)


def test_mup_multiplies_hidden_matrices_by_base_over_fan_in():
    narrow = {"w": jnp.zeros((4, 4)), "out": jnp.zeros((4, 2))}
    params = {"w": jnp.ones((8, 8)), "out": jnp.ones((8, 2))}
    rule = mulo.LearnedAdam(base_width=4.0)
    theta = rule.init(jax.random.key(0))
    plain = rule.transform(theta)
    scaled = rule.transform(theta, mup=mup.infer(narrow, params))
    want, _ = plain.update(params, plain.init(params))
    got, _ = scaled.update(params, scaled.init(params))
    np.testing.assert_allclose(got["w"], 0.5 * want["w"], rtol=1e-6)
    np.testing.assert_array_equal(got["out"], want["out"])


def final_loss(theta, steps=10):
    """Loss of a quadratic after some steps; what meta-training would lower."""
    tx = RULE.transform(theta)
    params = {"w": jnp.full((2, 2), 3.0), "b": jnp.full(2, -2.0)}

    def loss(params):
        return sum(jnp.sum(jnp.square(x)) for x in params.values())

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    carry, _ = jax.lax.scan(step, (params, tx.init(params)), length=steps)
    return loss(carry[0])


def test_theta_can_be_meta_trained_by_gradients_and_vmapped_over():
    value, grad = jax.jit(jax.value_and_grad(final_loss))(THETA)
    assert all(np.isfinite(g) for g in jax.tree.leaves(grad))
    # Ten small steps towards zero: a larger learning rate is better, in each class.
    assert grad["matrix"]["log_lr"] < 0
    assert grad["vector"]["log_lr"] < 0
    better = jax.tree.map(lambda p, g: p - 0.01 * g, THETA, grad)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), THETA, better)
    losses = jax.jit(jax.vmap(final_loss))(both)
    np.testing.assert_allclose(losses[0], value, rtol=1e-6)
    assert losses[1] < losses[0]


def test_theta_survives_a_file(tmp_path):
    loaded = mulo.load(mulo.save(tmp_path / "theta", RULE, THETA))
    assert loaded.rule == RULE
    assert jax.tree.map(float, loaded.theta) == jax.tree.map(float, THETA)


def test_a_theta_with_one_class_is_refused():
    with pytest.raises(ValueError, match="theta lacks leaf 'matrix/log_epsilon'"):
        RULE.transform({"vector": THETA["vector"]})


def test_bad_hyper_parameters_are_refused():
    with pytest.raises(ValueError, match=r"initial_b2 must lie in \[0, 1\), got 1.0"):
        mulo.LearnedAdam(initial_b2=1.0)
    with pytest.raises(ValueError, match="initial_eps must be finite and > 0"):
        mulo.LearnedAdam(initial_eps=0.0)
