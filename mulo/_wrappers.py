"""Small transformations that stand before or around a rule."""

import jax
import jax.numpy as jnp
import optax

from mulo import _rule_inputs as inputs


def only_finite(rule: str) -> optax.GradientTransformationExtraArgs:
    """Count gradient entries that are not finite as zero.

    Args:
      rule: Name of the rule that follows, for messages.

    Returns:
      A stateless transformation.

    Raises:
      ValueError: At init, if a leaf is not of a real floating dtype (names it).
    """

    def init_fn(params):
        inputs.check_floating(rule, params)
        return optax.EmptyState()

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        updates = jax.tree.map(
            lambda g: jnp.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0), updates
        )
        return updates, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def in_float32(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Run a transformation on float32 copies; updates return in their own dtype.

    Args:
      inner: Sees gradients and parameters of less than 32 bits as float32, others as
        they are, and so keeps its state in float32 at least.

    Returns:
      A transformation whose updates keep shape and dtype.
    """
    inner = optax.with_extra_args_support(inner)

    def widen(tree):
        return jax.tree.map(
            lambda x: jnp.asarray(x, jnp.promote_types(jnp.result_type(x), "float32")),
            tree,
        )

    def init_fn(params):
        return inner.init(widen(params))

    def update_fn(updates, state, params=None, **extra_args):
        wide = None if params is None else widen(params)
        new, state = inner.update(widen(updates), state, wide, **extra_args)
        new = jax.tree.map(lambda u, old: u.astype(jnp.result_type(old)), new, updates)
        return new, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
