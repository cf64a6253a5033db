"""A tree with every role, and a LearnedMuon that walks on it."""

import functools

import jax
import optax

import mulo

RULE = mulo.LearnedMuon()
ROLES = ("input", "hidden", "output", "vector")
SCALINGS = {
    "first": mulo.mup.Scaling("input", 3, 4),
    "hidden": mulo.mup.Scaling("hidden", 4, 4),
    "gain": mulo.mup.Scaling("input", 1, 4),
    "readout": mulo.mup.Scaling("output", 4, 2),
}
SHAPES = {"first": (3, 4), "hidden": (4, 4), "gain": (4,), "readout": (4, 2)}


def tree(seed, scale=1.0):
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return {
        name: scale * jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)
    }


def theta_of(rule=RULE, seed=None, size=0.1):
    theta = rule.init(jax.random.key(0))
    if seed is None:
        return theta
    leaves, treedef = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return treedef.unflatten(
        [
            x + size * jax.random.normal(k, x.shape)
            for x, k in zip(leaves, keys, strict=True)
        ]
    )


@functools.cache
def compiled(rule):
    """A step of a rule: one program for every theta and horizon."""

    @jax.jit
    def step(theta, num_steps, grads, state, params):
        tx = rule.transform(theta, mup=SCALINGS, num_steps=num_steps)
        updates, state = tx.update(grads, state, params)
        return updates, state, optax.apply_updates(params, updates)

    return step


def walk(rule, theta, grads, *, num_steps=10):
    """Updates of a run on given gradients."""
    params = tree(99)
    state = rule.transform(theta, mup=SCALINGS, num_steps=num_steps).init(params)
    steps = []
    for grad in grads:
        updates, state, params = compiled(rule)(theta, num_steps, grad, state, params)
        steps.append(updates)
    return steps, state
