import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from mulo import mup

SHAPES = {"in": (3, 16), "w": (16, 16), "up": (16, 64), "out": (16, 2), "b": (16,)}
NARROW = {"in": (3, 8), "w": (8, 8), "up": (8, 32), "out": (8, 2), "b": (8,)}


def draw(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {
        k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()
    }


SCALINGS = mup.infer(draw(0, NARROW), draw(0))

# Ours without a μP tree, and optax's.
PAIRS = {
    "sgd": (mulo.sgd(0.1), optax.sgd(0.1)),
    "momentum": (
        mulo.sgd(0.1, momentum=0.9, nesterov=True),
        optax.sgd(0.1, 0.9, nesterov=True),
    ),
    "nadamw": (mulo.nadamw(0.1), optax.nadamw(0.1)),
    "lion": (
        mulo.lion(optax.constant_schedule(0.1), weight_decay=0.2),
        optax.lion(optax.constant_schedule(0.1), weight_decay=0.2),
    ),
    "adafactor": (
        mulo.adafactor(0.1, min_dim_size_to_factor=4, momentum=0.5, weight_decay=0.1),
        optax.adafactor(
            0.1, min_dim_size_to_factor=4, momentum=0.5, weight_decay_rate=0.1
        ),
    ),
    "muon": (
        mulo.muon(0.1, weight_decay=0.1, adam_learning_rate=0.01, consistent_rms=0.2),
        optax.contrib.muon(
            0.1, weight_decay=0.1, adam_learning_rate=0.01, consistent_rms=0.2
        ),
    ),
    "schedule_free_adamw": (
        mulo.schedule_free_adamw(0.1, warmup_steps=2, weight_decay=0.1),
        optax.contrib.schedule_free_adamw(0.1, warmup_steps=2, weight_decay=0.1),
    ),
}


def updates_of(tx, steps=3):
    """Updates of the last of a few steps that do not depend on earlier updates."""
    state, update = tx.init(draw(0)), jax.jit(tx.update)
    for step in range(1, steps):
        _, state = update(draw(step), state, draw(0))
    return update(draw(steps), state, draw(0))[0]


@pytest.mark.parametrize("name", list(PAIRS))
def test_without_a_mup_tree_the_rule_is_optax_own(name):
    ours, theirs = (updates_of(tx) for tx in PAIRS[name])
    for leaf in SHAPES:
        np.testing.assert_array_equal(ours[leaf], theirs[leaf])


# Base width 8, so i = 2 and o = 2 (8 for "up").
MULTIPLIERS = {
    "sgd": (
        lambda **mu: mulo.sgd(0.1, momentum=0.9, **mu),
        {"in": 2.0, "w": 1.0, "up": 4.0, "out": 2.0, "b": 2.0},
    ),
    "nadamw": (
        lambda **mu: mulo.nadamw(0.1, weight_decay=0.0, **mu),
        {"in": 1.0, "w": 0.5, "up": 0.5, "out": 1.0, "b": 1.0},
    ),
    "lion": (
        lambda **mu: mulo.lion(0.1, weight_decay=0.0, **mu),
        {"in": 1.0, "w": 0.5, "up": 0.5, "out": 1.0, "b": 1.0},
    ),
    "adafactor": (
        lambda **mu: mulo.adafactor(0.1, momentum=0.9, **mu),
        {"in": 1.0, "w": 0.5**0.5, "up": 0.5**0.5, "out": 1.0, "b": 1.0},
    ),
    "adafactor without parameter scale": (
        lambda **mu: mulo.adafactor(0.1, multiply_by_parameter_scale=False, **mu),
        {"in": 1.0, "w": 0.5, "up": 0.5, "out": 1.0, "b": 1.0},
    ),
}


@pytest.mark.parametrize("name", list(MULTIPLIERS))
def test_with_a_mup_tree_every_step_is_multiplied_as_its_optimizer_needs(name):
    make, factors = MULTIPLIERS[name]
    plain, scaled = updates_of(make()), updates_of(make(mup=SCALINGS, base_width=8))
    for leaf, factor in factors.items():
        np.testing.assert_allclose(scaled[leaf], factor * plain[leaf], rtol=1e-5)


def test_muon_under_mup_replaces_optax_scale_and_leaves_the_rest_to_adam():
    tx = mulo.muon(0.1, mup=SCALINGS, base_width=8, adam_learning_rate=0.01)
    got = updates_of(tx)
    theirs = updates_of(optax.contrib.muon(0.1))
    adam = updates_of(optax.adam(0.01, nesterov=True))  # As optax's Muon does.
    for leaf in ("in", "out", "b"):
        np.testing.assert_allclose(got[leaf], adam[leaf], rtol=1e-5)
    # √(o/i) for both; optax has √(fan_out/fan_in), here the same.
    np.testing.assert_allclose(got["w"], theirs["w"], rtol=1e-5)
    np.testing.assert_allclose(got["up"], theirs["up"], rtol=1e-5)
    # To root mean square 0.2, and then √(o/i)/√max(o, i).
    tx = mulo.muon(0.1, mup=SCALINGS, base_width=8, consistent_rms=0.2)
    got = updates_of(tx)
    theirs = updates_of(optax.contrib.muon(0.1, consistent_rms=0.2))
    np.testing.assert_allclose(got["w"], theirs["w"] / math.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(got["up"], theirs["up"] / math.sqrt(2), rtol=1e-5)


def test_muon_under_mup_orthogonalizes_attention_as_fan_in_by_fan_out():
    params = draw(0, {"q": (8, 2, 4), "proj": (2, 4, 8), "stack": (3, 8, 8)})
    narrow = draw(0, {"q": (4, 2, 2), "proj": (2, 2, 4), "stack": (3, 4, 4)})
    grads = draw(1, {"q": (8, 2, 4), "proj": (2, 4, 8), "stack": (3, 8, 8)})
    copies = {"stack": mup.Scaling("hidden", 8, 8, copies=3)}
    tx = mulo.muon(1.0, mup=mup.infer(narrow, params, overrides=copies), ns_steps=10)
    updates, _ = tx.update(grads, tx.init(params), params)
    for name, shape in {"q": (8, 8), "proj": (8, 8), "stack": (3, 8, 8)}.items():
        singular = np.linalg.svd(np.reshape(updates[name], shape), compute_uv=False)
        assert np.all((singular > 0.6) & (singular < 1.25)), name


def test_schedule_free_under_mup_averages_iterates_of_scaled_steps():
    tx = mulo.schedule_free_adamw(0.1, mup=SCALINGS, base_width=8, b1=0.9)
    params = draw(0)
    state, iterate, average = tx.init(params), params, params
    nu = jax.tree.map(jnp.zeros_like, params)
    for step in range(1, 4):
        grads = draw(step)
        updates, state = tx.update(grads, state, params)
        nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, nu, grads)
        factor = {"in": 1.0, "w": 0.5, "up": 0.5, "out": 1.0, "b": 1.0}
        for name in SHAPES:
            root = jnp.sqrt(nu[name] / (1 - 0.999**step)) + 1e-8
            iterate = iterate | {
                name: iterate[name] - 0.1 * factor[name] * grads[name] / root
            }
            average = average | {
                name: average[name] + (iterate[name] - average[name]) / step
            }
        params = optax.apply_updates(params, updates)
        evaluated = optax.contrib.schedule_free_eval_params(state, params)
        for name in SHAPES:
            np.testing.assert_allclose(
                evaluated[name], average[name], rtol=1e-3, atol=1e-4
            )


@pytest.mark.parametrize("make", [mulo.nadamw, mulo.lion, mulo.muon])
def test_weight_decay_is_independent_of_the_multiplier_or_coupled_to_it(make):
    def decay(**options):
        tx = make(0.1, mup=SCALINGS, base_width=8, weight_decay=0.5, **options)
        none = make(0.1, mup=SCALINGS, base_width=8, weight_decay=0.0, **options)
        with_it, without = updates_of(tx), updates_of(none)
        return with_it["up"] - without["up"]

    p = draw(0)["up"]
    factor = 2.0 if make is mulo.muon else 0.5
    np.testing.assert_allclose(decay(), -0.05 * p, atol=1e-6)
    np.testing.assert_allclose(
        decay(weight_decay_rule="coupled"), -0.05 * factor * p, atol=1e-6
    )
    with pytest.raises(ValueError, match="weight_decay_rule must be one of"):
        make(0.1, weight_decay_rule="other")


@pytest.mark.parametrize("optimizer", mup.OPTIMIZERS)
def test_a_traced_base_width_gives_the_same_multipliers(optimizer):
    grads = draw(0)

    def scaled(width):
        tx = mulo.scale_by_mup(SCALINGS, optimizer=optimizer, base_width=width)
        return tx.update(grads, tx.init(grads))[0]

    want, got = scaled(8.0), jax.jit(scaled)(8.0)
    for name in grads:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5)
