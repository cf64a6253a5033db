import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from mulo import mup
from mulo._learned import stacks

# Of two averages each: with three, programs compile for longer.
TWO: dict[str, Any] = {
    "hidden_layers": 1,
    "initial_momentum_decays": (0.9, 0.99),
    "initial_adafactor_decays": (0.9, 0.99),
}
RULES = {
    "small_fc in scalars": mulo.SmallFC(hidden_size=3, **TWO),
    "small_fc in matrices": mulo.SmallFC(hidden_size=20, **TWO),
    "celo2": mulo.Celo2(hidden_size=4, orthogonalize=False),
    "velo": mulo.VeLO(lstm_hidden_size=4, param_inits=3, step_mult=0.1),
}


def tree(seed):
    """Three matrices, vectors and scalars of a shape each, one of another, an empty."""
    rng = np.random.default_rng(seed)

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    alike = [{"w": array(3, 4), "b": array(5), "c": array()} for _ in range(3)]
    return {"alike": alike, "other": array(2, 6), "empty": array(0, 3)}


def two_steps(rule, theta, params):
    """Parameters and state after two steps, in a loop that is compiled once."""
    steps = {"num_steps": 100} if "num_steps" in rule_arguments(rule) else {}
    tx = rule.transform(theta, **steps)

    def one(carry, given):
        (params, state), (grads, loss) = carry, given
        updates, state = tx.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), None

    grads = jax.tree.map(lambda *x: jnp.stack(x), tree(1), tree(2))
    given = grads, jnp.array([1.0, 0.5])
    return jax.lax.scan(one, (params, tx.init(params)), given)[0]


def rule_arguments(rule):
    return type(rule).transform.__annotations__


def drawn_theta(rule):
    """Like a trained theta: nothing is zero."""
    leaves, treedef = jax.tree.flatten(jax.eval_shape(rule.init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return treedef.unflatten(
        [jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32) for x in leaves]
    )


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_tensors_of_one_shape_are_stepped_as_each_on_its_own(name, large, monkeypatch):
    rule, params = RULES[name], tree(0)
    theta = drawn_theta(rule)
    monkeypatch.setattr(stacks, "_MIN_COUNT", 3)
    if large:
        monkeypatch.setattr(stacks, "_MAX_SIZE", 4)
    together = jax.jit(lambda: two_steps(rule, theta, params))()
    monkeypatch.setattr(stacks, "_MIN_COUNT", 99)
    alone = jax.jit(lambda: two_steps(rule, theta, params))()
    moved = jax.tree.map(lambda x, y: jnp.abs(x - y), alone[0], params)
    assert all(jnp.max(x) > 0 for x in jax.tree.leaves(moved) if x.size)
    for got, want in zip(*map(jax.tree.leaves, (together, alone)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 8), (80, 80)])
@pytest.mark.parametrize("name", RULES)
def test_a_program_hardly_grows_with_the_number_of_tensors(name, shape):
    rule = RULES[name]
    theta = drawn_theta(rule)

    def operations(count):
        params = [jnp.zeros(shape)] * count
        steps = {"num_steps": 100} if "num_steps" in rule_arguments(rule) else {}
        tx = rule.transform(theta, **steps)
        update = jax.jit(lambda g, s, p: tx.update(g, s, p, value=jnp.ones(())))
        state = jax.eval_shape(tx.init, params)
        text = update.lower(params, state, params).as_text()
        return sum("stablehlo." in line for line in text.splitlines())

    assert operations(9) - operations(5) < 4 * 80


def stack_of(count, shape=(2,)):
    size = count * math.prod(shape)
    arrays = list(np.arange(size, dtype=np.float32).reshape(count, *shape))
    states = [{"s": x + 100} for x in arrays]
    (stack,) = stacks.stacks(arrays, arrays, states, range(count))
    return stack


@pytest.mark.parametrize("at_once", [None, 1, 4, 6, 100])
@pytest.mark.parametrize("count", [4, 7])
def test_a_stack_stepped_in_turns_keeps_its_order_and_length(count, at_once):
    def one(grad, param, state, own):
        return grad + param + state["s"], own

    stack = stack_of(count)
    outs = stacks.update(one, stack, np.arange(count), at_once=at_once)
    np.testing.assert_array_equal([x for x, _ in outs], 3 * stack.grads + 100)
    np.testing.assert_array_equal([own for _, own in outs], np.arange(count))


def test_large_tensors_are_stepped_in_turn_where_they_are():
    arrays = np.arange(5.0 * (stacks._MAX_SIZE + 1), dtype=np.float32).reshape(5, -1)
    tensors = tuple((x, x, {"s": x + 100}) for x in arrays)
    stack = stacks.Stack(tuple(range(5)), tensors)

    def one(grad, param, state, own):
        return grad + param + state["s"], own

    program = jax.make_jaxpr(lambda x: stacks.update(one, stack, x))(np.arange(5))
    assert "concatenate" not in str(program)
    outs = stacks.update(one, stack, np.arange(5))
    np.testing.assert_array_equal([x for x, _ in outs], 3 * arrays + 100)
    np.testing.assert_array_equal([own for _, own in outs], np.arange(5))


@pytest.mark.parametrize("devices", [1, 2])
def test_few_tensors_are_left_alone_and_large_ones_on_devices(devices, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    large = stacks._MAX_SIZE + 1

    def positions(sizes):
        found = []

        def sort(arrays):
            stacked = stacks.stacks(arrays, arrays, arrays, range(len(arrays)))
            found.extend(stack.positions for stack in stacked)
            return arrays

        jax.eval_shape(sort, [np.zeros(n, np.float32) for n in sizes])
        return found

    assert positions([2, 3, 2, 2, 2]) == [(0, 2, 3, 4), (1,)]
    assert positions([2, 2, 2]) == [(0,), (1,), (2,)]
    apart = [(0,), (1,), (2,), (3,)]
    assert positions([large] * 4) == ([(0, 1, 2, 3)] if devices == 1 else apart)


def test_matrices_seen_in_different_ways_are_kept_apart():
    # Of eight weights of one shape, four are 6 to 2 and four 2 to 6.
    rule = mulo.Celo2(hidden_size=2, orthogonalize=True)
    hidden = mup.Scaling(role="hidden", fan_in=6, fan_out=2)
    scalings = [
        hidden if i % 2 else dataclasses.replace(hidden, fan_in=2, fan_out=6)
        for i in range(8)
    ]
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=(2, 3, 2)), jnp.float32) for _ in range(8)]

    def step(params, scalings):
        tx: Any = rule.transform(drawn_theta(rule), mup=scalings)
        run = jax.jit(lambda p: tx.update(p, tx.init(p), p)[0])
        return run(params)

    together = step(params, scalings)
    for i in (0, 1):
        (alone,) = step(params[i : i + 1], scalings[i : i + 1])
        np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-6)


def test_shardings_are_kept_apart():
    mesh = jax.sharding.AbstractMesh(
        (2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,)
    )
    rule = RULES["small_fc in scalars"]

    def leaf(*spec):
        sharding = jax.NamedSharding(mesh, jax.P(*spec))
        return jax.ShapeDtypeStruct((4, 4), jnp.float32, sharding=sharding)

    params = [leaf("d", None) if i % 2 else leaf(None, "d") for i in range(8)]
    tx = rule.transform(drawn_theta(rule))
    with jax.sharding.use_abstract_mesh(mesh):
        steps = jax.eval_shape(lambda p: tx.update(p, tx.init(p), p)[0], params)
    assert [x.shape for x in steps] == [(4, 4)] * 8


def test_steps_have_a_derivative_with_respect_to_theta(monkeypatch):
    monkeypatch.setattr(stacks, "_MIN_COUNT", 3)
    rule = mulo.SmallFC(
        hidden_size=2,
        hidden_layers=1,
        initial_momentum_decays=(0.9,),
        initial_adafactor_decays=(0.9,),
    )
    theta, params = drawn_theta(rule), tree(0)
    direction = jax.tree.map(jnp.sign, theta)

    def moved(amount):
        along = jax.tree.map(lambda x, y: x + amount * y, theta, direction)
        after, _ = two_steps(rule, along, params)
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(after))

    of = jax.jit(jax.value_and_grad(moved))
    slope, (low, _), (high, _) = of(0.0)[1], of(-1e-2), of(1e-2)
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(slope, (high - low) / 2e-2, rtol=5e-2)
