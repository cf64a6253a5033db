"""What optax's users expect of any transformation, for every name of the registry."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.contract_parts import (
    BY_ROLE,
    BY_SHAPE,
    FEW,
    NAMES,
    SCALINGS,
    SHAPES,
    draw,
    make,
)

import mulo
from mulo import mup

ALL = tuple(SHAPES)


@functools.cache
def compiled(name, names, parametrization):
    """A transformation compiled once for all tests, and a list as long as its traces.

    It donates its states.
    """
    scalings = {leaf: SCALINGS[leaf] for leaf in names}
    tx, traces = make(name, scalings if parametrization == "mup" else None), []

    @functools.partial(jax.jit, donate_argnames="state")
    def update(grads, state, params, **extra):
        traces.append(name)
        return tx.update(grads, state, params, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update), traces


@pytest.mark.parametrize(
    ("parametrization", "dtype", "names"),
    [
        ("standard", "bfloat16", ("scalar", "b", "w", "conv")),
        ("mup", "float32", ALL),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_shapes_dtypes_and_state_are_kept_in_a_scan(
    name, parametrization, dtype, names
):
    tx, _ = compiled(name, names, parametrization)
    params = draw(0, dtype, names)
    grads = jax.tree.map(jnp.sin, params)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grads, state, params, value=1.0)
        return (optax.apply_updates(params, updates), state), updates

    new, state = carry = params, tx.init(params)
    structure = jax.tree.structure(state)
    # Refused if not of the types they had.
    jax.eval_shape(lambda carry: jax.lax.scan(step, carry, length=3), carry)
    for _ in range(3):
        (new, state), updates = step((new, state), None)
        for leaf, p in params.items():
            assert updates[leaf].dtype == p.dtype
    for leaf, p in params.items():
        assert new[leaf].shape == p.shape
        assert new[leaf].dtype == p.dtype
        assert np.all(np.isfinite(np.asarray(new[leaf], np.float32)))
        assert np.any(np.asarray(updates[leaf], np.float32) != 0)
    assert jax.tree.structure(state) == structure


@pytest.mark.parametrize("name", NAMES)
def test_the_second_step_does_not_compile_again_and_the_state_can_be_donated(name):
    tx, traces = compiled(name, ALL, "mup")
    params = draw(0)
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(params, state, params, value=1.0)
        params = optax.apply_updates(params, updates)
    assert len(traces) == 1  # By all tests: these trees are of the same types.
    tx.update(
        params, tx.init(params), params, value=1.0
    )  # Theta was not donated along.


@pytest.mark.parametrize("name", NAMES)
def test_jit_and_eager_agree_and_unknown_keyword_arguments_are_ignored(name):
    tx, _ = compiled(name, FEW, "mup")
    params, grads = draw(0, names=FEW), draw(1, names=FEW)
    got, _ = tx.update(grads, tx.init(params), params, value=3.0)
    eager = make(name, {leaf: SCALINGS[leaf] for leaf in FEW})
    extra = {"grad": grads, "other": "x"}
    want, _ = eager.update(grads, eager.init(params), params, loss=3.0, **extra)
    for leaf in params:
        np.testing.assert_allclose(got[leaf], want[leaf], rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_masked_leaves_stay_as_they_are_and_do_not_touch_the_others(name):
    names = ("scalar", "b", "w", "out")
    tx, _ = compiled(name, names, "mup")
    params, grads = draw(0, names=names), draw(1, names=names)
    mask = {leaf: leaf not in ("w", "b") for leaf in names}
    masked = optax.masked(tx, mask)
    got, state = masked.update(grads, masked.init(params), params, value=1.0)
    got, state = masked.update(grads, state, params, value=1.0)

    # What it would do with the others alone, which is what masking means.
    def keep(tree):
        return {k: x if mask[k] else optax.MaskedNode() for k, x in tree.items()}

    alone = keep(grads), tx.init(keep(params)), keep(params)
    want, inner = tx.update(*alone, value=1.0)
    want, inner = tx.update(keep(grads), inner, keep(params), value=1.0)
    for leaf in params:
        if mask[leaf]:
            np.testing.assert_allclose(got[leaf], want[leaf], rtol=1e-4, atol=1e-7)
        else:
            np.testing.assert_array_equal(got[leaf], grads[leaf])
            assert want[leaf] == optax.MaskedNode()


@pytest.mark.parametrize("name", NAMES)
def test_chain_multisteps_and_inject_hyperparams_wrap_it(name):
    tx, _ = compiled(name, FEW, "mup")
    params, grads = draw(0, names=FEW), draw(1, names=FEW)

    def steps(tx):
        """The updates of two steps."""
        state = tx.init(params)
        first, state = tx.update(grads, state, params, value=1.0)
        return first, tx.update(grads, state, params, value=1.0)[0]

    direct, second = steps(tx)
    halves = steps(optax.chain(optax.clip_by_global_norm(1e9), tx, optax.scale(0.5)))
    multi = optax.MultiSteps(tx, every_k_schedule=2)
    update = jax.jit(multi.update)  # It makes new functions for a cond at every step.
    nothing, whole = steps(optax.GradientTransformationExtraArgs(multi.init, update))

    def scaled(scale):
        return optax.chain(tx, optax.scale(scale))

    quarters = steps(optax.inject_hyperparams(scaled)(scale=0.25))
    for leaf in params:
        np.testing.assert_allclose(halves[0][leaf], 0.5 * direct[leaf], 1e-4, 1e-8)
        np.testing.assert_allclose(halves[1][leaf], 0.5 * second[leaf], 1e-4, 1e-8)
        np.testing.assert_array_equal(nothing[leaf], 0.0)
        np.testing.assert_allclose(whole[leaf], direct[leaf], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(quarters[0][leaf], 0.25 * direct[leaf], 1e-4, 1e-8)


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
    tx, _ = compiled(name, ALL, "mup")
    params, grads = draw(0), draw(1)
    bad = grads | {"w": grads["w"].at[0, 1].set(jnp.nan)}
    update = functools.partial(tx.update, value=1.0)
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
