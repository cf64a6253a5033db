"""What tests of interop share: with stand-ins for the peer, and beside it."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mulo
import tasks
from meta_train import estimators, meta_optimizer, rules, trainer, unroll

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "interop.md"
PARAMS = {"w": jnp.asarray([[1.0, -2.0, 0.5], [0.3, 0.1, -0.7]]), "b": jnp.ones(2)}


def rule_of(name):
    optimizer = mulo.optimizers.info(name)
    return optimizer.make(**rules.smoke()[name], **optimizer.fixed)


def theta_of(rule):
    """Like a trained theta: nothing is zero."""
    start = rule.init(jax.random.key(0))
    leaves, treedef = jax.tree.flatten(start)
    rng = np.random.default_rng(0)
    leaves = [x + jnp.float32(0.1) * rng.normal(size=x.shape) for x in leaves]
    return treedef.unflatten([jnp.asarray(x, jnp.float32) for x in leaves])


def loss_reader(untold=None):
    """Multiplies what comes by minus the loss."""

    def update_fn(updates, state, params=None, *, value=untold, **extra_args):
        del params, extra_args
        return jax.tree.map(lambda g: -value * g, updates), state

    return optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update_fn
    )


def meta_trainer(task, rule):
    inner = unroll.Inner(rule=rule, family=tasks.TaskFamily(task), loss_ceiling=50.0)
    inner.check()
    return trainer.MetaTrainer(
        rule=rule,
        inners=[inner],
        estimator_config=estimators.EstimatorConfig(
            num_pairs=2, trunc_steps=3, min_length_steps=3, max_length_steps=6
        ),
        meta_optimizer_config=meta_optimizer.MetaOptimizerConfig(
            peak_lr=0.1, end_lr=0.1, warmup_steps=1
        ),
        seed=0,
    )


def snippets(*, peer):
    """Code blocks of the page, of those that need the peer or of the others."""
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.M | re.S)
    return [b for b in blocks if ("learned_optimization." in b) == peer]
