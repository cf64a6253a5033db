"""Adam and AdamW under μP: optax's own, with one multiplier per leaf.

Hidden weights step by base_width/fan_in of the learning rate, everything else by the
learning rate (Tensor Programs V, arXiv 2203.03466, table 8, with the readout's 1/fan_in
in the forward pass). Where the multiplier is 1 the updates are bitwise optax's.
"""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from mulo import _numbers as numbers
from mulo import _rule_inputs as rule_inputs
from mulo import mup as mup_lib
from mulo._wrappers import in_float32

WeightDecayRule = Literal["independent", "coupled"]
# A number, a function from the count of updates to one, or none.
WeightDecay = optax.ScalarOrSchedule | None


def scale_by_mup(
    mup: Any,
    *,
    optimizer: str = "adam",
    base_width: jax.typing.ArrayLike = 1.0,
    block_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiply every leaf's update by its μP multiplier.

    Args:
      mup: Tree of :class:`mulo.mup.Scaling` for the parameters, or None for the
        standard parametrization: updates pass unchanged.
      optimizer: Whose updates they are, as in :func:`mulo.mup.update_multipliers`.
      base_width: The width at which the multipliers are 1. May be traced, as it is
        inside ``optax.inject_hyperparams``.
      block_size: As in :func:`mulo.mup.update_multipliers`; not with a traced width.

    Returns:
      A stateless transformation that keeps shape and dtype and MaskedNode leaves.

    Raises:
      ValueError: If base_width is not finite and positive, or an argument does not
        fit; at init and update, if ``mup`` and the parameters do not have the same
        leaves (names the leaf).
    """
    numbers.check_base_width(base_width)
    if mup is None:
        return optax.with_extra_args_support(optax.identity())

    def at(width):
        return mup_lib.update_multipliers(
            mup, optimizer=optimizer, base_width=width, block_size=block_size
        )

    if isinstance(base_width, int | float):
        multipliers = at(base_width)
    elif block_size is not None:
        raise ValueError(
            f"block_size={block_size} counts blocks at the base width, so base_width "
            f"must be a number known beforehand, got {base_width!r}."
        )
    else:
        # Without blocks each is a power of the base width, which two of them tell.
        multipliers = jax.tree.map(
            lambda m, m2: m if m2 == m else m * base_width ** math.log2(m2 / m),
            at(1.0),
            at(2.0),
        )

    def init_fn(params):
        if not rule_inputs.is_placeholder(params):
            mup_lib.align(multipliers, params, scalings=mup)
        return optax.EmptyState()

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        aligned = mup_lib.align(multipliers, updates, scalings=mup)
        updates = jax.tree.map(
            lambda u, m: (u * m).astype(jnp.result_type(u)), updates, aligned
        )
        return updates, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def mu_adam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    mup: Any,
    base_width: jax.typing.ArrayLike,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Adam with μP multipliers (μAdam of the μLO paper).

    Args:
      learning_rate: Parameter units per step at ``base_width``; float or schedule.
      mup: Tree of :class:`mulo.mup.Scaling` from ``mulo.mup.infer``. None means the
        standard parametrization, i.e. ``optax.adam``; then base_width is checked and
        changes nothing.
      base_width: Fan-in at which a hidden weight steps by the whole learning rate.
      b1: Decay of the first moment per step.
      b2: Decay of the second moment per step.
      eps: Added to the root of the second moment, gradient units.

    Returns:
      A transformation that takes ``value=`` and ignores unknown keyword arguments.

    Raises:
      ValueError: If the learning rate is negative or not finite, and as
        :func:`scale_by_mup`.

    References:
      Therien et al., `μLO <https://arxiv.org/abs/2406.00153>`_, 2024.
    """
    numbers.check_scale(learning_rate, base_width)
    chain = optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        scale_by_mup(mup, base_width=base_width),
        optax.scale_by_learning_rate(learning_rate),
    )
    return in_float32(chain)


def mu_adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    mup: Any,
    base_width: jax.typing.ArrayLike,
    weight_decay: WeightDecay = 1e-4,
    weight_decay_rule: WeightDecayRule = "independent",
    mask: Any = None,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with μP multipliers and a stated weight-decay rule.

    Args:
      learning_rate: As in :func:`mu_adam`.
      mup: As in :func:`mu_adam`; None is ``optax.adamw``. Multipliers are then 1, so
        that both rules of weight decay are the same.
      base_width: As in :func:`mu_adam`.
      weight_decay: Fraction of a parameter removed per step and learning rate; a
        number, a schedule or None for none.
      weight_decay_rule: ``"independent"``: every leaf loses ``learning_rate *
        weight_decay`` of itself per step, at any width. ``"coupled"``: that times the
        leaf's multiplier, as if AdamW ran with the leaf's own learning rate; the decay
        of hidden weights then fades with width.
      mask: Which leaves decay, as in ``optax.adamw``: a tree of bools or a function of
        the parameters.
      b1: As in :func:`mu_adam`.
      b2: As in :func:`mu_adam`.
      eps: As in :func:`mu_adam`.

    Returns:
      A transformation that takes ``value=`` and ignores unknown keyword arguments.

    Raises:
      ValueError: If the rule is unknown, and as :func:`mu_adam`.
    """
    check_weight_decay(weight_decay_rule, weight_decay)
    numbers.check_scale(learning_rate, base_width)
    weight_decay = 0.0 if weight_decay is None else weight_decay
    steps = [
        scale_by_mup(mup, base_width=base_width),
        optax.add_decayed_weights(weight_decay, mask),
    ]
    if weight_decay_rule == "coupled":
        steps.reverse()
    chain = optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        *steps,
        optax.scale_by_learning_rate(learning_rate),
    )
    return in_float32(chain)


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
