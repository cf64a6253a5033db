"""Adam, AdamW and NAdamW, as :mod:`mulo._designed` says of optax's own."""

from typing import Any

import jax
import optax

from mulo._designed.chains import chain, finish
from mulo._designed.weight_decay import WeightDecay, WeightDecayRule


def adam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    mup: Any = None,
    base_width: jax.typing.ArrayLike = 1.0,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Adam; with a μP tree μAdam of the μLO paper.

    Under μP hidden weights step by base_width/fan_in of the learning rate, everything
    else by the learning rate (Tensor Programs V, arXiv 2203.03466, table 8, with the
    readout's 1/fan_in in the forward pass).

    Args:
      learning_rate: Parameter units per step at ``base_width``; float or schedule.
      mup: Tree of :class:`mulo.mup.Scaling` from ``mulo.mup.infer``; None for the
        standard parametrization, i.e. ``optax.adam``. Then base_width is checked and
        changes nothing.
      base_width: Fan-in at which a hidden weight steps by the whole learning rate.
      b1: Decay of the first moment per step.
      b2: Decay of the second moment per step.
      eps: Added to the root of the second moment, gradient units.

    Returns:
      A transformation that takes ``value=`` and ignores unknown keyword arguments.

    Raises:
      ValueError: If the learning rate is negative or not finite, and as
        :func:`mulo.scale_by_mup`.

    References:
      Therien et al., `μLO <https://arxiv.org/abs/2406.00153>`_, 2024.
    """
    return chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        *finish(learning_rate, mup, base_width, "adam"),
    )


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    mup: Any = None,
    base_width: jax.typing.ArrayLike = 1.0,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: WeightDecay = 1e-4,
    weight_decay_rule: WeightDecayRule = "independent",
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with a stated weight-decay rule.

    Args:
      learning_rate: As in :func:`adam`.
      mup: As in :func:`adam`; None is ``optax.adamw``. Multipliers are then 1, so that
        both rules of weight decay are the same.
      base_width: As in :func:`adam`.
      b1: As in :func:`adam`.
      b2: As in :func:`adam`.
      eps: As in :func:`adam`.
      weight_decay: Fraction of a parameter removed per step and learning rate; a
        number, a schedule or None for none.
      weight_decay_rule: ``"independent"``: every leaf loses ``learning_rate *
        weight_decay`` of itself per step, at any width. ``"coupled"``: that times the
        leaf's multiplier, as if AdamW ran with the leaf's own learning rate; the decay
        of hidden weights then fades with width.
      mask: Which leaves decay, as in ``optax.adamw``: a tree of bools or a function of
        the parameters.

    Returns:
      A transformation that takes ``value=`` and ignores unknown keyword arguments.

    Raises:
      ValueError: If the rule is unknown, and as :func:`adam`.
    """
    tail = finish(
        learning_rate, mup, base_width, "adam", weight_decay, weight_decay_rule, mask
    )
    return chain(optax.scale_by_adam(b1=b1, b2=b2, eps=eps), *tail)


def nadamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    mup: Any = None,
    base_width: jax.typing.ArrayLike = 1.0,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: WeightDecay = 1e-4,
    weight_decay_rule: WeightDecayRule = "independent",
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with Nesterov momentum.

    Args:
      learning_rate: Parameter units per step at ``base_width``; float or schedule.
      mup: Tree of :class:`mulo.mup.Scaling` from ``mulo.mup.infer``; None for the
        standard parametrization, i.e. ``optax.nadamw``; base_width and
        weight_decay_rule then change nothing.
      base_width: Fan-in at which a hidden weight steps by the whole learning rate.
      b1: Decay of the first moment per step.
      b2: Decay of the second moment per step.
      eps: Added to the root of the second moment, gradient units.
      weight_decay: Fraction of a parameter removed per step and learning rate; a
        number, a schedule or None for none.
      weight_decay_rule: As in :func:`adamw`.
      mask: Which leaves decay: a tree of bools or a function of the parameters.

    Returns:
      A transformation that takes ``value=`` and ignores unknown keyword arguments.

    Raises:
      ValueError: As :func:`adamw`, like all of this module.
    """
    tail = finish(
        learning_rate, mup, base_width, "adam", weight_decay, weight_decay_rule, mask
    )
    return chain(optax.scale_by_adam(b1, b2, eps, nesterov=True), *tail)
