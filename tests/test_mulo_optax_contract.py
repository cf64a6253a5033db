"""What optax's users expect of any transformation, for every name of the registry."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.contract_parts import BY_ROLE, BY_SHAPE, FEW, NAMES, SCALINGS, draw, make

import mulo
from mulo import mup


@pytest.fixture(params=NAMES)
def tx(request):
    return make(request.param)


@pytest.fixture(params=NAMES)
def tx_of_few(request):
    """For a matrix and a vector, where much is compiled."""
    return make(request.param, {name: SCALINGS[name] for name in FEW})


@pytest.mark.parametrize(
    ("parametrization", "dtype"), [("standard", "bfloat16"), ("mup", "float32")]
)
@pytest.mark.parametrize("name", NAMES)
def test_shapes_dtypes_and_state_are_kept_in_a_scan(name, parametrization, dtype):
    tx = make(name, SCALINGS if parametrization == "mup" else None)
    params = draw(0, dtype)
    grads = jax.tree.map(jnp.sin, params)

    @jax.jit
    def run(params, state):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(grads, state, params, value=1.0)
            return (optax.apply_updates(params, updates), state), updates

        return jax.lax.scan(step, (params, state), length=3)

    (new, state), updates = run(params, tx.init(params))
    for leaf, p in params.items():
        assert new[leaf].shape == p.shape
        assert new[leaf].dtype == p.dtype
        assert updates[leaf].dtype == p.dtype
        assert np.all(np.isfinite(np.asarray(new[leaf], np.float32)))
        assert np.any(np.asarray(updates[leaf], np.float32) != 0)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


def test_the_second_step_does_not_compile_again_and_the_state_can_be_donated(tx):
    params, traces = draw(0), 0

    @functools.partial(jax.jit, donate_argnames="state")
    def step(grads, state, params):
        nonlocal traces
        traces += 1
        updates, state = tx.update(grads, state, params, value=1.0)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(3):
        params, state = step(params, state, params)
    assert traces == 1
    step(params, tx.init(params), params)  # Theta was not donated along.


def test_jit_and_eager_agree_and_unknown_keyword_arguments_are_ignored(tx_of_few):
    tx = tx_of_few
    params, grads = draw(0, names=FEW), draw(1, names=FEW)
    eager, _ = tx.update(grads, tx.init(params), params, value=3.0)

    @jax.jit
    def jitted(grads, state, params):
        extra = {"grad": grads, "other": "x"}
        return tx.update(grads, state, params, loss=3.0, **extra)

    got, _ = jitted(grads, tx.init(params), params)
    for name in params:
        np.testing.assert_allclose(got[name], eager[name], rtol=2e-4, atol=1e-7)


def test_masked_leaves_stay_as_they_are_and_do_not_touch_the_others(tx):
    params, grads = draw(0), draw(1)
    mask = {name: name not in ("w", "b") for name in params}
    masked = optax.masked(tx, mask)
    update = jax.jit(lambda *args: masked.update(*args, value=1.0))
    got, state = update(grads, masked.init(params), params)
    got, state = update(grads, state, params)
    # What it would do with the others alone, which is what masking means.
    others = {name: optax.MaskedNode() if not mask[name] else None for name in params}

    def keep(tree):
        return {k: x if others[k] is None else others[k] for k, x in tree.items()}

    alone = jax.jit(lambda *args: tx.update(*args, value=1.0))
    want, inner = alone(keep(grads), tx.init(keep(params)), keep(params))
    want, inner = alone(keep(grads), inner, keep(params))
    for name in params:
        if mask[name]:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-7)
        else:
            np.testing.assert_array_equal(got[name], grads[name])
            assert want[name] == optax.MaskedNode()


def test_chain_multisteps_and_inject_hyperparams_wrap_it(tx_of_few):
    params, grads = draw(0, names=FEW), draw(1, names=FEW)

    def steps(tx):
        """The updates of two steps."""

        @jax.jit
        def run(params):
            state = tx.init(params)
            first, state = tx.update(grads, state, params, value=1.0)
            return first, tx.update(grads, state, params, value=1.0)[0]

        return run(params)

    tx = tx_of_few
    direct, second = steps(tx)
    halves = steps(optax.chain(optax.clip_by_global_norm(1e9), tx, optax.scale(0.5)))
    nothing, whole = steps(optax.MultiSteps(tx, every_k_schedule=2))

    def scaled(scale):
        return optax.chain(tx, optax.scale(scale))

    quarters = steps(optax.inject_hyperparams(scaled)(scale=0.25))
    for name in params:
        np.testing.assert_allclose(halves[0][name], 0.5 * direct[name], 1e-4, 1e-8)
        np.testing.assert_allclose(halves[1][name], 0.5 * second[name], 1e-4, 1e-8)
        np.testing.assert_array_equal(nothing[name], 0.0)
        np.testing.assert_allclose(whole[name], direct[name], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(quarters[0][name], 0.25 * direct[name], 1e-4, 1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_where_all_multipliers_are_one_the_mup_form_is_the_standard_form(name):
    # Square matrices at the base width. Of one size, so that one program steps them.
    roles = ("hidden",) if name in BY_ROLE else get_args(mup.Role)
    scalings = {role: mup.Scaling(role, 6, 6) for role in roles}
    width = {"base_width": 6.0} if name in BY_SHAPE else {}
    standard = make(name, None, **mulo.optimizers.info(name).mup_defaults, **width)
    mu = make(name, scalings, base_width=6.0)

    def drawn(seed):
        rng = np.random.default_rng(seed)
        values = rng.standard_normal((len(roles), 6, 6), np.float32)
        return dict(zip(roles, jnp.asarray(values), strict=True))

    params = drawn(0)

    @jax.jit
    def both(grads, states):
        pairs = zip((standard, mu), states, strict=True)
        return [tx.update(grads, state, params, value=2.0) for tx, state in pairs]

    states = [tx.init(params) for tx in (standard, mu)]
    for step in range(1, 4):
        pairs = both(drawn(step), states)
        states = [state for _, state in pairs]
        want, got = (updates for updates, _ in pairs)
        for role in roles:
            np.testing.assert_allclose(got[role], want[role], rtol=1e-5, atol=1e-8)
            assert step == 1 or np.any(want[role] != 0)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_that_is_no_number_does_what_the_registry_says(name):
    tx = make(name, None)
    params, grads = draw(0), draw(1)
    bad = grads | {"w": grads["w"].at[0, 1].set(jnp.nan)}
    update = jax.jit(lambda *args: tx.update(*args, value=1.0))
    _, state = update(grads, tx.init(params), params)  # SOAP's first step is skipped.
    got, after = update(bad, state, params)
    later, _ = update(grads, after, params)
    for leaf in params:
        if leaf != "w":
            assert np.all(np.isfinite(got[leaf]))
            assert np.all(np.isfinite(later[leaf]))
    policy = mulo.optimizers.info(name).non_finite
    if policy == "stays in its leaf":
        assert np.isnan(got["w"]).any()
    else:
        assert np.all(np.isfinite(later["w"]))
        assert np.any(later["w"] != 0)
        assert (np.max(np.abs(got["w"])) == 0) == (policy == "skips its leaf")


@pytest.mark.parametrize("name", NAMES)
def test_empty_trees_and_empty_leaves_are_left_alone(name):
    tx = make(name, None)
    updates, _ = tx.update({}, tx.init({}), {}, value=1.0)
    assert updates == {}
    params = {
        "none": jnp.ones((0, 5)),
        "no": jnp.ones((5, 0)),
        "b": jnp.ones(3),
        "w": jnp.ones((2, 3)),
    }
    update = jax.jit(lambda *args: tx.update(*args, value=1.0))
    state = tx.init(params)
    for _ in range(2):
        updates, state = update(params, state, params)
    assert updates["none"].shape == (0, 5)
    assert np.all(np.isfinite(updates["w"]))
    assert np.any(updates["b"] != 0)


@pytest.mark.parametrize("dtype", ["int32", "complex64"])
@pytest.mark.parametrize("name", NAMES)
def test_leaves_that_are_not_real_floats_are_refused_by_name(name, dtype):
    params = {"b": jnp.ones(3), "counts": jnp.ones(3, dtype)}
    with pytest.raises(ValueError, match=f"'counts' is {dtype}"):
        make(name, None).init(params)


@pytest.mark.parametrize("name", NAMES)
def test_mu_rules_refuse_parameters_their_tree_does_not_know(name):
    params = draw(0) | {"extra": jnp.ones(3)}
    tx = make(name)
    with pytest.raises(ValueError, match="extra"):
        tx.update(params, tx.init(params), params, value=1.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_that_reads_the_loss_says_so_when_it_gets_none(name):
    tx = make(name)
    params = draw(0)
    state = tx.init(params)
    if mulo.optimizers.info(name).needs_loss:
        with pytest.raises(ValueError, match="value=loss"):
            tx.update(params, state, params)
    else:
        jax.eval_shape(tx.update, params, state, params)


@pytest.mark.parametrize("name", NAMES)
def test_with_x64_states_keep_their_dtypes_and_those_of_learned_rules_are_float32(name):
    with jax.enable_x64(True):
        tx = make(name, None)
        params = draw(0, "float32", FEW)
        update = jax.jit(lambda *args: tx.update(*args, value=1.0))
        state = tx.init(params)
        updates, new = update(params, state, params)
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), tuple(jax.tree.leaves(new)))
    if mulo.optimizers.info(name).learned:
        assert all(leaf.dtype != jnp.float64 for leaf in jax.tree.leaves(state))
    assert shapes == tuple((x.shape, x.dtype) for x in jax.tree.leaves(state))
    assert all(u.dtype == jnp.float32 for u in updates.values())
