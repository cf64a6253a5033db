import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from evaluate import optimizers

RULE = mulo.SmallFC(hidden_size=4)
PRETRAINED = mulo.Pretrained(RULE, RULE.init(jax.random.key(0)), {})
PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, 0.2])}
GRADS = {"w": jnp.array([[0.1, 0.2], [-0.3, 0.4]]), "b": jnp.array([1.0, -1.0])}


def first_update(name, rate, **changes):
    transform = optimizers.build(
        name, rate, scalings=None, pretrained=PRETRAINED, **changes
    )
    state = transform.init(PARAMS)
    return transform.update(GRADS, state, PARAMS, value=jnp.asarray(1.0))[0]


@pytest.mark.parametrize("name", list(optimizers.SPECS))
def test_a_traced_learning_rate_gives_the_same_update(name):
    expected = first_update(name, 0.01)
    found = jax.jit(lambda rate: first_update(name, rate))(0.01)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-9),
        found,
        expected,
    )
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(found))


def test_adamw_is_optax_adamw_with_the_given_decay():
    transform = optax.adamw(0.01, weight_decay=0.3)
    expected, _ = transform.update(GRADS, transform.init(PARAMS), PARAMS)
    found = first_update("adamw", 0.01, hyper={"weight_decay": 0.3})
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), found, expected)


def test_the_learning_rate_of_a_learned_optimizer_multiplies_its_step():
    once, twice = first_update("mulo", 1.0), first_update("mulo", 2.0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-5), once, twice
    )


def test_unknown_names_get_the_nearest_and_the_list():
    with pytest.raises(ValueError, match=r"sgd; got 'mu_adm'; did you mean 'mu_adam'"):
        optimizers.get("mu_adm")


def test_unknown_hyper_parameters_get_the_nearest():
    with pytest.raises(ValueError, match=r"adamw\.weightdecay .*'weight_decay'"):
        optimizers.resolve_hyper("adamw", {"weightdecay": 0.1})


def test_learned_optimizers_without_theta_are_an_error():
    with pytest.raises(ValueError, match=r"'mulo' needs a theta; give --theta"):
        optimizers.build("mulo", 1.0, scalings=None)


def test_the_fingerprint_depends_on_theta_and_on_the_rule():
    same = mulo.Pretrained(RULE, jax.tree.map(jnp.copy, PRETRAINED.theta), {"x": 1})
    assert optimizers.fingerprint(same) == optimizers.fingerprint(PRETRAINED)
    moved = jax.tree.map(lambda x: x + 1e-6, PRETRAINED.theta)
    changed = dataclasses.replace(RULE, step_mult=0.5)
    others = [mulo.Pretrained(RULE, moved, {})]
    others.append(mulo.Pretrained(changed, PRETRAINED.theta, {}))
    for other in others:
        assert optimizers.fingerprint(other) != optimizers.fingerprint(PRETRAINED)
