import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import full_compile, small_fc_oracle

import mulo
from mulo import mup
from mulo._learned import accumulators

GOLDEN = pathlib.Path(__file__).parent / "golden"


def golden(case):
    """Arrays of a golden trajectory, grouped by kind, and its description."""
    groups = {}
    with np.load(GOLDEN / f"{case}.npz") as arrays:
        for path in arrays:
            kind, _, leaf = path.partition("/")
            groups.setdefault(kind, {})[leaf] = jnp.asarray(arrays[path])
    return groups, json.loads((GOLDEN / f"{case}.json").read_text())


def golden_theta(leaves):
    theta = {"nn": {}}
    for path, leaf in leaves.items():
        if path.startswith("nn/~/"):
            theta["nn"][path.removeprefix("nn/~/")] = leaf
        else:
            theta[path] = leaf
    return theta


def scalings_for(multipliers, params):
    """A μP tree whose base-1 multipliers are these numbers."""
    tree = {}
    for name, multiplier in multipliers.items():
        size = params[name].size
        fan_in = round(1 / multiplier)
        tree[name] = (
            mup.Scaling("input", 1, size)
            if multiplier == 1.0
            else mup.Scaling("hidden", fan_in, size // fan_in)
        )
    return tree


@pytest.mark.parametrize(
    "case", ["small_fc_lopt_hidden32", "small_fc_lopt_hidden4", "mulo_hidden32"]
)
def test_small_fc_follows_the_public_implementation_in_every_leaf_and_step(case):
    arrays, info = golden(case)
    rule = mulo.SmallFC(
        hidden_size=info["hidden_size"],
        hidden_layers=info["hidden_layers"],
        step_mult=info["step_mult"],
        exp_mult=info["exp_mult"],
    )
    start = params = arrays["params"]
    scalings = None
    if "update_multipliers" in info:
        scalings = scalings_for(info["update_multipliers"], params)
    tx = rule.transform(golden_theta(arrays["theta"]), mup=scalings)
    state = tx.init(params)
    update = full_compile.jit(tx.update)
    moved = dict.fromkeys(params, 0.0)
    for step in range(info["steps"]):
        grads = {name: g[step] for name, g in arrays["grads"].items()}
        updates, state = update(grads, state, params, value=arrays["loss"][""][step])
        params = optax.apply_updates(params, updates)
        for name, p in params.items():
            want = np.asarray(arrays["out"][name][step])
            moved[name] = max(moved[name], float(np.abs(want - start[name]).max()))
            tolerance = 2.4e-7 * np.maximum(np.abs(want), 1e-3) * (step + 1)
            error = np.abs(np.asarray(p) - want)
            assert np.all(error <= tolerance + 1e-4 * moved[name]), (name, step)


# Scalars and vectors together; both orders of the factored axes; axes before, between
# and after them; ties.
SMALL_SHAPES = {
    "scalar": (),
    "one": (1,),
    "vector": (7,),
    "tall": (9, 4),
    "wide": (4, 9),
    "square": (6, 6),
    "conv": (3, 3, 2, 4),
    "between": (5, 2, 7),
    "last": (7, 5, 2),
    "column": (5, 1),
}
# Blocks of rows with a rest, rows wider than a block, blocks under unfactored axes.
BLOCK_SHAPES = {"rest": (300, 130), "long_rows": (3, 20_000), "conv": (2, 2, 130, 135)}


def problem(shapes, seed=0):
    rng = np.random.default_rng(seed)

    def draw():
        return {
            n: jnp.asarray(rng.standard_normal(s), jnp.float32)
            for n, s in shapes.items()
        }

    return draw


@pytest.mark.parametrize(
    ("hidden_size", "hidden_layers", "shapes"),
    [  # The first two are written out in scalars, the others are matrix products.
        (8, 1, SMALL_SHAPES),
        (8, 3, {"wide": (4, 9)}),
        (20, 2, SMALL_SHAPES),
        (20, 2, BLOCK_SHAPES),
    ],
)
def test_small_fc_equals_its_straightforward_form(hidden_size, hidden_layers, shapes):
    rule = mulo.SmallFC(
        hidden_size=hidden_size, hidden_layers=hidden_layers, step_mult=0.05
    )
    theta = rule.init(jax.random.key(1))
    theta = jax.tree.map(
        lambda x: x + 0.05 * jax.random.normal(jax.random.key(2), x.shape), theta
    )
    draw = problem(shapes)
    params, reference = (draw(),) * 2
    tx = rule.transform(theta)
    state, reference_state = tx.init(params), small_fc_oracle.init(params)
    update = jax.jit(tx.update)
    want_of = jax.jit(small_fc_oracle.update, static_argnums=0)
    for step in range(4):
        grads = {n: 10.0 ** (step - 2) * g for n, g in draw().items()}
        if step == 2:
            grads = jax.tree.map(jnp.zeros_like, grads)
        updates, state = update(grads, state, params)
        want, reference_state = want_of(
            rule, theta, step, grads, reference_state, reference
        )
        for name, shape in shapes.items():
            assert updates[name].shape == shape
            scale = float(jnp.max(jnp.abs(want[name])))
            np.testing.assert_allclose(
                updates[name], want[name], rtol=2e-4, atol=2e-5 * scale, err_msg=name
            )
        params = optax.apply_updates(params, updates)
        reference = optax.apply_updates(reference, want)


def test_one_step_by_hand():
    # Two hidden units pass the normalized gradient, as relu(x) - relu(-x), to the
    # direction; a third carries the constant 1 to the magnitude.
    rule = mulo.SmallFC(hidden_size=3, hidden_layers=1, step_mult=0.5, exp_mult=0.1)
    theta = jax.tree.map(jnp.zeros_like, rule.init(jax.random.key(0)))
    theta["nn"]["w0"] = theta["nn"]["w0"].at[0, 0].set(1.0).at[0, 1].set(-1.0)
    theta["nn"]["b0"] = jnp.asarray([0.0, 0.0, 1.0])
    theta["nn"]["w1"] = jnp.asarray([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]])
    tx = rule.transform(theta)
    params = {"w": jnp.asarray([1.0, 1.0])}
    grads = {"w": jnp.asarray([3.0, -4.0])}
    updates, state = tx.update(grads, tx.init(params), params)
    # Mean square of the gradient (9 + 16) / 2 = 12.5; d = g / sqrt(12.5), m = 2.
    want = -0.5 * np.asarray([3.0, -4.0]) / math.sqrt(12.5 + 1e-5) * math.exp(0.2)
    np.testing.assert_allclose(updates["w"], want, rtol=1e-6)
    np.testing.assert_allclose(
        state.leaves.momentum["w"],
        [[0.3, -0.4], [0.03, -0.04], [0.003, -0.004]],
        rtol=2e-5,
    )  # 1 - 0.999 is off by 1.3e-5 in float32.
    np.testing.assert_allclose(state.leaves.rms["w"], [0.009, 0.016], rtol=1e-4)
    assert state.count == 1


def test_time_features_follow_the_step_count():
    rule = mulo.SmallFC(hidden_size=1, hidden_layers=1, step_mult=1.0)
    theta = jax.tree.map(jnp.zeros_like, rule.init(jax.random.key(0)))
    theta["nn"]["w0"] = theta["nn"]["w0"].at[28, 0].set(1.0)  # tanh(t / 1 - 1)
    theta["nn"]["b0"] = jnp.asarray([1.0])
    theta["nn"]["w1"] = jnp.asarray([[1.0, 0.0]])
    tx = rule.transform(theta)
    params = {"w": jnp.ones(())}
    state = tx.init(params)
    for step in range(3):
        updates, state = tx.update(params, state, params)
        np.testing.assert_allclose(updates["w"], -(1 + math.tanh(step - 1)), rtol=1e-6)


def test_mup_multiplies_the_update_of_hidden_matrices_only():
    params = problem({"in": (3, 16), "hidden": (16, 16), "out": (16, 2), "b": (16,)})()
    narrow = problem({"in": (3, 8), "hidden": (8, 8), "out": (8, 2), "b": (8,)})()
    grads = jax.tree.map(jnp.sin, params)
    rule = mulo.SmallFC(hidden_size=4, base_width=8.0)
    theta = rule.init(jax.random.key(0))
    plain = rule.transform(theta)
    scaled = rule.transform(theta, mup=mup.infer(narrow, params))
    want, got = (
        jax.jit(lambda g, p, tx=tx: tx.update(g, tx.init(p), p)[0])(grads, params)
        for tx in (plain, scaled)
    )
    for name, factor in {"in": 1.0, "hidden": 8 / 16, "out": 1.0, "b": 1.0}.items():
        np.testing.assert_allclose(got[name], factor * want[name], rtol=1e-6)


def test_decays_keep_their_published_parametrization():
    theta = mulo.SmallFC().init(jax.random.key(0))
    rates = mulo.SmallFC().decay_rates(theta)
    np.testing.assert_allclose(rates.momentum, [0.9, 0.99, 0.999], rtol=1e-6)
    # The offsets of the public μLO checkpoint and the decays they stand for.
    theta["momentum_decays"] = jnp.asarray([0.15216392, 0.14245212, 0.06812963])
    theta["adafactor_decays"] = jnp.asarray([0.18621896, -0.10864615, -0.06185547])
    rates = mulo.SmallFC().decay_rates(theta)
    np.testing.assert_allclose(rates.momentum, [0.542027, 0.958441, 0.998024], 1e-5)
    np.testing.assert_allclose(rates.adafactor, [0.356218, 0.996626, 0.999461], 1e-5)
    theta["rms_decays"] = jnp.asarray([2.0])
    theta["momentum_decays"] = jnp.asarray([2.0, 0.0, 0.0])
    rates = mulo.SmallFC().decay_rates(theta)
    assert rates.rms[0] == 0.0
    assert rates.momentum[0] < 0.0  # Not clipped, as in the public code.


def test_initial_theta_has_the_published_sizes():
    theta = mulo.SmallFC(hidden_size=32).init(jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(theta["nn"])) == 2402
    theta4 = mulo.SmallFC(hidden_size=4).init(jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(theta4["nn"])) == 232 - 42
    weights = np.asarray(theta["nn"]["w0"])
    assert np.abs(weights).max() <= 2.0 / math.sqrt(39)
    np.testing.assert_allclose(weights.std(), 0.88 / math.sqrt(39), rtol=0.1)


def test_theta_may_be_vmapped_over():
    rule = mulo.SmallFC(hidden_size=4)
    thetas = jax.vmap(rule.init)(jax.random.split(jax.random.key(0), 3))
    params = problem({"w": (6, 5), "b": (5,)})()

    @jax.jit
    def step(theta):
        tx = rule.transform(theta)
        return tx.update(params, tx.init(params), params)[0]

    together = jax.vmap(step)(thetas)
    for i in range(3):
        alone = step(jax.tree.map(lambda x, i=i: x[i], thetas))
        for name in params:
            np.testing.assert_allclose(together[name][i], alone[name], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be an integer >= 1, got 0"),
        ({"hidden_layers": 1.5}, "hidden_layers must be an integer"),
        ({"step_mult": float("nan")}, "step_mult must be finite and > 0, got nan"),
        ({"initial_rms_decays": (1.0,)}, r"initial_rms_decays must lie in \[0, 1\)"),
        ({"initial_rms_decays": (0.9, 0.99)}, "initial_rms_decays must be one"),
        ({"initial_adafactor_decays": (0.9,)}, "as many as initial_momentum_decays"),
    ],
)
def test_a_bad_architecture_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mulo.SmallFC(**arguments)


def test_a_theta_of_another_architecture_is_refused_by_leaf():
    theta = mulo.SmallFC(hidden_size=4).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"'nn/b0' must have shape \(32,\)"):
        mulo.SmallFC(hidden_size=32).transform(theta)
    del theta["nn"]["w1"]
    with pytest.raises(ValueError, match="lacks leaf 'nn/w1'"):
        mulo.SmallFC(hidden_size=4).transform(theta)


def test_an_update_without_parameters_is_refused():
    rule = mulo.SmallFC(hidden_size=4)
    tx = rule.transform(rule.init(jax.random.key(0)))
    params = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match="SmallFC reads the parameters"):
        tx.update(params, tx.init(params))


def test_row_and_column_roles_use_a_stable_sort():
    # Square axes tie: the later one is d0, so rows are indexed by the earlier.
    of = accumulators.Factoring.of
    assert of((5, 5)).rows_along_a
    assert of((4, 9)).rows_along_a
    assert not of((9, 4)).rows_along_a
    assert of((64, 64, 3, 3)).order == (2, 3, 0, 1)
    assert of((7,)) is None


def test_what_overflows_in_one_array_stays_there_and_empty_arrays_are_left_alone():
    rule = mulo.SmallFC(hidden_size=4)
    tx = rule.transform(rule.init(jax.random.key(0)))
    params = {"a": jnp.ones(3), "b": jnp.ones(3), "none": jnp.ones((5, 0))}
    grads = params | {"a": jnp.full(3, 1e25), "b": jnp.asarray([1.0, 2.0, 3.0])}
    updates, state = tx.update(grads, tx.init(params), params)
    only = {"b": params["b"]}
    alone, _ = tx.update({"b": grads["b"]}, tx.init(only), only)
    np.testing.assert_allclose(updates["b"], alone["b"], rtol=1e-6)
    assert updates["none"].shape == (5, 0)
    assert np.all(np.isfinite(state.leaves.momentum["b"]))
