"""LearnedMuon: its nominal step, what theta does to it, and what it refuses."""

import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from mulo._designed import newton_schulz

RULE = mulo.LearnedMuon()
ROLES = ("input", "hidden", "output", "vector")
SCALINGS = {
    "first": mulo.mup.Scaling("input", 3, 4),
    "hidden": mulo.mup.Scaling("hidden", 4, 4),
    "gain": mulo.mup.Scaling("input", 1, 4),
    "readout": mulo.mup.Scaling("output", 4, 2),
}
SHAPES = {"first": (3, 4), "hidden": (4, 4), "gain": (4,), "readout": (4, 2)}


def tree(seed, scale=1.0):
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return {
        name: scale * jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)
    }


def theta_of(rule=RULE, seed=None, size=0.1):
    theta = rule.init(jax.random.key(0))
    if seed is None:
        return theta
    leaves, treedef = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return treedef.unflatten(
        [
            x + size * jax.random.normal(k, x.shape)
            for x, k in zip(leaves, keys, strict=True)
        ]
    )


@functools.cache
def compiled(rule):
    """A step of a rule: one program for every theta and horizon."""

    @jax.jit
    def step(theta, num_steps, grads, state, params):
        tx = rule.transform(theta, mup=SCALINGS, num_steps=num_steps)
        updates, state = tx.update(grads, state, params)
        return updates, state, optax.apply_updates(params, updates)

    return step


def walk(rule, theta, grads, *, num_steps=10):
    """Updates of a run on given gradients."""
    params = tree(99)
    state = rule.transform(theta, mup=SCALINGS, num_steps=num_steps).init(params)
    steps = []
    for grad in grads:
        updates, state, params = compiled(rule)(theta, num_steps, grad, state, params)
        steps.append(updates)
    return steps, state


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


def test_copies_are_matrices_of_their_own():
    scaling = {"w": mulo.mup.Scaling("hidden", 4, 3, copies=2)}
    one = {"w": mulo.mup.Scaling("hidden", 4, 3)}
    grads = jax.random.normal(jax.random.key(0), (2, 4, 3))
    theta = theta_of()
    stacked = RULE.transform(theta, mup=scaling, num_steps=10)
    update = jax.jit(stacked.update)
    updates, _ = update({"w": grads}, stacked.init({"w": grads}))
    single = RULE.transform(theta, mup=one, num_steps=10)
    update = jax.jit(single.update)
    for k in range(2):
        part = {"w": grads[k]}
        alone, _ = update(part, single.init(part))
        np.testing.assert_allclose(updates["w"][k], alone["w"], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("size", [1e-18, 1e-24, 1e-37])
def test_gradients_too_small_to_square_make_small_steps(size):
    (step,), _ = walk(RULE, theta_of(seed=1), [tree(1, size)])
    (usual,), _ = walk(RULE, theta_of(seed=1), [tree(1)])
    for x, of_usual in zip(*map(jax.tree.leaves, (step, usual)), strict=True):
        # The network may answer to the small s, by not much.
        assert np.linalg.norm(x) <= 2.0 * np.linalg.norm(of_usual)


def test_zero_gradients_make_no_step():
    zero = jax.tree.map(jnp.zeros_like, tree(0))
    (step,), _ = walk(RULE, theta_of(seed=1), [zero])
    assert all(not np.any(x) for x in jax.tree.leaves(step))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_gradients_that_are_not_finite_count_as_zero(bad):
    theta = theta_of(seed=5)
    entry = (0, 1)

    def grads(value):
        changed = tree(2) | {"hidden": tree(2)["hidden"].at[entry].set(value)}
        changed["gain"] = jnp.full(4, value)
        return [tree(1), changed, tree(3)]

    got = walk(RULE, theta, grads(bad))
    jax.tree.map(np.testing.assert_array_equal, got, walk(RULE, theta, grads(0.0)))


def test_theta_and_horizon_may_be_mapped_over_and_steps_scanned():
    grads = [tree(1), tree(2)]
    thetas, horizons = [theta_of(seed=k) for k in (6, 7)], [4, 20]

    def stack(trees):
        return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)

    @jax.jit
    @jax.vmap
    def run(theta, num_steps):
        tx = RULE.transform(theta, mup=SCALINGS, num_steps=num_steps)

        def step(state, grads):
            updates, state = tx.update(grads, state)
            return state, updates

        return jax.lax.scan(step, tx.init(tree(99)), stack(grads))[1]

    together = run(stack(thetas), jnp.asarray(horizons))
    for i, (theta, num_steps) in enumerate(zip(thetas, horizons, strict=True)):
        alone, _ = walk(RULE, theta, grads, num_steps=num_steps)
        for name, want in stack(alone).items():
            np.testing.assert_allclose(together[name][i], want, rtol=1e-4, atol=1e-7)


def test_masked_and_empty_leaves_do_not_exist_for_the_others():
    theta = theta_of(seed=8)
    left_out = {"hidden": optax.MaskedNode(), "none": jnp.zeros((0, 4))}
    few = {name: tree(1)[name] for name in ("first", "gain")}

    @jax.jit
    def step(grads):
        tx = RULE.transform(theta, num_steps=10)
        return tx.update(grads, tx.init(grads))

    want, _ = step(few)
    got, state = step(few | left_out)
    for name in few:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6)
    assert got["hidden"] == state[1].rms["hidden"] == optax.MaskedNode()
    assert got["none"].shape == (0, 4)


def test_bfloat16_parameters_have_a_state_in_float32():
    theta = theta_of(seed=9)
    grads = jax.tree.map(lambda g: g.astype(jnp.bfloat16), tree(1))
    state = RULE.transform(theta, mup=SCALINGS, num_steps=10).init(grads)
    step = compiled(RULE)
    got, after, _ = step(theta, 10, grads, state, grads)
    wide = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    want, same, _ = step(theta, 10, wide, state, wide)
    for name in SHAPES:
        assert got[name].dtype == jnp.bfloat16
        rounded = want[name].astype(jnp.bfloat16)
        np.testing.assert_allclose(
            got[name].astype(jnp.float32), rounded.astype(jnp.float32), rtol=1e-2
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), after, same)
    assert {x.dtype.name for x in jax.tree.leaves(after)} == {"int32", "float32"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be finite and > 0, got 0.0"),
        ({"role_factors": (1.0, 2.0)}, "role_factors must be 4 numbers, one for each"),
        (
            {"initial_mix": (1.0,)},
            "initial_mix must be 4 numbers, one for the gradient",
        ),
        ({"initial_rms_decay": 1.0}, r"initial_rms_decay must lie in \[0, 1\)"),
        ({"mlp_units": -1}, "mlp_units must be an integer >= 1, got -1"),
        ({"schedule_units": 0}, "schedule_units must be an integer >= 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mulo.LearnedMuon(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"give num_steps, .*transform\(num_steps=10_000\), or schedule=None"),
        ({"num_steps": 0}, "num_steps of LearnedMuon must be a finite number >= 1"),
        ({"num_steps": 9, "schedule": "cosine"}, 'schedule must be "progress" or None'),
    ],
)
def test_a_run_of_unknown_length_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RULE.transform(theta_of(), mup=SCALINGS, **options)


def test_a_leaf_without_a_role_is_named():
    tx = RULE.transform(theta_of(), mup=SCALINGS, num_steps=10)
    with pytest.raises(ValueError, match="'extra' of the parameters has no μP scaling"):
        tx.init({**tree(0), "extra": jnp.zeros(3)})


def test_theta_of_another_architecture_is_refused():
    theta = mulo.LearnedMuon(schedule_units=4).init(jax.random.key(0))
    with pytest.raises(ValueError, match="theta leaf 'schedule/b0' must have shape"):
        RULE.transform(theta, num_steps=10)
