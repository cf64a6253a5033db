"""Weight decay in all its forms: beside a step, after it, of learned rules.

All of them are decoupled: a share of the parameter per step and learning rate. Under
μP that is the same share for all leaves (``"independent"``) or times the leaf's factor
(``"coupled"``).
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from mulo._checks import numbers, rule_inputs
from mulo.mup._transforms import FactorOf, step_factors

WeightDecayRule = Literal["independent", "coupled"]
# A number, a function from the count of updates to one, or none.
WeightDecay = optax.ScalarOrSchedule | None


def is_no_decay(weight_decay: WeightDecay) -> bool:
    """Whether there is nothing to decay; a traced number may be zero and counts."""
    zero = isinstance(weight_decay, int | float) and weight_decay == 0
    return weight_decay is None or zero


def check_weight_decay(rule: str, weight_decay: Any) -> None:
    """Raise ValueError for an unknown rule or a decay that is negative or not finite.

    None (no decay), schedules and traced values pass.
    """
    free = weight_decay is None or callable(weight_decay)
    if not free and not numbers.is_traced(weight_decay):
        numbers.check_not_negative("weight_decay", weight_decay)
    known = get_args(WeightDecayRule)
    if rule not in known:
        raise ValueError(
            f"weight_decay_rule must be one of {', '.join(known)}; got {rule!r}."
        )


def beside(
    factors: optax.GradientTransformation,
    weight_decay: WeightDecay,
    rule: WeightDecayRule,
    mask: Any = None,
) -> list[optax.GradientTransformation]:
    """μP's factors on a direction and the decay beside it, before the learning rate.

    Args:
      factors: What multiplies a direction, and a coupled decay.
      weight_decay: None leaves the decay out.
      rule: Whether the factors act on the decay.
      mask: Which leaves decay, as in ``optax.adamw``.
    """
    if weight_decay is None:
        return [factors]
    decay = optax.add_decayed_weights(weight_decay, mask)
    return [decay, factors] if rule == "coupled" else [factors, decay]


class WeightDecayState(NamedTuple):
    """State of :func:`decay_after_step`, and of decay that follows a schedule."""

    count: jax.typing.ArrayLike  # shape=(), int32. Updates applied so far.


def remove_weights(
    weight_decay: WeightDecay,
    mup: Any = None,
    factor_of: str = "adam",
    base_width: float = 1.0,
) -> optax.GradientTransformation:
    """Decay beside steps that are to be added, as learned rules make them.

    Args:
      weight_decay: Fraction removed per step; a number, a schedule or None for none.
      mup: μP tree whose factors multiply the decay; None for no factors.
      factor_of: Whose steps they are.
      base_width: The width at which factors are 1.
    """
    factors = step_factors(mup, factor_of, base_width)

    def init_fn(params):
        del params
        if callable(weight_decay):
            return WeightDecayState(jnp.zeros((), jnp.int32))
        return optax.EmptyState()

    def update_fn(updates, state, params=None):
        share: Any = weight_decay
        if is_no_decay(share):
            return updates, state
        if callable(share):
            share = share(state.count)
            state = WeightDecayState(optax.safe_increment(state.count))
        rule_inputs.require_params("Weight decay", params)
        updates = jax.tree.map(
            lambda u, p, m: (u - (share * m) * p).astype(u.dtype),
            updates,
            params,
            factors(updates),
        )
        return updates, state

    return optax.GradientTransformation(init_fn, update_fn)


def decay_after_step(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: WeightDecay,
    *,
    mup: Any,
    factor_of: FactorOf,
    base_width: jax.typing.ArrayLike = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Decay parameters that have made their step, not on the first, as SOAP's authors.

    To come last, after the learning rate: ``u - lr * weight_decay * (p + u)``.

    Args:
      learning_rate: Per step; float or schedule, the one the steps were scaled with.
      weight_decay: Fraction removed per step and learning rate; a number, a schedule or
        None for none.
      mup: μP tree to multiply each leaf's decay by its factor; None for no factors.
      factor_of: The factor of one leaf.
      base_width: The width at which factors are 1.

    Returns:
      A transformation that needs ``params`` unless there is no decay.
    """
    none = is_no_decay(weight_decay)
    factors = step_factors(mup, factor_of, base_width)

    def init_fn(params):
        del params
        return WeightDecayState(jnp.zeros((), jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        count = state.count
        after = WeightDecayState(optax.safe_increment(count))
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

        return jax.tree.map(decay, updates, params, factors(updates)), after

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
