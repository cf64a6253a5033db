"""Lion: optax's, and under μP.

Without a μP tree it is optax's. With one, every leaf's step is multiplied by the factor
that its optimizer needs (:func:`mulo.mup.update_multipliers`), between what makes the
direction and the learning rate. State and arithmetic are float32 whatever the
parameters' dtype (float64 for float64); a NaN goes through as optax lets it: it stays
in its leaf. Without a μP tree ``base_width`` and ``weight_decay_rule`` are checked and
change nothing.
"""

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
    return chain(
        optax.scale_by_lion(b1, b2),
        *finish(
            learning_rate,
            mup,
            base_width,
            "adam",
            weight_decay=weight_decay,
            rule=weight_decay_rule,
            mask=mask,
        ),
    )
