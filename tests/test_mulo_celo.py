import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import learned_goldens as goldens
from helpers.theta_parts import drawn_theta

import mulo
from mulo import mup

CELO = mulo.Celo(lstm_hidden_size=4, step_mult=0.1)
ADAM = mulo.CeloAdam(lstm_hidden_size=4)
RULES: dict[str, Any] = {"Celo": CELO, "CeloAdam": ADAM}


def draw(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def first_step(tx, grads, params, loss=1.0):
    """Jitted: run one by one, the operations take longer to compile than together."""
    run = jax.jit(lambda g, p: tx.update(g, tx.init(p), p, value=loss))
    return run(grads, params)


@pytest.mark.parametrize("case", ["celo_small", "celo_adam_small"])
def test_celo_follows_the_public_implementation_in_every_leaf_and_step(case):
    arrays, info = goldens.read(goldens.GOLDEN / case)
    rule, theta = goldens.theta_of(arrays["theta"])
    assert rule.lstm_hidden_size == info["lstm_hidden_size"]
    tx = rule.transform(theta, num_steps=info["num_steps"])
    goldens.assert_follows(tx, arrays, info["steps"], share=1e-4)


def test_the_published_celo_theta_is_read_in_place_and_reproduces_its_trajectory():
    folder = goldens.public_weights() / "celo"
    arrays, info = goldens.read(folder / "trajectory")
    loaded = mulo.load(folder / "theta.state")
    assert loaded.rule == mulo.Celo()
    assert sum(x.size for x in jax.tree.leaves(loaded.theta)) == 37_089
    tx = loaded.transform(num_steps=info["num_steps"])
    goldens.assert_follows(tx, arrays, info["steps"], share=1e-4)


def test_one_step_of_celo_by_hand():
    # One MLP: the normalized gradient goes through two layers, as relu(x) - relu(-x).
    # The LSTM's step size has a bias of log 2.
    rule = mulo.Celo(lstm_hidden_size=2, ff_hidden_size=2, step_mult=0.5, exp_mult=0.2)
    theta = jax.tree.map(jnp.zeros_like, drawn_theta(rule))
    theta["rnn_params"]["step_size"]["b"] = jnp.asarray([math.log(2.0)])
    bank = theta["ff_mod_stack"]
    bank["w0__0"] = jnp.asarray([[[1.0, -1.0]]])
    bank["w1"] = jnp.eye(2)[None]
    bank["w2"] = bank["w2"].at[0, 0, 0].set(1.0).at[0, 1, 0].set(-1.0)
    bank["b2"] = bank["b2"].at[0, 1].set(3.0)
    params = {"w": jnp.asarray([3.0, 1.0])}
    grads = {"w": jnp.asarray([3.0, -4.0])}

    def step(rule):
        tx = rule.transform(theta, num_steps=10)
        return first_step(tx, grads, params, loss=2.0)[0]["w"]

    direction = np.asarray([3.0, -4.0]) / math.sqrt(12.5 + 1e-5) * math.exp(0.6)
    want = -0.5 * math.sqrt(5.0) * direction
    np.testing.assert_allclose(step(rule), 0.1 * 2.0 * want, rtol=1e-5)
    first = dataclasses.replace(rule, train_phase=1)
    np.testing.assert_allclose(step(first), want, rtol=1e-5)
    unscaled = dataclasses.replace(rule, param_scale_mult=False)
    np.testing.assert_allclose(step(unscaled), 0.2 / math.sqrt(5.0) * want, rtol=1e-5)


def test_celo_adam_with_a_silent_lstm_is_adam():
    # exp(0) * 0.1 * step_mult; the public code adds 1e-10 inside the root.
    tx = ADAM.transform(jax.tree.map(jnp.zeros_like, drawn_theta(ADAM)), num_steps=10)
    adam = optax.adam(0.1 * 0.001, eps=1e-8, eps_root=1e-10)
    params = draw({"w": (3, 2), "b": (2,), "s": ()})
    state, reference = tx.init(params), adam.init(params)
    update = jax.jit(tx.update)
    for seed in range(4):
        grads = draw({"w": (3, 2), "b": (2,), "s": ()}, seed)
        updates, state = update(grads, state, value=1.0)
        want, reference = adam.update(grads, reference)
        for name in params:
            np.testing.assert_allclose(updates[name], want[name], rtol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_mup_multiplies_the_update_of_hidden_matrices_only(name):
    rule = dataclasses.replace(RULES[name], base_width=8.0)
    theta = drawn_theta(rule)
    if name == "Celo":
        rule = dataclasses.replace(rule, param_scale_mult=False)
    params = draw({"in": (3, 16), "hidden": (16, 16), "out": (16, 2), "b": (16,)})
    narrow = draw({"in": (3, 8), "hidden": (8, 8), "out": (8, 2), "b": (8,)})
    scalings = mup.infer(narrow, params)

    want, _ = first_step(rule.transform(theta, num_steps=20), params, params)
    scaled = rule.transform(theta, num_steps=20, mup=scalings)
    got, _ = first_step(scaled, params, params)
    for leaf, factor in {"in": 1.0, "hidden": 8 / 16, "out": 1.0, "b": 1.0}.items():
        np.testing.assert_allclose(got[leaf], factor * want[leaf], rtol=1e-5)


def test_celo_with_parameter_scale_refuses_a_mup_tree():
    scalings = {"w": mup.Scaling("hidden", 4, 4)}
    with pytest.raises(ValueError, match=r"use Celo\(param_scale_mult=False\)"):
        CELO.transform(drawn_theta(CELO), num_steps=20, mup=scalings)


@pytest.mark.parametrize("name", RULES)
def test_the_schedule_depends_on_the_horizon_and_the_loss_alone(name):
    rule = RULES[name]
    theta = drawn_theta(rule)

    @jax.jit
    def hidden(num_steps, losses, params):
        tx = rule.transform(theta, num_steps=num_steps)

        def one(state, loss):
            _, state = tx.update(params, state, params, value=loss)
            return state, None

        return jax.lax.scan(one, tx.init(params), losses)[0].schedule.hidden

    losses = jnp.asarray([3.0, 2.0, 2.5, 1.0])
    params = draw({"w": (3, 2)})
    first = hidden(10, losses, params)
    other = {"w": 5.0 * params["w"]}
    np.testing.assert_array_equal(hidden(10, losses, other), first)
    for changed in (hidden(1000, losses, params), hidden(10, losses[::-1], params)):
        assert float(jnp.max(jnp.abs(changed - first))) > 1e-4


@pytest.mark.parametrize("name", RULES)
def test_entries_that_are_no_numbers_count_as_zero(name):
    rule = RULES[name]
    tx = rule.transform(drawn_theta(rule), num_steps=20)
    params = draw({"w": (3, 2)})
    update = jax.jit(lambda g, loss: tx.update(g, tx.init(params), params, value=loss))
    bad = {"w": params["w"].at[0, 0].set(jnp.nan).at[1, 0].set(jnp.inf)}
    same = {"w": params["w"].at[0, 0].set(0.0).at[1, 0].set(1000.0)}
    got, state = update(bad, jnp.nan)
    want, _ = update(same, 1.0)
    np.testing.assert_array_equal(got["w"], want["w"])
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", RULES)
def test_a_traced_horizon_that_is_none_counts_as_one(name):
    rule = RULES[name]
    theta, params = drawn_theta(rule), draw({"w": (3, 2)})

    @jax.jit
    def step(num_steps):
        tx = rule.transform(theta, num_steps=num_steps)
        return tx.update(params, tx.init(params), params, value=1.0)[0]["w"]

    want = step(jnp.asarray(1.0))
    assert np.all(np.isfinite(want))
    for horizon in (0.0, -5.0):
        np.testing.assert_array_equal(step(jnp.asarray(horizon)), want)


@pytest.mark.parametrize("name", RULES)
def test_what_is_missing_or_does_not_fit_is_named(name):
    rule = RULES[name]
    theta = drawn_theta(rule)
    with pytest.raises(ValueError, match=f"{name} must know .* give num_steps"):
        rule.transform(theta)
    with pytest.raises(ValueError, match="theta leaf 'lstm_init_state/cell'"):
        dataclasses.replace(rule, lstm_hidden_size=5).transform(theta, num_steps=5)
    tx = rule.transform(theta, num_steps=5)
    params = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match=f"{name} reads the loss"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="'w' is complex64"):
        tx.init({"w": jnp.ones(3, jnp.complex64)})


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (mulo.Celo, {"train_phase": 3}, "train_phase must be 1 or 2, got 3"),
        (mulo.Celo, {"step_mult": 0.0}, "step_mult must be finite and > 0"),
        (mulo.CeloAdam, {"rms_decay": 1.0}, r"rms_decay must lie in \[0, 1\), got 1.0"),
        (mulo.CeloAdam, {"epsilon": -1.0}, "epsilon must be finite and >= 0"),
    ],
)
def test_a_bad_architecture_is_refused(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)
