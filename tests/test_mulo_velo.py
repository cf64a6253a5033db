import dataclasses
import json
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
from mulo._learned import loss_averages, velo_features

SMALL = mulo.VeLO(lstm_hidden_size=4, param_inits=3, step_mult=0.1)


def draw(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def first_step(tx, grads, params, loss=1.0):
    """Jitted: run one by one, the operations take longer to compile than together."""
    run = jax.jit(lambda g, p: tx.update(g, tx.init(p), p, value=loss))
    return run(grads, params)


@pytest.mark.parametrize("case", ["velo_small", "velo_small_mu", "velo_small_bugged"])
def test_velo_follows_the_public_implementation_in_every_leaf_and_step(case):
    arrays, info = goldens.read(goldens.GOLDEN / case)
    rule, theta = goldens.theta_of(arrays["theta"])
    rule = dataclasses.replace(
        rule,
        param_scale_mult=info.get("param_scale_mult", True),
        use_bugged_loss_features=info["use_bugged_loss_features"],
        use_bugged_next_lstm_state=info.get("use_bugged_next_lstm_state", False),
    )
    assert rule.lstm_hidden_size == info["lstm_hidden_size"]
    assert rule.param_inits == info["param_inits"]
    tx = rule.transform(theta, num_steps=info["num_steps"])
    goldens.assert_follows(tx, arrays, info["steps"], share=1e-4)


def test_initial_theta_has_the_published_names_and_shapes():
    manifest = json.loads((goldens.GOLDEN / "velo_full_manifest.json").read_text())
    want = {}
    for name, leaf in manifest["leaves"].items():
        name = name.replace("~/", "").replace("/.", "/").replace("rnn/linear/", "rnn/")
        want[name] = tuple(leaf["shape"])
    theta = jax.eval_shape(mulo.VeLO().init, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(theta)
    got = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in leaves
    }
    assert got == want
    assert sum(math.prod(shape) for shape in got.values()) == manifest["total"]


def test_a_theta_of_full_size_is_saved_loaded_and_makes_a_step(tmp_path):
    rule = mulo.VeLO()
    theta = jax.tree.map(lambda x: x * 0.1, drawn_theta(rule))
    loaded = mulo.load(mulo.save(tmp_path, rule, theta))
    assert loaded.rule == rule
    jax.tree.map(np.testing.assert_array_equal, loaded.theta, theta)
    params = draw({"w": (3, 4)})
    got = first_step(loaded.transform(num_steps=10), params, params)[0]["w"]
    assert np.all(np.isfinite(got))
    assert np.any(got != 0)


def test_initial_theta_is_finite_and_moves_parameters_a_little():
    rule = dataclasses.replace(SMALL, step_mult=0.001)
    tx = rule.transform(rule.init(jax.random.key(1)), num_steps=10)
    params = draw({"w": (3, 4)})
    updates, _ = first_step(tx, params, params)
    assert 0.0 < float(jnp.max(jnp.abs(updates["w"]))) < 0.1


def test_one_step_by_hand():
    # The controls are constant, (2, 0): the bank's mean is its first MLP, which passes
    # the normalized gradient through two layers, as relu(x) - relu(-x); the magnitude
    # is a bias of 3, the tensor's step size one of 0.5.
    rule = mulo.VeLO(
        lstm_hidden_size=2,
        param_inits=2,
        ff_hidden_size=2,
        interp_mult=1.0,
        step_mult=0.1,
        exp_mult=0.2,
    )
    theta = jax.tree.map(jnp.zeros_like, drawn_theta(rule))
    theta["rnn_params"]["rnn_to_controls"]["b"] = jnp.asarray([2.0, 0.0])
    theta["rnn_params"]["step_size"]["b"] = jnp.asarray([0.5])
    bank = theta["ff_mod_stack"]
    other = 7.0  # Weights of the second MLP; the controls leave it out.
    bank["w0__0"] = jnp.asarray([[[1.0, -1.0]], [[other, other]]])
    bank["w1"] = jnp.asarray([np.eye(2), other * np.eye(2)], jnp.float32)
    bank["w2"] = bank["w2"].at[0, 0, 0].set(1.0).at[0, 1, 0].set(-1.0)
    bank["b2"] = bank["b2"].at[0, 1].set(3.0)
    tx = rule.transform(theta, num_steps=10)
    params = {"w": jnp.asarray([3.0, 1.0])}
    grads = {"w": jnp.asarray([3.0, -4.0])}
    updates, state = first_step(tx, grads, params, loss=2.0)
    # Mean square of the gradient (9 + 16) / 2, of the parameters (9 + 1) / 2.
    direction = np.asarray([3.0, -4.0]) / math.sqrt(12.5 + 1e-5)
    size = 0.1 * 0.5 * math.sqrt(5.0)
    np.testing.assert_allclose(
        updates["w"], -size * direction * math.exp(0.2 * 3.0), rtol=1e-5
    )
    assert state.count == 1
    np.testing.assert_allclose(state.leaves.rms["w"], [0.009, 0.016], rtol=1e-4)
    # Gates of zero: cell = 0.5 * tanh(0) + sigmoid(1) * 0.
    np.testing.assert_array_equal(state.cell, np.zeros((1, 2)))


def test_features_are_those_of_the_paper_by_hand():
    params = jnp.asarray([[[3.0, 4.0]]])  # One tensor (1, 2): mean square 12.5.
    momentum = jnp.asarray([[[[1.0, 2.0]], [[0.0, 0.0]], [[2.0, 2.0]]]])
    rms = jnp.asarray([[[4.0, 6.0]]])
    mean_rms, rank, var_m, var_rms = velo_features.tensor_features(
        params, momentum, rms
    )

    def log(x):
        return 0.5 * np.clip(np.log(1e-8 + np.abs(10.0 * np.asarray(x))), -5, 5)

    np.testing.assert_allclose(mean_rms, [log([5.0 / 12.5**0.5])], rtol=1e-5)
    np.testing.assert_array_equal(rank, [[0, 1, 0, 0, 0]])  # One axis longer than 1.
    np.testing.assert_allclose(var_m, [log([0.25 / 12.5, 0.0, 0.0])], rtol=1e-5)
    # From the momenta's means 1.5, 0 and 2: the published quirk.
    want = [(2.5**2 + 4.5**2) / 2, (4.0**2 + 6.0**2) / 2, (2.0**2 + 4.0**2) / 2]
    np.testing.assert_allclose(var_rms, [log(np.asarray(want) / 12.5)], rtol=1e-5)
    got = velo_features.progress(jnp.asarray(0.2))
    np.testing.assert_allclose(got[2], 0.0, atol=1e-6)
    np.testing.assert_allclose(got[3], math.tanh(-2.0), rtol=1e-5)


def test_loss_features_say_where_an_average_lies_between_its_lowest_and_the_next():
    decays = loss_averages.loss_decays(1000.0)
    np.testing.assert_allclose(decays[0], math.exp(-0.1), rtol=1e-6)
    np.testing.assert_allclose(decays[-1], math.exp(-0.001), rtol=1e-6)
    state = loss_averages.init_loss()
    features = correction = None
    means, lowest, cut = np.zeros(10), np.full(10, 1e12), []
    for t, loss in enumerate([4.0, 3.0, 5.0, 100.0]):
        correction = 1 - np.asarray(decays, np.float64) ** (t + 1)
        top = loss if t == 0 else np.max(means / correction)
        cut.append(min(loss, 2 * top))
        means = means * decays + cut[-1] * (1 - np.asarray(decays, np.float64))
        lowest = np.minimum(lowest, means / correction)
        state, features = loss_averages.update_loss(
            state, jnp.asarray(loss), jnp.asarray(t), decays
        )
        if t < 2:
            np.testing.assert_array_equal(features, 0.0)
    assert cut[-1] < 10.0  # An outlier counts as twice the largest average.
    average = means / correction
    span = np.maximum(1e-8, average[1:] - lowest[:-1])
    want = np.clip((average[:-1] - lowest[:-1]) / span - 1, -1, 1)
    np.testing.assert_allclose(features, want, atol=2e-3)
    np.testing.assert_allclose(state.means, means, rtol=1e-3)


def test_tensors_see_each_other_and_masked_and_empty_ones_are_not_seen():
    params, theta = draw({"a": (3, 2), "b": (4,), "c": ()}), drawn_theta(SMALL)
    # Tensors speak by the maximum over them: let scalars (rank 0) speak up.
    rank0 = 9 + 9 + 1
    common = theta["rnn_params"]["linear_1"]
    common["w"] = common["w"].at[rank0].set(5.0)
    tx = SMALL.transform(theta, num_steps=20)

    def step(params):
        return first_step(tx, params, params)

    with_c, _ = step(params)
    alone = {k: params[k] for k in "ab"}
    want, state = step(alone)
    assert state.hidden.shape == (2, 4)
    assert float(jnp.max(jnp.abs(with_c["a"] - want["a"]))) > 1e-4
    masked, state = step(alone | {"c": optax.MaskedNode(), "d": jnp.ones((0, 3))})
    assert state.hidden.shape == (2, 4)
    assert masked["c"] == optax.MaskedNode()
    assert masked["d"].shape == (0, 3)
    for name in alone:
        np.testing.assert_allclose(masked[name], want[name], rtol=1e-5)


def test_the_state_of_the_lstm_is_in_the_order_of_the_tree():
    # Tensors are stacked by shape; a and c, of one shape, lie around b.
    rule, theta = SMALL, drawn_theta(SMALL)
    tx = rule.transform(theta, num_steps=20)
    params = draw({"a": (3, 2), "b": (4,), "c": (3, 2)})
    _, state = first_step(tx, params, params)
    swapped = {"a": params["b"], "b": params["a"], "c": params["c"]}
    _, other = first_step(tx, swapped, swapped)
    order = np.asarray([1, 0, 2])
    np.testing.assert_allclose(other.hidden, state.hidden[order], rtol=1e-4, atol=1e-6)


def test_mup_multiplies_the_update_of_hidden_matrices_only():
    rule = dataclasses.replace(SMALL, param_scale_mult=False, base_width=8.0)
    theta = drawn_theta(rule)
    shapes = {"in": (3, 16), "hidden": (16, 16), "out": (16, 2), "b": (16,)}
    narrow = {"in": (3, 8), "hidden": (8, 8), "out": (8, 2), "b": (8,)}
    params = draw(shapes)
    scalings = mup.infer(draw(narrow), params)

    want, _ = first_step(rule.transform(theta, num_steps=20), params, params)
    scaled = rule.transform(theta, num_steps=20, mup=scalings)
    got, _ = first_step(scaled, params, params)
    for name, factor in {"in": 1.0, "hidden": 8 / 16, "out": 1.0, "b": 1.0}.items():
        np.testing.assert_allclose(got[name], factor * want[name], rtol=1e-5)
    with pytest.raises(ValueError, match=r"use VeLO\(param_scale_mult=False\)"):
        SMALL.transform(theta, num_steps=20, mup=scalings)


def test_theta_and_horizon_may_be_vmapped_over():
    thetas = jax.tree.map(
        lambda *xs: jnp.stack(xs), drawn_theta(SMALL, 1), drawn_theta(SMALL, 2)
    )
    horizons = jnp.asarray([10, 1000])
    params = draw({"w": (3, 2), "b": (2,)})

    @jax.jit
    def step(theta, num_steps):
        tx = SMALL.transform(theta, num_steps=num_steps)

        def one(state, loss):
            updates, state = tx.update(params, state, params, value=loss)
            return state, updates

        return jax.lax.scan(one, tx.init(params), jnp.asarray([3.0, 2.0, 2.5]))[1]

    together = jax.jit(jax.vmap(step))(thetas, horizons)
    for i in range(2):
        alone = step(jax.tree.map(lambda x, i=i: x[i], thetas), horizons[i])
        for name in params:
            np.testing.assert_allclose(
                together[name][i], alone[name], rtol=1e-3, atol=1e-7
            )


def test_a_traced_horizon_that_is_none_counts_as_one():
    theta = drawn_theta(SMALL)
    params = draw({"w": (3, 2), "b": (2,)})

    @jax.jit
    def step(num_steps):
        tx = SMALL.transform(theta, num_steps=num_steps)
        return tx.update(params, tx.init(params), params, value=1.0)[0]

    want = step(jnp.asarray(1.0))
    for horizon in (0.0, -5.0, jnp.nan):
        got = step(jnp.asarray(horizon))
        for name in params:
            assert np.all(np.isfinite(got[name]))
            np.testing.assert_array_equal(got[name], want[name])


@pytest.mark.parametrize("num_steps", [10.0, 1e8, 1e12])
def test_features_of_the_loss_are_numbers_however_long_the_run(num_steps):
    decays = loss_averages.loss_decays(num_steps)
    state = loss_averages.init_loss()
    for count in range(4):
        state, features = loss_averages.update_loss(
            state, jnp.asarray(2.0 - 0.1 * count), jnp.asarray(count), decays
        )
        assert np.all(np.isfinite(features))


def test_entries_that_are_no_numbers_count_as_zero_and_such_losses_as_large():
    tx = SMALL.transform(drawn_theta(SMALL), num_steps=20)
    params = draw({"w": (3, 2), "b": (2,)})
    update = jax.jit(lambda g, s, loss: tx.update(g, s, params, value=loss))

    def run(grads, losses):
        updates, state = None, tx.init(params)
        for loss in losses:
            updates, state = update(grads, state, loss)
        return updates, state

    bad = params | {"w": params["w"].at[0, 0].set(jnp.nan).at[1, 0].set(-jnp.inf)}
    same = params | {"w": params["w"].at[0, 0].set(0.0).at[1, 0].set(-1000.0)}
    got, state = run(bad, (1.0, 1.0))
    want, _ = run(same, (1.0, 1.0))
    for name in params:
        np.testing.assert_array_equal(got[name], want[name])
    for first in (math.nan, math.inf):
        got, state = run(params, (first, 2.0, math.nan, 2.0))
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((got, state)))
    _, state = run(params, (2.0, math.inf))
    _, other = run(params, (2.0, 4.0))
    np.testing.assert_allclose(state.loss.means, other.loss.means, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lstm_hidden_size": 0}, "lstm_hidden_size must be an integer >= 1, got 0"),
        ({"param_inits": 2.0}, "param_inits must be an integer"),
        ({"interp_mult": math.inf}, "interp_mult must be finite and > 0"),
        ({"initial_rms_decays": (0.9, 0.99)}, "initial_rms_decays must be one"),
        ({"initial_momentum_decays": (0.9,)}, "as many as initial_momentum_decays"),
    ],
)
def test_a_bad_architecture_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mulo.VeLO(**arguments)


def test_what_is_missing_or_does_not_fit_is_named():
    theta = drawn_theta(SMALL)
    with pytest.raises(ValueError, match=r"VeLO must know .* give num_steps"):
        SMALL.transform(theta)
    with pytest.raises(ValueError, match="must be a finite number >= 1, got 0"):
        SMALL.transform(theta, num_steps=0)
    with pytest.raises(ValueError, match=r"num_steps of VeLO .* got '10'"):
        SMALL.transform(theta, num_steps="10")
    with pytest.raises(ValueError, match=r"'ff_mod_stack/b0' must have shape \(9, 4\)"):
        dataclasses.replace(SMALL, param_inits=9).transform(theta, num_steps=5)
    tx = SMALL.transform(theta, num_steps=5)
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"VeLO reads the loss.*value=None"):
        tx.update(params, state, params)
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \(2,\)"):
        tx.update(params, state, params, value=jnp.ones(2))
    with pytest.raises(ValueError, match="VeLO reads the parameters"):
        tx.update(params, state, value=1.0)
    with pytest.raises(ValueError, match="'w' is int32"):
        tx.init({"w": jnp.ones(3, jnp.int32)})


def test_a_first_loss_that_is_no_number_leaves_no_trace_in_the_lowest_averages():
    decays = loss_averages.loss_decays(100.0)
    state, _ = loss_averages.update_loss(
        loss_averages.init_loss(), jnp.asarray(jnp.nan), jnp.asarray(0), decays
    )
    np.testing.assert_array_equal(state.lowest, loss_averages.init_loss().lowest)
    for count in range(1, 6):
        loss = jnp.asarray(3.0 - 0.1 * count)
        state, features = loss_averages.update_loss(
            state, loss, jnp.asarray(count), decays
        )
        assert np.all(np.isfinite(features))
    assert state.lowest.min() > 0.0
