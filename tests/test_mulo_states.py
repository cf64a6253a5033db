"""States that any loop can carry, for every name: dtypes, structure, tree utilities."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.contract_parts import FEW, NAMES, SCALINGS, SMALL, draw, make, theta_for
from jax.sharding import PartitionSpec

import mulo

FEW_SCALINGS = {name: SCALINGS[name] for name in FEW}
HAND_DESIGNED = [name for name in NAMES if not mulo.optimizers.info(name).learned]
LEARNED = [name for name in NAMES if mulo.optimizers.info(name).learned]
# Arguments of factories that decide shapes or programs, not numbers.
STATIC = (
    "mup",
    "block_size",
    "max_precondition_dim",
    "exponent",
    "min_dim_size_to_factor",
    "ns_steps",
    "warmup_steps",
    "mask",
)


def typed(tree):
    """Structure, shapes and dtypes."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(x.shape, x.dtype) for x in leaves]


def after_one_step(tx, params):
    """State before and after, shapes and dtypes alone."""
    before = jax.eval_shape(tx.init, params)
    _, after = jax.eval_shape(
        lambda p, s: tx.update(p, s, p, value=1.0), params, before
    )
    return before, after


@pytest.mark.parametrize("name", NAMES)
def test_an_nnx_optimizer_keeps_its_structure_also_around_multi_steps(name):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    tx = make(name, None)

    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean(m(jnp.ones((4, 3))) ** 2))(
            model
        )
        optimizer.update(model, grads, value=loss)
        return optimizer

    for wrapped in (tx, optax.MultiSteps(tx, 2)):
        optimizer = nnx.Optimizer(model, wrapped, wrt=nnx.Param)
        after = nnx.eval_shape(step, model, optimizer)
        assert jax.tree.structure(nnx.state(after)) == jax.tree.structure(
            nnx.state(optimizer)
        )


@pytest.mark.parametrize("name", NAMES)
def test_tree_utilities_find_the_copies_of_the_parameters(name):
    tx = make(name, FEW_SCALINGS)
    params = draw(0, names=FEW)
    specs = {leaf: PartitionSpec(leaf) for leaf in FEW}

    def found(tx):
        seen = []
        state = jax.eval_shape(tx.init, params)
        marked = optax.tree.map_params(
            tx,
            lambda x, spec: seen.append(spec) or x,
            state,
            specs,
            is_leaf=lambda x: isinstance(x, optax.MaskedNode),
        )
        assert jax.tree.structure(marked) == jax.tree.structure(state)
        # Without more trees, as well.
        optax.tree.map_params(tx, lambda x: x, state)
        # All the stacks of SOAP or Shampoo are one thing that is no parameter.
        optax.tree.map_params(
            tx,
            lambda x: x,
            state,
            transform_non_params=lambda x: jax.tree.map(jnp.zeros_like, x),
        )
        return len(seen)

    plain = found(tx)
    # Plain SGD has no moments, and stacks of leaves are no copies.
    assert (plain == 0) == (name in ("sgd", "soap", "shampoo"))
    assert found(optax.masked(tx, {"w": True, "b": False})) == plain
    scaled = optax.inject_hyperparams(lambda x: optax.chain(tx, optax.scale(x)))
    assert found(scaled(x=0.5)) == plain
    assert found(optax.contrib.mechanize(tx)) == plain + len(FEW)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_states_of_low_precision_parameters_are_float32_and_stay_so(name, dtype):
    before, after = after_one_step(make(name, None), draw(0, dtype, FEW))
    assert typed(before) == typed(after)
    floats = [x.dtype for x in jax.tree.leaves(before) if x.dtype.kind not in "iub"]
    assert set(floats) <= {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", HAND_DESIGNED)
def test_low_precision_steps_are_the_rounded_float32_steps(name):
    # Zeros, where an eps of 1e-8 is zero in float16, and averages that move by less
    # than a bfloat16 can show.
    tx = make(name, None, learning_rate=1.0)

    @jax.jit
    def run(params):
        def step(state, t):
            grads = jax.tree.map(
                lambda p: jnp.where(t < 20, 1.0, 0.0).astype(p.dtype) * p, params
            )
            updates, state = tx.update(grads, state, params)
            return state, updates

        return jax.lax.scan(step, tx.init(params), jnp.arange(40))[1]

    for dtype, rtol in (("float16", 1e-3), ("bfloat16", 8e-3)):
        params = draw(0, dtype, FEW)
        got = run(params)
        want = run(jax.tree.map(lambda p: p.astype(jnp.float32), params))
        for leaf in FEW:
            assert got[leaf].dtype == dtype
            np.testing.assert_allclose(
                got[leaf].astype(jnp.float32), want[leaf], rtol=rtol, atol=1e-5
            )


@pytest.mark.parametrize("name", LEARNED)
def test_a_theta_of_another_dtype_is_cast_or_refused_by_name(name):
    theta = theta_for(name, SMALL.get(name, {}))
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), theta)
    params = draw(0, names=FEW)
    tx = make(name, None, theta=rounded)
    before, after = after_one_step(tx, params)
    assert typed(before) == typed(after)
    back = jax.tree.map(lambda x: x.astype(jnp.float32), rounded)
    assert typed(before) == typed(
        after_one_step(make(name, None, theta=back), params)[0]
    )
    counts = jax.tree.map(lambda x: x.astype(jnp.int32), theta)
    with pytest.raises(ValueError, match=r"theta leaf '.*' must be of a real floating"):
        make(name, None, theta=counts)


@pytest.mark.parametrize(
    "name", [n for n in HAND_DESIGNED if n not in ("sgd", "adam")] + ["learned_adam"]
)
def test_weight_decay_takes_a_schedule_or_none(name):
    params = draw(0, names=FEW)

    def two_steps(count):
        return jnp.where(count < 2, 0.3, 0.0)

    def second_step(weight_decay):
        tx = make(name, FEW_SCALINGS, weight_decay=weight_decay)
        _, state = tx.update(params, tx.init(params), params, value=1.0)
        return tx.update(params, state, params, value=1.0)[0]["w"]

    @jax.jit
    def steps():
        return [second_step(decay) for decay in (two_steps, 0.3, None, 0.0)]

    schedule, constant, none, zero = steps()
    np.testing.assert_allclose(schedule, constant, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(none, zero, rtol=1e-6, atol=1e-8)
    assert np.max(np.abs(schedule - none)) > 1e-4


@pytest.mark.parametrize("name", HAND_DESIGNED)
def test_injected_hyperparams_keep_the_states_structure(name):
    make_it = mulo.optimizers.info(name).make
    taken = inspect.signature(make_it).parameters
    static = tuple(argument for argument in STATIC if argument in taken)
    size = {"block_size": 4} if "block_size" in taken else {}
    options = {"mup": FEW_SCALINGS, **size}
    params = draw(0, names=FEW)
    plain = make_it(0.1, **options)
    injected = optax.inject_hyperparams(make_it, static_args=static)(0.1, **options)
    want = jax.eval_shape(plain.init, params)
    got = jax.eval_shape(injected.init, params)
    assert typed(got.inner_state) == typed(want)
    _, after = jax.eval_shape(injected.update, params, got, params)
    assert typed(after) == typed(got)


def test_hyperparams_are_injected_through_the_registry():
    params = draw(0, names=FEW)
    inject = optax.inject_hyperparams(mulo.optimizers.get, static_args="name")
    tx = inject(name="adam", learning_rate=0.1, b1=0.5)
    state = tx.init(params)
    state.hyperparams["learning_rate"] = jnp.float32(0.2)
    got, _ = tx.update(params, state, params)
    plain = mulo.optimizers.get("adam", learning_rate=0.2, b1=0.5)
    want, _ = plain.update(params, plain.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    with pytest.raises(ValueError, match="no hyper-parameter 'b3'"):
        inject(name="adam", learning_rate=0.1, b3=0.5).init(params)


@pytest.mark.parametrize("make_it", [mulo.soap, mulo.shampoo])
def test_a_traced_base_width_gives_the_same_steps(make_it):
    params = draw(0, names=FEW)
    shared = {"mup": FEW_SCALINGS, "block_size": None, "weight_decay": 0.0}

    @jax.jit
    def steps(width):
        out = []
        for base_width in (width, 3.0):
            tx = make_it(0.1, base_width=base_width, **shared)
            _, state = tx.update(params, tx.init(params))
            out.append(tx.update(params, state)[0]["w"])
        return out

    np.testing.assert_allclose(*steps(3.0), rtol=1e-5)


def test_blocks_counted_at_a_traced_width_are_refused():
    with pytest.raises(ValueError, match=r"base_width must be known .* static_args"):
        jax.eval_shape(
            lambda w: mulo.shampoo(
                0.1, mup=FEW_SCALINGS, base_width=w, grafting="none", block_size=4
            ).init(draw(0, names=FEW)),
            1.0,
        )


@pytest.mark.parametrize("name", ["celo_adam", "learned_muon"])
def test_horizons_beyond_float32_are_as_long_as_it_goes(name):
    params = draw(0, names=("b",))

    @jax.jit
    def steps():
        made = [make(name, None, num_steps=n) for n in (3e38, 1e300, 10**400)]
        return [
            tx.update(params, tx.init(params), params, value=1.0)[0]["b"] for tx in made
        ]

    longest, *beyond = steps()
    assert np.all(np.isfinite(longest))
    for step in beyond:
        np.testing.assert_allclose(step, longest, rtol=1e-5)


def test_arrays_of_more_entries_than_int32_counts_have_a_step():
    large = {"w": jax.ShapeDtypeStruct((65_536, 40_000), jnp.bfloat16)}
    for name in ("small_fc", "lstm_ff"):
        before, after = after_one_step(make(name, None), large)
        assert typed(before) == typed(after)
