import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mulo import adam, adamw, mup
from mulo._transforms.float32 import in_float32
from mulo.mup import Scaling

# Base width 2: the hidden matrix steps by 2/8, all else by 1.
MUP = {
    "in": Scaling("input", 3, 8),
    "mid": Scaling("hidden", 8, 8),
    "out": Scaling("output", 8, 2),
    "bias": Scaling("input", 1, 8),
    "scale": Scaling("input", 1, 1, finite=True),
}
SIZES = {"in": (3, 8), "mid": (8, 8), "out": (8, 2), "bias": (8,), "scale": ()}
FACTORS = {"in": 1.0, "mid": 0.25, "out": 1.0, "bias": 1.0, "scale": 1.0}

both = pytest.mark.parametrize("make", [adam, adamw])


def random_tree(seed, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), len(SIZES))
    return {
        name: jax.random.normal(key, size, dtype)
        for key, (name, size) in zip(keys, SIZES.items(), strict=True)
    }


def one_update(tx: Any, grads: Any, params: Any) -> Any:
    return tx.update(grads, tx.init(params), params)[0]


def run(tx: Any, params: Any, num_steps=3, **extra) -> Any:
    state = tx.init(params)
    updates, dtype = {}, params["in"].dtype
    for step in range(num_steps):
        grads = random_tree(step + 1, dtype)
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params, updates, state


def test_one_step_of_adam_by_hand():
    tx = adam(0.1, mup=MUP, base_width=2.0)
    params, grads = random_tree(0), random_tree(1)
    updates = one_update(tx, grads, params)
    for name, g in grads.items():
        # First step: both moments, bias-corrected, are g and g².
        expected = -0.1 * FACTORS[name] * np.asarray(g) / (np.abs(g) + 1e-8)
        np.testing.assert_allclose(updates[name], expected, rtol=1e-5)


@pytest.mark.parametrize("rule", ["independent", "coupled"])
def test_one_step_of_adamw_by_hand(rule):
    tx = adamw(0.1, mup=MUP, base_width=2.0, weight_decay=0.5, weight_decay_rule=rule)
    params, grads = random_tree(0), random_tree(1)
    updates = one_update(tx, grads, params)
    for name, g in grads.items():
        decay = 0.5 * (FACTORS[name] if rule == "coupled" else 1.0)
        step = FACTORS[name] * np.sign(g) + decay * np.asarray(params[name])
        np.testing.assert_allclose(updates[name], -0.1 * step, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "learning_rate", "rule"),
    [
        (jnp.float32, 0.01, "independent"),
        (jnp.bfloat16, 0.01, "coupled"),
        (jnp.float32, optax.linear_schedule(0.1, 0.0, 5), "coupled"),
    ],
)
def test_equals_optax_exactly_where_multipliers_are_one(dtype, learning_rate, rule):
    params = random_tree(0, dtype)
    decayed = {"weight_decay": 0.1, "weight_decay_rule": rule}
    for scalings, base_width in ((None, 1.0), (MUP, 8.0)):
        ours = run(adam(learning_rate, mup=scalings, base_width=base_width), params)
        theirs = run(in_float32(optax.adam(learning_rate)), params)
        jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])
        ours = run(
            adamw(learning_rate, mup=scalings, base_width=base_width, **decayed),
            params,
        )
        public = optax.adamw(learning_rate, weight_decay=0.1)
        theirs = run(in_float32(public), params)
        jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])


def test_equals_optax_exactly_on_every_leaf_but_hidden_ones():
    params = random_tree(0)
    ours = run(adam(0.01, mup=MUP, base_width=1.0), params)[0]
    theirs = run(optax.adam(0.01), params)[0]
    for name in SIZES:
        same = bool((ours[name] == theirs[name]).all())
        assert same == (name != "mid")


@both
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("jit", [False, True])
def test_keeps_shape_and_dtype_and_ignores_unknown_arguments(make, dtype, jit):
    tx = make(0.01, mup=MUP, base_width=2.0)
    params = random_tree(0, dtype)
    update = jax.jit(tx.update) if jit else tx.update
    updates, state = update(
        params, tx.init(params), params, value=jnp.float32(1.0), something=2.0
    )
    assert jax.tree.map(lambda u: (u.shape, u.dtype), updates) == jax.tree.map(
        lambda p: (p.shape, p.dtype), params
    )
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


@both
def test_second_step_does_not_compile_again(make):
    tx = make(optax.constant_schedule(0.01), mup=MUP, base_width=2.0)
    params = random_tree(0)
    traces = []

    @jax.jit
    def update(grads, state, params):
        traces.append(None)
        return tx.update(grads, state, params)

    updates, state = update(params, tx.init(params), params)
    update(updates, state, params)
    assert len(traces) == 1


@both
def test_masked_leaves_and_branches_pass_through(make):
    tx = make(0.01, mup={"net": MUP, "frozen": MUP}, base_width=2.0)
    params = {"net": random_tree(0), "frozen": random_tree(1)}
    whole = one_update(tx, params, params)
    for mask in (
        {"net": True, "frozen": False},
        {"net": True, "frozen": dict.fromkeys(SIZES, False)},
    ):
        masked = optax.masked(tx, mask)
        updates = one_update(masked, params, params)
        jax.tree.map(np.testing.assert_array_equal, updates["net"], whole["net"])
        # optax.masked hands masked updates through as they came.
        jax.tree.map(np.testing.assert_array_equal, updates["frozen"], params["frozen"])


@both
def test_partition_takes_one_tree_of_scalings(make):
    labels = dict.fromkeys(SIZES, "ours") | {"bias": "sgd"}
    parts: Any = {"ours": make(0.01, mup=MUP, base_width=2.0), "sgd": optax.sgd(0.5)}
    params = random_tree(0)
    updates = run(optax.partition(parts, labels), params, 1)[1]
    alone = run(parts["ours"], params, 1)[1]
    np.testing.assert_array_equal(updates["mid"], alone["mid"])
    np.testing.assert_allclose(updates["bias"], -0.5 * random_tree(1)["bias"])


def test_mask_of_adamw_spares_leaves():
    mask = {name: len(size) > 1 for name, size in SIZES.items()}
    params = random_tree(0)
    options = {"mup": MUP, "base_width": 2.0}
    plain = run(adam(0.01, **options), params, 1)[1]
    given = run(adamw(0.01, weight_decay=0.1, mask=mask, **options), params, 1)[1]
    for name, decays in mask.items():
        assert bool((plain[name] == given[name]).all()) != decays


@both
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_hyperparameters_can_be_injected_and_changed(make, dtype):
    # optax casts what it injects to the parameters' dtype; 0.999 is 1 in bfloat16.
    static = ("b1", "b2") if dtype == jnp.bfloat16 else ()
    inject = optax.inject_hyperparams(make, static_args=static)
    injected = inject(0.01, mup=MUP, base_width=2.0)
    params = random_tree(0, dtype)
    ours, _, state = run(injected, params)
    theirs = run(make(0.01, mup=MUP, base_width=2.0), params)[0]
    tolerance = 1e-6 if dtype == jnp.float32 else 0.02
    for name in SIZES:
        assert ours[name].dtype == dtype
        np.testing.assert_allclose(
            ours[name].astype(np.float32),
            theirs[name].astype(np.float32),
            rtol=tolerance,
            atol=tolerance,
        )
    before = jax.jit(injected.update)(params, state, params)[0]
    state.hyperparams["base_width"] = jnp.asarray(4.0, dtype)
    after = jax.jit(injected.update)(params, state, params)[0]
    if make is adam:  # The other decays weights too.
        np.testing.assert_array_equal(after["mid"], 2 * before["mid"])
    np.testing.assert_array_equal(after["in"], before["in"])
    assert (after["mid"] != before["mid"]).all()


@both
def test_works_inside_chain_and_multisteps(make):
    tx = make(0.01, mup=MUP, base_width=2.0)
    chained = optax.chain(optax.clip_by_global_norm(1e9), tx)
    accumulated = optax.MultiSteps(tx, every_k_schedule=2)
    params, grads = random_tree(0), random_tree(1)
    expected, _ = tx.update(grads, tx.init(params), params)
    got, _ = chained.update(grads, chained.init(params), params, value=1.0)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    state = accumulated.init(params)
    first, state = accumulated.update(grads, state, params)
    second, _ = accumulated.update(grads, state, params)
    jax.tree.map(lambda u: np.testing.assert_array_equal(u, np.zeros_like(u)), first)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-8),
        second,
        expected,
    )


def test_a_wider_network_takes_smaller_hidden_steps():
    def hidden_step(width):
        shapes = [{"w": jnp.ones((n, n))} for n in (4, width)]
        tx = adam(1.0, mup=mup.infer(*shapes), base_width=1.0)
        return float(one_update(tx, shapes[1], shapes[1])["w"][0, 0])

    assert hidden_step(8) == pytest.approx(-1 / 8, rel=1e-4)
    assert hidden_step(64) == pytest.approx(-1 / 64, rel=1e-4)


@both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": jnp.zeros(2)}, "'extra' of the parameters has no μP scaling"),
        ({"mid": jnp.zeros((16, 16))}, "'mid' has 256 entries.*another width"),
    ],
)
def test_scalings_of_another_model_are_an_error_that_names_the_leaf(
    make, change, message
):
    tx = make(0.01, mup=MUP, base_width=2.0)
    with pytest.raises(ValueError, match=message):
        tx.init(random_tree(0) | change)


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match=r"must be one of independent, coupled; got"):
        adamw(0.1, mup=MUP, base_width=1.0, weight_decay_rule="decoupled")  # pyrefly: ignore[bad-argument-type]
    with pytest.raises(ValueError, match="base_width must be finite and > 0, got -1"):
        adam(0.1, mup=MUP, base_width=-1)
    tx = adamw(0.1, mup=MUP, base_width=1.0)
    with pytest.raises(ValueError, match="params"):
        tx.update(random_tree(1), tx.init(random_tree(0)))
