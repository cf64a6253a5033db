"""A rule and thetas of it, for tests of files and of what is loaded."""

import jax
import jax.numpy as jnp
import numpy as np

import mulo

RULE = mulo.SmallFC(hidden_size=4, step_mult=0.01, base_width=8.0)


def drawn_theta(rule, seed=0, scale=0.3):
    """Like a trained theta: nothing is zero."""
    leaves, treedef = jax.tree.flatten(jax.eval_shape(rule.init, jax.random.key(0)))
    rng = np.random.default_rng(seed)
    drawn = [jnp.asarray(rng.normal(size=x.shape) * scale, jnp.float32) for x in leaves]
    return treedef.unflatten(drawn)


def theta_of(seed, rule=RULE):
    return drawn_theta(rule, seed, scale=0.1)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
