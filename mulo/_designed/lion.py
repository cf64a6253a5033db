"""Lion, as :mod:`mulo._designed` says of optax's own."""

from typing import Any

import jax
import optax

from mulo._designed.chains import chain, finish
from mulo._designed.weight_decay import WeightDecay, WeightDecayRule


def lion(
    learning_rate: optax.ScalarOrSchedule,
    *,
    mup: Any = None,
    base_width: jax.typing.ArrayLike = 1.0,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    weight_decay: WeightDecay = 1e-3,
    weight_decay_rule: WeightDecayRule = "independent",
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Lion: the sign of a momentum, hence Adam's multipliers.

    Args:
      learning_rate: As in :func:`mulo.nadamw`.
      mup: As in :func:`mulo.nadamw`; None is ``optax.lion``.
      base_width: As in :func:`mulo.nadamw`.
      b1: Weight of the momentum, against the gradient's, in the step.
      b2: Decay of the momentum per step.
      weight_decay: As in :func:`mulo.nadamw`.
      weight_decay_rule: As in :func:`mulo.nadamw`.
      mask: As in :func:`mulo.nadamw`.

    Returns:
      As :func:`mulo.nadamw`.
    """
    tail = finish(
        learning_rate, mup, base_width, "adam", weight_decay, weight_decay_rule, mask
    )
    return chain(optax.scale_by_lion(b1, b2), *tail)
