import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import learned_goldens as goldens
from helpers.theta_parts import drawn_theta

import mulo
from mulo import mup
from mulo._learned import lstm_ff_features

SMALL = mulo.LSTMFF(
    hidden_size=3,
    lstm_hidden_size=4,
    from_mlp_size=2,
    from_lstm_size=3,
    lstm_to_ff=2,
    step_mult=0.1,
)


def draw(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def run_steps(tx, params, steps):
    """Updates and state after some steps with the parameters as gradients."""

    @jax.jit
    def run(params):
        def one(state, _):
            updates, state = tx.update(params, state, params, value=1.0)
            return state, updates

        state, updates = jax.lax.scan(one, tx.init(params), length=steps)
        return jax.tree.map(lambda x: x[-1], updates), state

    return run(params)


def test_lstm_ff_follows_the_public_implementation_in_every_leaf_and_step():
    arrays, info = goldens.read(goldens.GOLDEN / "rnn_mlp_lopt_small")
    rule, theta = goldens.theta_of(arrays["theta"])
    assert rule == mulo.LSTMFF(lstm_hidden_size=info["lstm_hidden_size"])
    goldens.assert_follows(rule.transform(theta), arrays, info["steps"], share=1e-4)


def test_one_step_by_hand():
    # Two hidden units pass the normalized gradient on, as relu(x) - relu(-x); a third
    # carries the LSTM's message, a constant 2, to the magnitude. The message back is
    # the mean of that unit, times 5.
    rule = dataclasses.replace(SMALL, hidden_layers=1, exp_mult=0.1)
    theta = jax.tree.map(jnp.zeros_like, drawn_theta(rule))
    theta["rnn_to_ff_params"]["b"] = jnp.asarray([2.0, 0.0])
    first, last = theta["ffmod_params"]["linear_0"], theta["ffmod_params"]["linear_1"]
    assert first["w"].shape == (3 + 4 * 5 + 11 + 3 + 2, 3)
    first["w"] = first["w"].at[0, 0].set(1.0).at[0, 1].set(-1.0).at[-2, 2].set(1.0)
    last["w"] = jnp.asarray([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0, 1.0, 0, 5.0]])
    tx = rule.transform(theta)
    params = {"w": jnp.asarray([3.0, 1.0])}
    grads = {"w": jnp.asarray([3.0, -40.0])}
    update = jax.jit(lambda g, p: tx.update(g, tx.init(p), p, value=2.0))
    updates, state = update(grads, params)
    # The usual size of gradients starts at 1: they are cut at 10.
    cut = np.asarray([3.0, -10.0])
    mean_square = (9.0 + 100.0) / 2
    direction = cut / math.sqrt(mean_square + 1e-5)
    want = -0.1 * direction * math.exp(0.1 * 2.0)
    np.testing.assert_allclose(updates["w"], want, rtol=1e-5)

    np.testing.assert_allclose(state.leaves.momentum["w"][0], 0.5 * cut, rtol=1e-5)
    np.testing.assert_allclose(state.leaves.rms["w"][0], 0.5 * cut**2, rtol=1e-5)
    np.testing.assert_allclose(
        state.clip.size, 0.99 * 0.01 + 0.01 * math.sqrt(mean_square), rtol=1e-4
    )
    np.testing.assert_allclose(state.from_mlp, [[0.0, 10.0]], rtol=1e-5)
    np.testing.assert_allclose(state.train_loss.mean, 0.2, rtol=1e-5)


def test_validation_losses_are_taken_in_and_move_nothing():
    tx = SMALL.transform(drawn_theta(SMALL))
    params = draw({"w": (3, 2), "b": (2,)})
    update = jax.jit(
        lambda s, loss, valid: tx.update(params, s, params, value=loss, is_valid=valid)
    )
    start = tx.init(params)
    updates, told = update(start, 3.0, True)
    assert all(np.all(u == 0) for u in jax.tree.leaves(updates))
    np.testing.assert_allclose(told.valid_loss.mean, 0.05 * 3.0, rtol=1e-5)
    assert told.count == 1
    np.testing.assert_array_equal(told.hidden, start.hidden)
    _, static = tx.update(params, start, params, value=3.0, is_valid=True)
    jax.tree.map(np.testing.assert_array_equal, static, told)
    with_it, _ = update(told, 1.0, False)
    without, _ = update(start._replace(count=told.count), 1.0, False)
    assert float(jnp.max(jnp.abs(with_it["w"] - without["w"]))) > 1e-5


def test_large_tensors_go_through_the_network_in_pieces(monkeypatch):
    tx = SMALL.transform(drawn_theta(SMALL))
    params = draw({"w": (7, 5), "v": (7, 5), "b": (6,)})
    whole, state = run_steps(tx, params, 2)
    monkeypatch.setattr(lstm_ff_features, "_PIECE", 6)  # 35 = 5 pieces and a rest.
    pieces, other = run_steps(tx, params, 2)
    for name in params:
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(other.from_mlp, state.from_mlp, rtol=1e-4, atol=1e-6)


def test_messages_are_in_the_order_of_the_tree_and_masked_leaves_take_no_part():
    # Tensors are stacked by shape; a and c, of one shape, lie around b.
    tx = SMALL.transform(drawn_theta(SMALL))
    params = draw({"a": (3, 2), "b": (4,), "c": (3, 2)})

    want, state = run_steps(tx, params, 2)
    swapped = {"a": params["b"], "b": params["a"], "c": params["c"]}
    _, other = run_steps(tx, swapped, 2)
    order = np.asarray([1, 0, 2])
    for name in ("hidden", "from_mlp"):
        got = getattr(state, name)[order]
        np.testing.assert_allclose(getattr(other, name), got, rtol=1e-4, atol=1e-6)
    more = params | {"d": optax.MaskedNode(), "e": jnp.ones((0, 3))}
    masked, state = run_steps(tx, more, 2)
    assert state.hidden.shape == (3, 4)
    assert masked["d"] == optax.MaskedNode()
    for name in params:
        np.testing.assert_allclose(masked[name], want[name], rtol=1e-5, atol=1e-8)


def test_mup_multiplies_the_update_of_hidden_matrices_only():
    rule = dataclasses.replace(SMALL, base_width=8.0)
    theta = drawn_theta(rule)
    params = draw({"in": (3, 16), "hidden": (16, 16), "out": (16, 2), "b": (16,)})
    narrow = draw({"in": (3, 8), "hidden": (8, 8), "out": (8, 2), "b": (8,)})
    want, _ = run_steps(rule.transform(theta), params, 1)
    scaled = rule.transform(theta, mup=mup.infer(narrow, params))
    got, _ = run_steps(scaled, params, 1)
    for name, factor in {"in": 1.0, "hidden": 8 / 16, "out": 1.0, "b": 1.0}.items():
        np.testing.assert_allclose(got[name], factor * want[name], rtol=1e-5)


def test_entries_that_are_no_numbers_count_as_zero_and_such_losses_as_large():
    tx = SMALL.transform(drawn_theta(SMALL))
    params = draw({"w": (3, 2), "b": (2,)})
    update = jax.jit(lambda g, s, loss: tx.update(g, s, params, value=loss))
    state = update(params, tx.init(params), 1.0)[1]
    bad = params | {"w": params["w"].at[0, 0].set(jnp.nan).at[1, 0].set(jnp.inf)}
    same = params | {"w": params["w"].at[0, 0].set(0.0).at[1, 0].set(1e30)}
    got, after = update(bad, state, jnp.nan)
    want, _ = update(same, state, jnp.inf)
    for name in params:
        np.testing.assert_array_equal(got[name], want[name])
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((got, after)))
    np.testing.assert_array_equal(after.train_loss.mean, state.train_loss.mean)


def test_it_has_a_derivative_where_a_tensor_or_its_gradient_is_zero():
    tx = SMALL.transform(drawn_theta(SMALL))
    params = draw({"w": (3, 2)}) | {"b": jnp.zeros(2)}

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def derivative(params, grads):
        updates, _ = tx.update(grads, tx.init(params), params, value=1.0)
        return sum(jnp.sum(x) for x in jax.tree.leaves(updates))

    found = jax.tree.leaves(
        derivative(params, {"w": jnp.zeros((3, 2)), "b": params["b"]})
    )
    assert all(np.all(np.isfinite(x)) for x in found)
    assert max(float(jnp.max(jnp.abs(x))) for x in found) > 0.0


def test_initial_theta_has_the_published_sizes():
    theta = mulo.LSTMFF().init(jax.random.key(0))
    assert theta["ffmod_params"]["linear_0"]["w"].shape == (54, 32)
    assert theta["ffmod_params"]["linear_2"]["w"].shape == (32, 18)
    assert theta["rnn_params"]["rnn"]["w"].shape == (18 + 18 + 16 + 64, 256)
    np.testing.assert_array_equal(theta["lstm_init_state"]["cell"], 0.0)


def test_what_is_missing_or_does_not_fit_is_named():
    theta = drawn_theta(SMALL)
    with pytest.raises(ValueError, match="theta leaf 'ffmod_params/linear_0/b'"):
        dataclasses.replace(SMALL, hidden_size=9).transform(theta)
    tx = SMALL.transform(theta)
    params = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match="LSTMFF reads the loss"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="'w' is int32"):
        tx.init({"w": jnp.ones(3, jnp.int32)})
    with pytest.raises(ValueError, match=r"decays must lie in \[0, 1\)"):
        mulo.LSTMFF(decays=(1.0,))
