"""What optax's users expect of any transformation, for all of ours: one list."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from mulo import mup

SHAPES = {
    "scalar": (),
    "b": (6,),
    "w": (6, 6),
    "out": (6, 3),
    "conv": (2, 2, 6, 6),
    "row3": (2, 6, 6),
}
NARROW = {
    "scalar": (),
    "b": (4,),
    "w": (4, 4),
    "out": (4, 3),
    "conv": (2, 2, 4, 4),
    "row3": (2, 4, 4),
}


def shapes(sizes):
    return {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in sizes.items()}


SCALINGS = mup.infer(shapes(NARROW), shapes(SHAPES))
RULE = mulo.SmallFC(hidden_size=4, step_mult=0.1)
THETA = RULE.init(jax.random.key(0))
PRETRAINED = mulo.Pretrained(RULE, THETA, {})

TRANSFORMS = {
    "small_fc": lambda: RULE.transform(THETA),
    "mulo": lambda: RULE.transform(THETA, mup=SCALINGS),
    "pretrained": lambda: PRETRAINED.transform(
        mup=SCALINGS, learning_rate=optax.constant_schedule(0.5), weight_decay=0.01
    ),
    "mu_adam": lambda: mulo.mu_adam(0.01, mup=SCALINGS, base_width=4),
    "mu_adamw": lambda: mulo.mu_adamw(
        optax.constant_schedule(0.01), mup=SCALINGS, base_width=4, weight_decay=0.1
    ),
    "mu_sgd": lambda: mulo.mu_sgd(0.01, mup=SCALINGS, base_width=4, momentum=0.9),
}


@pytest.fixture(params=list(TRANSFORMS))
def tx(request):
    return TRANSFORMS[request.param]()


@pytest.fixture(params=["float32", "bfloat16"])
def params(request):
    return draw(0, request.param)


def draw(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.standard_normal(s), dtype) for k, s in SHAPES.items()}


def test_shapes_dtypes_and_state_structure_are_kept_in_a_scan(tx, params):
    grads = jax.tree.map(jnp.sin, params)

    @jax.jit
    def run(params, state):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(grads, state, params, value=1.0)
            return (optax.apply_updates(params, updates), state), updates

        return jax.lax.scan(step, (params, state), length=3)

    (new, state), updates = run(params, tx.init(params))
    for name, p in params.items():
        assert new[name].shape == p.shape
        assert new[name].dtype == p.dtype
        assert updates[name].dtype == p.dtype
        assert np.all(np.isfinite(np.asarray(new[name], np.float32)))
        assert np.any(np.asarray(new[name] != p))
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


def test_the_second_step_does_not_compile_again(tx, params):
    traces = 0

    @jax.jit
    def step(grads, state, params):
        nonlocal traces
        traces += 1
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(3):
        params, state = step(params, state, params)
    assert traces == 1


def test_jit_and_eager_agree(tx):
    params, grads = draw(0), draw(1)
    eager, _ = tx.update(grads, tx.init(params), params)
    jitted, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    for name in params:
        np.testing.assert_allclose(jitted[name], eager[name], rtol=1e-4, atol=1e-7)


def test_unknown_keyword_arguments_are_ignored(tx):
    params, grads = draw(0), draw(1)
    plain, _ = tx.update(grads, tx.init(params), params)
    extra, _ = tx.update(
        grads, tx.init(params), params, value=3.0, loss=3.0, grad=grads, other="x"
    )
    for name in params:
        np.testing.assert_array_equal(plain[name], extra[name])


def test_masked_leaves_stay_as_they_are_and_do_not_touch_the_others(tx):
    params, grads = draw(0), draw(1)
    mask = {name: name not in ("w", "b") for name in params}
    masked = optax.masked(tx, mask)
    got, state = jax.jit(masked.update)(grads, masked.init(params), params, value=1.0)
    got, state = jax.jit(masked.update)(grads, state, params, value=1.0)
    want, _ = tx.update(grads, tx.init(params), params)
    want, _ = tx.update(grads, tx.update(grads, tx.init(params), params)[1], params)
    for name in params:
        if mask[name]:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-7)
        else:
            np.testing.assert_array_equal(got[name], grads[name])


def test_chain_multisteps_and_inject_hyperparams_wrap_it(tx):
    params, grads = draw(0), draw(1)
    direct, _ = tx.update(grads, tx.init(params), params)
    chained = optax.chain(optax.clip_by_global_norm(1e9), tx, optax.scale(0.5))
    half, _ = chained.update(grads, chained.init(params), params, value=1.0)
    accumulated = optax.MultiSteps(tx, every_k_schedule=2)
    state = accumulated.init(params)
    nothing, state = accumulated.update(grads, state, params)
    whole, state = accumulated.update(grads, state, params)

    def make(scale):
        return optax.chain(tx, optax.scale(scale))

    injected = optax.inject_hyperparams(make)(scale=0.25)
    state = injected.init(params)
    quarter, state = injected.update(grads, state, params)
    for name in params:
        np.testing.assert_allclose(half[name], 0.5 * direct[name], rtol=1e-5)
        np.testing.assert_array_equal(nothing[name], 0.0)
        np.testing.assert_allclose(whole[name], direct[name], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(quarter[name], 0.25 * direct[name], rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["mulo", "pretrained", "mu_adam", "mu_adamw", "mu_sgd"]
)
def test_mu_rules_refuse_parameters_their_tree_does_not_know(name):
    tx = TRANSFORMS[name]()
    params = draw(0) | {"extra": jnp.ones(3)}
    with pytest.raises(ValueError, match="extra"):
        tx.update(params, tx.init(params), params)


def test_an_empty_tree_is_fine_without_a_mu_tree():
    tx = TRANSFORMS["small_fc"]()
    updates, state = tx.update({}, tx.init({}), {})
    assert updates == {}
    assert state.count == 1
