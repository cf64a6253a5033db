"""What follows a matrix preconditioner: μP multipliers and weight decay."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mulo import _numbers as numbers
from mulo import _rule_inputs as rule_inputs
from mulo import mup as mup_lib

# Factor on a leaf's step from its μP scaling and shape.
MultiplierOf = Callable[[mup_lib.Scaling, tuple[int, ...]], float]


def scale_by_multipliers(
    mup: Any, multiplier_of: MultiplierOf
) -> optax.GradientTransformationExtraArgs:
    """Multiply every leaf's update by a function of its μP scaling and shape.

    Args:
      mup: Tree of :class:`mulo.mup.Scaling`, or None: updates pass unchanged.
      multiplier_of: The factor of one leaf.

    Returns:
      A stateless transformation that keeps shape, dtype and MaskedNode leaves.

    Raises:
      ValueError: At init and update, if ``mup`` and the parameters do not have the same
        leaves (names the leaf).
    """
    if mup is None:
        return optax.with_extra_args_support(optax.identity())

    def scale(tree):
        aligned = mup_lib.align(mup, tree, scalings=mup)
        return jax.tree.map(
            lambda u, s: (u * multiplier_of(s, tuple(np.shape(u)))).astype(
                jnp.result_type(u)
            ),
            tree,
            aligned,
        )

    def init_fn(params):
        mup_lib.align(mup, params, scalings=mup)
        return optax.EmptyState()

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        return scale(updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class DecayAfterStepState(NamedTuple):
    """State of :func:`decay_after_step`."""

    count: jax.typing.ArrayLike  # shape=(), int32. Updates applied so far.


def decay_after_step(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: jax.typing.ArrayLike,
    *,
    mup: Any = None,
    multiplier_of: MultiplierOf | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Decay parameters that have made their step, not on the first, as SOAP's authors.

    To come last, after the learning rate: ``u - lr * weight_decay * (p + u)``.

    Args:
      learning_rate: Per step; float or schedule, the one the steps were scaled with.
      weight_decay: Fraction removed per step and learning rate.
      mup: μP tree to multiply each leaf's decay by its factor; None for no factors.
      multiplier_of: The factor of one leaf.

    Returns:
      A transformation that needs ``params``.
    """

    def init_fn(params):
        del params
        return DecayAfterStepState(jnp.zeros((), jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        rule_inputs.require_params("Weight decay", params)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        rate = jnp.where(state.count == 0, 0.0, jnp.asarray(rate * weight_decay))

        def decay(u, p, factor):
            dtype = jnp.promote_types(jnp.result_type(u), jnp.float32)
            moved = jnp.asarray(p, dtype) + jnp.asarray(u, dtype)
            decayed = jnp.asarray(u, dtype) - factor * rate.astype(dtype) * moved
            return decayed.astype(jnp.result_type(u))

        if mup is None or multiplier_of is None:
            factors = jax.tree.map(lambda _: 1.0, updates)
        else:
            factors = jax.tree.map(
                lambda u, s: multiplier_of(s, tuple(np.shape(u))),
                updates,
                mup_lib.align(mup, updates, scalings=mup),
            )
        updates = jax.tree.map(decay, updates, params, factors)
        return updates, DecayAfterStepState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def nonzero(weight_decay: Any) -> bool:
    """Whether there is something to decay; a traced number may be zero and counts."""
    return not isinstance(weight_decay, int | float) or weight_decay != 0


def check_switches(**switches: Any) -> None:
    """Raise ValueError unless these are True or False."""
    for name, value in switches.items():
        numbers.check_bool(name, value)


def check_eps(**values: Any) -> None:
    """Raise ValueError unless numbers that are not traced are finite and >= 0."""
    for name, value in values.items():
        if not numbers.is_traced(value):
            numbers.check_not_negative(name, value)


def check_numbers(precondition_frequency: Any, **decays: Any) -> None:
    """Raise ValueError unless numbers that are not traced are in range."""
    for name, decay in decays.items():
        if not numbers.is_traced(decay):
            numbers.check_decay(name, decay)
    frequency = precondition_frequency
    if numbers.is_traced(frequency):
        return
    # Whole as a float too: optax.inject_hyperparams makes floats of integers.
    if not numbers.is_number(frequency) or not frequency >= 1 or frequency % 1:
        raise ValueError(
            f"precondition_frequency must be an integer >= 1, got {frequency!r}."
        )
