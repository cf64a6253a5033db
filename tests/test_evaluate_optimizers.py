import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from evaluate.optimizers import names, random_thetas

RULE = mulo.SmallFC(hidden_size=4)
PRETRAINED = mulo.Pretrained(RULE, RULE.init(jax.random.key(0)), {})
PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, 0.2])}
GRADS = {"w": jnp.array([[0.1, 0.2], [-0.3, 0.4]]), "b": jnp.array([1.0, -1.0])}
SCALINGS = mulo.mup.infer({"w": jnp.zeros((1, 1)), "b": jnp.zeros(1)}, PARAMS)


@functools.cache
def random_theta(rule):
    with jax.ensure_compile_time_eval():  # No part of a program that asks for it.
        return random_thetas.pretrained(rule)


def built(name, rate, scalings=None, **changes):
    spec = names.get(name)
    pretrained = random_theta(spec.rule or "mulo") if spec.learned else None
    return names.build(
        name, rate, scalings=scalings, pretrained=pretrained, num_steps=10, **changes
    )


def second_update(transform):
    """SOAP's first update is zero."""
    state = transform.init(PARAMS)
    loss = jnp.asarray(1.0)
    _, state = transform.update(GRADS, state, PARAMS, value=loss)
    return transform.update(GRADS, state, PARAMS, value=loss)[0]


@pytest.mark.parametrize("name", list(names.SPECS))
def test_a_traced_learning_rate_gives_the_same_update(name):
    scalings = None if names.get(name).standard else SCALINGS

    def updates(rate):
        """Two, in a loop that is compiled once."""
        transform = built(name, rate, scalings)

        def step(state, _):
            found, state = transform.update(GRADS, state, PARAMS, value=1.0)
            return state, found

        return jax.lax.scan(step, transform.init(PARAMS), length=2)[1]

    expected, found = jax.jit(lambda: updates(0.01))(), jax.jit(updates)(0.01)
    # Schedule-free's update is a difference of parameters: one ulp of 3 is 2.4e-7.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=3e-7),
        found,
        expected,
    )
    assert all(np.abs(leaf[1]).max() > 0 for leaf in jax.tree.leaves(found))


def test_every_rule_has_a_name_under_each_parametrization():
    for rule in mulo.optimizers.names():
        assert names.get(rule).standard
        assert not names.get(f"mu_{rule}").standard
    assert not names.get("mulo").standard


def test_hyper_parameters_arrive_as_the_rule_wants_them():
    spec = names.get("mu_soap_blocked")
    assert spec.hyper["block_size"] == 16
    hyper = names.resolve_hyper(spec.name, {"block_size": 2.0})
    assert type(hyper["block_size"]) is int
    found = second_update(built("mu_soap_blocked", 0.01, SCALINGS, hyper=hyper))
    rule = mulo.soap(0.01, mup=SCALINGS, block_size=2)
    _, state = rule.update(GRADS, rule.init(PARAMS), PARAMS)
    expected, _ = rule.update(GRADS, state, PARAMS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, expected
    )


def test_adamw_is_optax_adamw_with_the_given_decay():
    transform = optax.adamw(0.01, weight_decay=0.3)
    _, state = transform.update(GRADS, transform.init(PARAMS), PARAMS)
    expected, _ = transform.update(GRADS, state, PARAMS)
    found = second_update(built("adamw", 0.01, hyper={"weight_decay": 0.3}))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), found, expected)


def test_the_learning_rate_of_a_learned_optimizer_multiplies_its_step():
    for name in ("mulo", "celo2_base"):  # The second takes the rate in other units.
        update = jax.jit(lambda rate, name=name: second_update(built(name, rate)))
        once, twice = update(1.0), update(2.0)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-5), once, twice
        )


def test_unknown_names_get_the_nearest_and_the_list():
    with pytest.raises(
        ValueError, match=r"mulo, .*; got 'mu_adm'; did you mean 'mu_adam'"
    ):
        names.get("mu_adm")


def test_unknown_hyper_parameters_get_the_nearest():
    with pytest.raises(ValueError, match=r"adamw\.weightdecay .*'weight_decay'"):
        names.resolve_hyper("adamw", {"weightdecay": 0.1})


def test_learned_optimizers_without_theta_are_an_error():
    with pytest.raises(ValueError, match=r"'mulo' needs a theta; give --theta"):
        names.build("mulo", 1.0, scalings=None)


def test_the_fingerprint_depends_on_theta_and_on_the_rule():
    same = mulo.Pretrained(RULE, jax.tree.map(jnp.copy, PRETRAINED.theta), {"x": 1})
    assert names.fingerprint(same) == names.fingerprint(PRETRAINED)
    moved = jax.tree.map(lambda x: x + 1e-6, PRETRAINED.theta)
    changed = dataclasses.replace(RULE, step_mult=0.5)
    others = [mulo.Pretrained(RULE, moved, {})]
    others.append(mulo.Pretrained(changed, PRETRAINED.theta, {}))
    for other in others:
        assert names.fingerprint(other) != names.fingerprint(PRETRAINED)
