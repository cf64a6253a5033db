"""Adapters by what they promise, with small stand-ins where the peer would be."""

import abc
import sys
import types

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.interop_parts import PARAMS, loss_reader, rule_of, theta_of

import mulo
from meta_train import rules
from mulo import interop


@pytest.fixture
def peer(monkeypatch):
    """The two base classes of learned_optimization that are derived from."""

    class LearnedOptimizer(abc.ABC):
        @abc.abstractmethod
        def init(self, key): ...

        @abc.abstractmethod
        def opt_fn(self, theta, is_training=False): ...

    class Optimizer(abc.ABC):  # noqa: B024
        def get_params(self, state):
            return state.params

        def get_state(self, state):
            return state.state

        def set_params(self, state, params):
            return state.replace(params=params)

    name = "learned_optimization"
    modules = {name: types.ModuleType(name)}
    for part, cls in (
        ("learned_optimizers", LearnedOptimizer),
        ("optimizers", Optimizer),
    ):
        modules[f"{name}.{part}"] = types.ModuleType(part)
        modules[f"{name}.{part}.base"] = base = types.ModuleType("base")
        setattr(base, cls.__name__, cls)
    for module, stub in modules.items():
        monkeypatch.setitem(sys.modules, module, stub)
    return types.SimpleNamespace(LearnedOptimizer=LearnedOptimizer, Optimizer=Optimizer)


@pytest.fixture
def no_peer(monkeypatch):
    for module in [m for m in sys.modules if m.startswith("learned_optimization")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "learned_optimization", None)


@pytest.mark.parametrize("name", rules.names())
def test_a_wrapped_rule_takes_the_steps_of_its_transform(name, peer):
    rule = rule_of(name)
    theta = theta_of(rule)
    needs = mulo.optimizers.info(name).needs_num_steps
    lopt = interop.learned_optimizer(rule)
    opt = lopt.opt_fn(theta, is_training=True)
    assert isinstance(lopt, peer.LearnedOptimizer)
    assert isinstance(opt, peer.Optimizer)
    assert lopt.name == opt.name == type(rule).__name__

    @jax.jit
    def both(grads, num_steps):
        def transform(num_steps):
            horizon = {"num_steps": num_steps} if needs else {}
            return rule.transform(theta, **horizon)

        def one(carry, step):
            params, state, wrapped = carry
            tx = transform(wrapped.num_steps)  # To the last bit: the same expressions.
            scaled = jax.tree.map(lambda g: g * (1.0 + step), grads)
            loss = 2.0 / (1.0 + step)
            updates, state = tx.update(scaled, state, params, value=loss)
            wrapped = opt.update(wrapped, scaled, loss=loss, key=jax.random.key(1))
            return (optax.apply_updates(params, updates), state, wrapped), None

        wrapped = opt.init(PARAMS, num_steps=num_steps, key=jax.random.key(0))
        start = PARAMS, transform(num_steps).init(PARAMS), wrapped
        return jax.lax.scan(one, start, jnp.arange(2.0))[0]

    params, state, wrapped = both(jax.tree.map(jnp.cos, PARAMS), 7)
    assert wrapped.iteration == 2
    assert wrapped.num_steps == 7
    got = opt.get_params(wrapped)
    for leaf, start in PARAMS.items():
        assert np.any(got[leaf] != start)
        np.testing.assert_array_equal(got[leaf], params[leaf])
    jax.tree.map(np.testing.assert_array_equal, wrapped.opt_state, state)


@pytest.mark.parametrize(
    "name", [n for n in rules.names() if mulo.optimizers.info(n).needs_num_steps]
)
def test_a_rule_that_needs_the_horizon_says_so_when_it_is_missing(name, peer):
    rule = rule_of(name)
    opt = interop.learned_optimizer(rule).opt_fn(theta_of(rule))
    with pytest.raises(ValueError, match="give num_steps"):
        opt.init(PARAMS)


def test_a_rule_that_needs_the_loss_refuses_an_update_without(peer):
    rule = rule_of("lstm_ff")
    opt = interop.learned_optimizer(rule).opt_fn(theta_of(rule))
    with pytest.raises(ValueError, match="loss"):
        opt.update(opt.init(PARAMS), PARAMS)


def test_is_valid_reaches_the_rule_that_has_a_use_for_it(peer):
    rule = rule_of("lstm_ff")
    opt = interop.learned_optimizer(rule).opt_fn(theta_of(rule))

    @jax.jit
    def after(params):
        start = opt.init(params)
        return [
            opt.get_params(opt.update(start, params, loss=1.0, is_valid=valid))
            for valid in (False, True)
        ]

    train, valid = after(PARAMS)
    assert np.any(train["w"] != PARAMS["w"])
    np.testing.assert_array_equal(valid["w"], PARAMS["w"])


def test_mup_reaches_the_rule(peer):
    rule = mulo.LearnedAdam()
    theta = rule.init(jax.random.key(0))
    scalings = {
        "w": mulo.mup.Scaling("hidden", 3, 2),
        "b": mulo.mup.Scaling("input", 1, 2),
    }

    def moved(mup):
        opt = interop.learned_optimizer(rule, mup=mup).opt_fn(theta)
        state = opt.update(opt.init(PARAMS), PARAMS, loss=1.0)
        return jax.tree.map(lambda a, b: a - b, opt.get_params(state), PARAMS)

    plain, scaled = moved(None), moved(scalings)
    np.testing.assert_allclose(scaled["w"], plain["w"] / 3, rtol=1e-3)
    np.testing.assert_array_equal(scaled["b"], plain["b"])


def test_an_optax_transformation_is_told_the_loss_where_it_reads_it(peer):
    for tx, want in ((loss_reader(), -3.0), (optax.sgd(0.5), -0.5)):
        opt = interop.optimizer(tx, name="this")
        assert isinstance(opt, peer.Optimizer)
        assert opt.name == "this"
        state = opt.init(PARAMS, {"mean": 1.0}, num_steps=3, key=jax.random.key(0))
        assert opt.get_state(state) == {"mean": 1.0}
        state = opt.update(state, PARAMS, loss=3.0, model_state={"mean": 2.0})
        assert opt.get_state(state) == {"mean": 2.0}
        np.testing.assert_allclose(
            opt.get_params(state)["w"], (1.0 + want) * PARAMS["w"], rtol=1e-6
        )
        moved = opt.set_params(state, {"w": 0.0})
        assert opt.get_params(moved) == {"w": 0.0}
        assert moved.iteration == 1


def test_flax_serialization_holds_the_state_as_the_peers_checkpoints_do(peer):
    opt = interop.optimizer(optax.adam(1e-3))
    state = opt.update(opt.init(PARAMS, num_steps=5), PARAMS, loss=1.0)
    content = flax.serialization.to_bytes(state)
    back = flax.serialization.from_bytes(opt.init(PARAMS, num_steps=5), content)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)


@pytest.mark.parametrize("make", [interop.learned_optimizer, interop.optimizer])
def test_without_the_peer_the_error_says_how_to_add_it(make, no_peer):
    given = mulo.SmallFC() if make is interop.learned_optimizer else optax.sgd(0.1)
    with pytest.raises(ImportError, match="pip install --no-deps git") as caught:
        make(given)
    assert "PYTHONPATH" in str(caught.value)


def test_a_release_too_old_for_this_jax_is_told_from_none(
    tmp_path, monkeypatch, no_peer
):
    folder = tmp_path / "learned_optimization" / "optimizers"
    folder.mkdir(parents=True)
    (folder / "base.py").write_text("import jax\njax.removed_long_ago\n")
    monkeypatch.delitem(sys.modules, "learned_optimization")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    with pytest.raises(ImportError, match="too old for this JAX"):
        interop.optimizer(optax.sgd(0.1))
    for name in set(sys.modules) - before:
        del sys.modules[name]  # For good: monkeypatch would put it back.
