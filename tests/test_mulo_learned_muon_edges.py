"""LearnedMuon on odd gradients and leaves, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.learned_muon_parts import (
    RULE,
    SCALINGS,
    SHAPES,
    compiled,
    theta_of,
    tree,
    walk,
)

import mulo


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
