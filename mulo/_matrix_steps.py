"""What follows a matrix preconditioner: μP multipliers and weight decay."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mulo import _numbers as numbers
from mulo import _rule_inputs as rule_inputs
from mulo import mup as mup_lib
from mulo._mu_adam import WeightDecay, is_no_decay

# Factor on a leaf's step from its μP scaling, its shape and the base width.
MultiplierOf = Callable[[mup_lib.Scaling, tuple[int, ...], float], float]


def scale_by_multipliers(
    mup: Any, multiplier_of: MultiplierOf, base_width: jax.typing.ArrayLike
) -> optax.GradientTransformationExtraArgs:
    """Multiply every leaf's update by a function of its μP scaling and shape.

    Args:
      mup: Tree of :class:`mulo.mup.Scaling`, or None: updates pass unchanged.
      multiplier_of: The factor of one leaf; a power of the base width.
      base_width: The width at which factors are 1. May be traced, as it is inside
        ``optax.inject_hyperparams``.

    Returns:
      A stateless transformation that keeps shape, dtype and MaskedNode leaves.

    Raises:
      ValueError: At init and update, if ``mup`` and the parameters do not have the same
        leaves (names the leaf).
    """
    if mup is None:
        return optax.with_extra_args_support(optax.identity())

    factor_of = _at_width(multiplier_of, base_width)

    def scale(tree):
        aligned = mup_lib.align(mup, tree, scalings=mup)
        return jax.tree.map(
            lambda u, s: (u * factor_of(s, tuple(np.shape(u)))).astype(
                jnp.result_type(u)
            ),
            tree,
            aligned,
        )

    def init_fn(params):
        if not rule_inputs.is_placeholder(params):
            mup_lib.align(mup, params, scalings=mup)
        return optax.EmptyState()

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        return scale(updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _at_width(
    multiplier_of: MultiplierOf, base_width: Any
) -> Callable[[mup_lib.Scaling, tuple[int, ...]], Any]:
    """The factor of a leaf at a base width that may be traced."""
    if not numbers.is_traced(base_width):
        width = float(base_width)
        return lambda scaling, shape: multiplier_of(scaling, shape, width)

    def factor(scaling, shape):
        # A power of the base width, which two of them tell.
        one, two = (multiplier_of(scaling, shape, width) for width in (1.0, 2.0))
        return one if one == two else one * base_width ** math.log2(two / one)

    return factor


class DecayAfterStepState(NamedTuple):
    """State of :func:`decay_after_step`."""

    count: jax.typing.ArrayLike  # shape=(), int32. Updates applied so far.


def decay_after_step(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: WeightDecay,
    *,
    mup: Any = None,
    multiplier_of: MultiplierOf | None = None,
    base_width: jax.typing.ArrayLike = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Decay parameters that have made their step, not on the first, as SOAP's authors.

    To come last, after the learning rate: ``u - lr * weight_decay * (p + u)``.

    Args:
      learning_rate: Per step; float or schedule, the one the steps were scaled with.
      weight_decay: Fraction removed per step and learning rate; a number, a schedule or
        None for none.
      mup: μP tree to multiply each leaf's decay by its factor; None for no factors.
      multiplier_of: The factor of one leaf.
      base_width: The width at which factors are 1.

    Returns:
      A transformation that needs ``params`` unless there is no decay.
    """
    none = is_no_decay(weight_decay)
    factor_of = None if multiplier_of is None else _at_width(multiplier_of, base_width)

    def init_fn(params):
        del params
        return DecayAfterStepState(jnp.zeros((), jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        count = state.count
        after = DecayAfterStepState(optax.safe_increment(count))
        if none:
            return updates, after
        rule_inputs.require_params("Weight decay", params)
        rate, share = (_at(count, x) for x in (learning_rate, weight_decay))
        rate = jnp.where(count == 0, 0.0, jnp.asarray(rate * share))

        def decay(u, p, factor):
            dtype = jnp.promote_types(jnp.result_type(u), jnp.float32)
            moved = jnp.asarray(p, dtype) + jnp.asarray(u, dtype)
            decayed = jnp.asarray(u, dtype) - factor * rate.astype(dtype) * moved
            return decayed.astype(jnp.result_type(u))

        if mup is None or factor_of is None:
            factors = jax.tree.map(lambda _: 1.0, updates)
        else:
            factors = jax.tree.map(
                lambda u, s: factor_of(s, tuple(np.shape(u))),
                updates,
                mup_lib.align(mup, updates, scalings=mup),
            )
        return jax.tree.map(decay, updates, params, factors), after

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _at(count: Any, value: Any) -> Any:
    return value(count) if callable(value) else value


def decayed_weights(
    weight_decay: WeightDecay, mask: Any
) -> optax.GradientTransformation:
    """``optax.add_decayed_weights``, without reading ``params`` if there is no decay.

    The state's structure is the same with and without.
    """
    share: Any = 0.0 if weight_decay is None else weight_decay
    decay = optax.add_decayed_weights(share, mask)
    if not is_no_decay(weight_decay):
        return decay
    return optax.GradientTransformation(
        decay.init, lambda updates, state, params=None: (updates, state)
    )


def check_known(name: str, value: Any, reason: str) -> None:
    """Raise ValueError if a number is traced that must be known beforehand."""
    if numbers.is_traced(value):
        raise ValueError(
            f"{name} must be known beforehand here, since {reason}; got {value!r}. "
            "With optax.inject_hyperparams name it in static_args."
        )


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
