"""What follows a direction: μP's factors and weight decay, the learning rate."""

from collections.abc import Sequence
from typing import Any

import optax

from mulo._checks import numbers
from mulo._designed import weight_decay as decay_lib
from mulo._designed.weight_decay import WeightDecayRule, check_weight_decay
from mulo._transforms.float32 import in_float32
from mulo.mup._transforms import scale_by_mup


def finish(
    learning_rate: Any,
    mup: Any,
    base_width: Any,
    optimizer: str,
    weight_decay: Any = None,
    rule: WeightDecayRule = "independent",
    mask: Any = None,
) -> Sequence[optax.GradientTransformation]:
    """What follows a direction: multipliers and weight decay, the learning rate."""
    check_weight_decay(rule, weight_decay)
    numbers.check_scale(learning_rate, base_width)
    factors = scale_by_mup(mup, optimizer=optimizer, base_width=base_width)
    return [
        *decay_lib.beside(factors, weight_decay, rule, mask),
        optax.scale_by_learning_rate(learning_rate),
    ]


def chain(
    *steps: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """``optax.chain`` in float32."""
    return in_float32(optax.chain(*steps))
