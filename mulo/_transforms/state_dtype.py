"""First moments in fewer bits, for every rule."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

# What states of optax and of this library call moving averages of gradients or steps.
_FIRST_MOMENTS = frozenset({"mu", "trace", "ema", "momentum", "momenta", "mean"})


def with_state_dtype(
    inner: optax.GradientTransformation, dtype: jax.typing.DTypeLike = jnp.bfloat16
) -> optax.GradientTransformationExtraArgs:
    """Keep first moments in another dtype between steps; arithmetic stays float32.

    In bfloat16 Adam's state goes from 8 to 6 bytes per parameter, LearnedMuon's from 16
    to 10. Second moments, factors and bases stay as they are: with a decay of 0.999 a
    bfloat16 average would not decay. docs/optimizers.md says what it costs in loss.

    Args:
      inner: Any transformation whose state is of optax or of this library, or made of
        such by ``optax.chain``, ``optax.masked`` and the like.
      dtype: Floating dtype of the moments between steps.

    Returns:
      The same rule; arrays of one axis and more in the fields ``mu``, ``trace``,
      ``ema``, ``momentum``, ``momenta`` and ``mean`` of its state are of ``dtype``.

    Raises:
      ValueError: If dtype is not floating.
    """
    if not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
        raise ValueError(f"state_dtype must be a floating dtype, got {dtype!r}.")
    inner = optax.with_extra_args_support(inner)

    def narrow(x):
        if jnp.ndim(x) and jnp.issubdtype(jnp.result_type(x), jnp.floating):
            return jnp.asarray(x, dtype)
        return x

    def wide(x):
        if jnp.ndim(x) and jnp.result_type(x) == dtype:
            return jnp.asarray(x, jnp.promote_types(dtype, jnp.float32))
        return x

    def init_fn(params):
        return _map_moments(narrow, inner.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        state = _map_moments(wide, state)
        updates, state = inner.update(updates, state, params, **extra_args)
        return updates, _map_moments(narrow, state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _map_moments(f, state: Any) -> Any:
    """Apply f to first moments; goes into containers and known states, not below."""
    if hasattr(state, "_fields"):
        if not type(state).__module__.startswith(("optax.", "mulo.")):
            return state  # The user's parameters.
        return type(state)(
            *(
                jax.tree.map(lambda x: f(x) if _is_array(x) else x, value)
                if field in _FIRST_MOMENTS
                else _map_moments(f, value)
                for field, value in zip(state._fields, state, strict=True)
            )
        )
    if type(state) in (tuple, list):
        return type(state)(_map_moments(f, x) for x in state)
    if type(state) is dict:
        return {key: _map_moments(f, x) for key, x in state.items()}
    return state


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array) or hasattr(x, "__array__")
