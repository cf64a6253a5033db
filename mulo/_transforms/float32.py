"""Small transformations that stand before or around a rule."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mulo._checks import rule_inputs as inputs


def zeros(params: Any) -> Any:
    """Float32 zeros like a tree, anew at every call, so that states can be donated."""
    return jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), jnp.float32), params)


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
        inputs.check_floating(rule, updates)
        updates = jax.tree.map(
            lambda g: jnp.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0), updates
        )
        return updates, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def in_float32(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Run a transformation on float32 copies; updates return in their own dtype.

    In bfloat16 a decay of 0.999 is 1, in float16 an eps of 1e-8 is 0: averages that
    never decay, and divisions by zero. For float32 leaves nothing changes, bit by bit.

    Args:
      inner: Sees gradients and parameters of less than 32 bits as float32, others as
        they are, and so keeps its state in float32 at least.

    Returns:
      A transformation whose updates keep shape and dtype.
    """
    inner = optax.with_extra_args_support(inner)

    def wide(x):
        dtype = jnp.result_type(x)
        if not jnp.issubdtype(dtype, jnp.floating):
            return x
        return jnp.asarray(x, jnp.promote_types(dtype, jnp.float32))

    def widen(tree):
        return jax.tree.map(wide, tree)

    def init_fn(params):
        return inner.init(widen(params))

    def update_fn(updates, state, params=None, **extra_args):
        values = None if params is None else widen(params)
        new, state = inner.update(widen(updates), state, values, **extra_args)
        new = jax.tree.map(lambda u, old: u.astype(jnp.result_type(old)), new, updates)
        return new, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def with_known_state(
    rule: str, inner: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Say so where an update fails for having the state of something else.

    Costs nothing while updates succeed.

    Args:
      rule: Name of the rule, for the message.
      inner: Any transformation.

    Returns:
      The same transformation; ``update`` raises ValueError, naming the first array that
      does not fit, if it fails and its state is none that ``init`` makes.
    """
    inner = optax.with_extra_args_support(inner)

    def update_fn(updates, state, params=None, **extra_args):
        try:
            return inner.update(updates, state, params, **extra_args)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            like = updates if params is None else params
            mismatch = _mismatch(updates, like)
            if mismatch is not None:
                raise ValueError(
                    f"The gradients given to {rule} do not fit the parameters: the "
                    f"tree {mismatch}."
                ) from error
            try:
                expected = jax.eval_shape(inner.init, like)
            except (TypeError, ValueError):
                raise error from None  # The parameters are at fault.
            mismatch = _mismatch(state, expected)
            if mismatch is None:
                raise
            raise ValueError(
                f"The state given to {rule} is not of this rule and these parameters: "
                f"it {mismatch}. Make it with tx.init(params) of the same "
                "transformation."
            ) from error

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _mismatch(given, expected):
    """How two trees differ in their arrays' names and shapes; None if in nothing."""
    have, want = inputs.shapes(given), inputs.shapes(expected)
    for name in sorted(want.keys() | have.keys()):
        if name not in have:
            return f"lacks {name!r}"
        if name not in want:
            return f"holds {name!r}, which is unknown"
        if have[name] != want[name]:
            return f"has {name!r} in shape {have[name]} instead of {want[name]}"
    return None
