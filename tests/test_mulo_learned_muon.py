"""LearnedMuon: its nominal step, and what theta does to it."""

import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.learned_muon_parts import (
    RULE,
    SCALINGS,
    SHAPES,
    theta_of,
    tree,
    walk,
)

import mulo
from mulo._designed import newton_schulz


def test_first_nominal_step_is_the_hand_computed_one():
    # No entry of its orthogonal matrices is near zero, where float32 ends at rtol=1e-4.
    grad = tree(3)
    (step,), state = walk(RULE, theta_of(), [grad])
    # x = 1/10; the warm-up of 2 % of 10 steps is over; s = 1, for d = g and v = g².
    rate = 0.03 * (1.0 - 0.99 * 0.1)
    for name, factor in (("readout", 2.0), ("gain", 0.7)):
        expected = -rate * factor * np.sign(grad[name])
        np.testing.assert_allclose(step[name], expected, rtol=1e-5)
    # RMS 1 is singular values of √4; the multiplier of μP is √(4/4)/√4.
    orthogonal = newton_schulz.orthogonalize(grad["hidden"])
    np.testing.assert_allclose(step["hidden"], -rate * orthogonal, rtol=1e-4)
    # Inputs have the factor 0.7 and the multiplier one.
    expected = -rate * 0.7 * 2.0 * newton_schulz.orthogonalize(grad["first"])
    np.testing.assert_allclose(step["first"], expected, rtol=1e-4)
    np.testing.assert_allclose(state[1].rms["gain"], 0.01 * grad["gain"] ** 2)
    np.testing.assert_allclose(state[1].momenta[1]["gain"], 0.05 * grad["gain"])


def test_nominal_directions_mix_bias_corrected_momenta():
    grads = [tree(1), tree(2)]
    (_, step), state = walk(RULE, theta_of(), grads, num_steps=100)
    first, second = (np.asarray(g["gain"]) for g in grads)

    def average(decay, a, b):
        return ((1 - decay) * (decay * a + b)) / (1 - decay**2)

    d = 0.7 * average(0.8, first, second) + 0.3 * average(0.95, first, second)
    a = d / np.sqrt(average(0.99, first**2, second**2))
    s = np.sqrt(np.mean(a**2))
    rate = 0.03 * 0.7 * (1.0 - 0.99 * 0.02)  # Two steps of warm-up are done.
    np.testing.assert_allclose(step["gain"], -rate * a * s**-0.5, rtol=1e-5)
    assert int(state[1].count) == 2


@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("rule", [RULE, mulo.LearnedMuon(mlp_units=4)])
def test_steps_do_not_see_the_scale_of_gradients(rule, factor):
    theta = theta_of(rule, seed=3)
    steps, _ = walk(rule, theta, [tree(1), tree(2), tree(3)])
    scaled, _ = walk(rule, theta, [tree(k, factor) for k in (1, 2, 3)])
    for step, other in zip(steps, scaled, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6),
            step,
            other,
        )


def test_longer_runs_are_slower_ones():
    theta = theta_of(seed=4)
    log_steps = theta["schedule"]["w0"].at[7].set(0.0)  # The feature log T.
    theta["schedule"]["w0"] = log_steps
    grads = [tree(1)] * 12
    short, _ = walk(RULE, theta, grads[:6], num_steps=6)
    long, _ = walk(RULE, theta, grads, num_steps=12)
    # The same gradient at every step: moments do not tell the two runs apart.
    # Entries of an orthogonal matrix may be anything, also almost zero.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-8)
    for name in SHAPES:
        close(short[2][name], long[5][name])
        close(short[5][name], long[11][name])


def test_inputs_with_a_long_side_are_not_orthogonalized():
    rule = mulo.LearnedMuon(max_input_dim=3)
    grad = tree(1)
    (step,), _ = walk(rule, theta_of(), [grad])
    rate = 0.03 * (1.0 - 0.99 * 0.1)
    expected = -rate * 0.7 * np.sign(grad["first"])
    np.testing.assert_allclose(step["first"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="max_input_dim must be"):
        mulo.LearnedMuon(max_input_dim=0)


def changed(**leaves):
    theta = theta_of()
    for name, value in leaves.items():
        theta[name] = jnp.asarray(value, jnp.float32)
    return theta


def test_each_role_has_its_exponent():
    grads = [tree(1), tree(2)]
    plain, _ = walk(RULE, theta_of(), grads)
    for i, name in enumerate(("first", "hidden", "readout", "gain")):
        other, _ = walk(RULE, changed(exponent=np.eye(4)[i] * 0.5), grads)
        ratios = {k: np.asarray(other[1][k] / plain[1][k]) for k in SHAPES}
        # Where gradients disagree s < 1, and s^-γ (hidden: s^(1-γ)) grows with γ.
        assert ratios[name].min() > 1.01
        np.testing.assert_allclose(ratios[name], ratios[name].flat[0], rtol=1e-4)
        for k in SHAPES.keys() - {name}:
            np.testing.assert_allclose(ratios[k], 1.0, rtol=1e-5)


def test_full_caution_is_the_mask_of_cautious_optimizers():
    grads = [tree(1), tree(2)]
    plain, _ = walk(RULE, theta_of(), grads)
    cautious, _ = walk(RULE, changed(caution=np.ones(4)), grads)
    shares = []
    for name in SHAPES:
        step, grad = plain[1][name], grads[1][name]
        mask = np.asarray(step * grad < 0)
        shares.append(mask.mean())
        np.testing.assert_allclose(
            cautious[1][name], step * mask / max(mask.mean(), 0.1), rtol=1e-4, atol=1e-9
        )
    assert min(shares) < 0.9  # There was something to mask.


def test_the_schedule_multiplies_each_role_by_its_output():
    theta = theta_of()
    theta["schedule"]["b1"] = jnp.log(jnp.asarray([2.0, 3.0, 5.0, 7.0]))
    grads = [tree(1)]
    (plain,), _ = walk(RULE, theta_of(), grads)
    (other,), _ = walk(RULE, theta, grads)
    for name, factor in (("first", 2), ("hidden", 3), ("readout", 5), ("gain", 7)):
        np.testing.assert_allclose(other[name], factor * plain[name], rtol=1e-5)


def test_the_schedule_sees_noise():
    theta = theta_of()
    theta["schedule"]["w0"] = jnp.zeros((10, 8)).at[-1, 0].set(0.5)
    theta["schedule"]["w1"] = jnp.zeros((8, 4)).at[0].set(1.0)
    agree = [tree(1), tree(1)]
    differ = [tree(1), tree(2)]
    for grads, low, high in ((agree, 0.999, 1.001), (differ, 0.5, 0.99)):
        plain, _ = walk(RULE, theta_of(), grads)
        other, _ = walk(RULE, theta, grads)
        ratio = np.asarray(other[1]["gain"] / plain[1]["gain"])
        assert low < ratio.min() <= ratio.max() < high


def test_the_mlp_corrects_the_direction_and_starts_at_nothing():
    rule = mulo.LearnedMuon(mlp_units=4)
    theta = theta_of(rule)
    grads = [tree(1), tree(2)]
    plain, _ = walk(RULE, theta_of(), grads)
    same, _ = walk(rule, theta, grads)
    for name in SHAPES:
        np.testing.assert_allclose(same[1][name], plain[1][name], rtol=1e-5)
    # A constant output c adds c to d/√v.
    theta["mlp"]["b2"] = jnp.asarray([0.25])
    moved, _ = walk(rule, theta, grads[:1])
    rate = 0.03 * 0.7 * (1.0 - 0.99 * 0.1)
    expected = -rate * (np.sign(grads[0]["gain"]) + 0.25)
    np.testing.assert_allclose(moved[0]["gain"], expected, rtol=1e-5)


def test_without_a_horizon_the_rate_is_constant():
    theta = theta_of()
    tx = RULE.transform(theta, mup=SCALINGS, schedule=None)
    params, sizes = tree(99), []
    state = tx.init(params)
    update = jax.jit(tx.update)
    for _ in range(25):
        updates, state = update(tree(1), state, params)
        sizes.append(float(jnp.abs(updates["gain"][0])))
    np.testing.assert_allclose(sizes[19:], 0.03 * 0.7, rtol=1e-4)
    np.testing.assert_allclose(sizes[0], 0.03 * 0.7 / 20, rtol=1e-4)


def test_beyond_its_end_a_run_keeps_the_last_rate_and_says_so_once():
    tx = RULE.transform(theta_of(), num_steps=2)
    grads = {"gain": tree(1)["gain"]}  # Not compiled: a vector alone is fast.
    state = tx.init(grads)
    sizes = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(5):
            updates, state = tx.update(grads, state)
            sizes.append(float(jnp.abs(updates["gain"][0])))
    np.testing.assert_allclose(sizes[1:], 0.03 * 0.7 * 0.01, rtol=1e-3)
    (warning,) = [w for w in seen if "LearnedMuon" in str(w.message)]
    assert "made for num_steps=2 and is asked for more" in str(warning.message)


def test_without_a_mup_tree_matrices_are_hidden():
    params = {"w": jnp.ones((2, 3, 4)), "b": jnp.zeros(4), "c": jnp.zeros(())}
    grads = jax.tree.map(lambda p: jnp.arange(1.0, p.size + 1).reshape(p.shape), params)
    tx = RULE.transform(theta_of(), num_steps=10)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params))
    rate = 0.03 * (1.0 - 0.99 * 0.1)
    matrix = newton_schulz.orthogonalize(grads["w"].reshape(6, 4))
    # RMS 1 times μP's √(4/6)/√6 is √(4/6) times the orthogonal matrix.
    np.testing.assert_allclose(
        updates["w"].reshape(6, 4), -rate * math.sqrt(4 / 6) * matrix, atol=1e-6
    )
    np.testing.assert_allclose(updates["c"], -rate * 0.7, rtol=1e-5)
