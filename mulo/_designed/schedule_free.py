"""Schedule-free AdamW, as :mod:`mulo._designed` says of optax's own."""

from typing import Any

import jax
import optax

from mulo._checks import numbers
from mulo._designed.chains import finish
from mulo._designed.weight_decay import WeightDecay, WeightDecayRule, check_weight_decay
from mulo._transforms.float32 import in_float32


def schedule_free_adamw(
    learning_rate: jax.typing.ArrayLike,
    *,
    mup: Any = None,
    base_width: jax.typing.ArrayLike = 1.0,
    warmup_steps: int | None = None,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: WeightDecay = 0.0,
    weight_decay_rule: WeightDecayRule = "independent",
    weight_lr_power: jax.typing.ArrayLike = 2.0,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free AdamW.

    The multipliers act on the steps of the inner AdamW; what is averaged are its
    iterates, and averages of parameters need no multiplier.
    ``optax.contrib.schedule_free_eval_params`` gives the parameters to evaluate at.

    Args:
      learning_rate: Parameter units per step at ``base_width``, constant.
      mup: As in :func:`mulo.nadamw`; None is ``optax.contrib.schedule_free_adamw``.
      base_width: As in :func:`mulo.nadamw`.
      warmup_steps: Length of a linear warm-up of the learning rate, if any.
      b1: Weight of the average, against the iterate's, where gradients are taken.
      b2: Decay of the second moment per step.
      eps: As in :func:`mulo.nadamw`.
      weight_decay: As in :func:`mulo.nadamw`.
      weight_decay_rule: As in :func:`mulo.nadamw`.
      weight_lr_power: Power of the learning rate that weights the average.

    Returns:
      As :func:`mulo.nadamw`.
    """
    check_weight_decay(weight_decay_rule, weight_decay)
    numbers.check_scale(learning_rate, base_width)
    decay: Any = 0.0 if weight_decay is None else weight_decay
    if mup is None:
        return in_float32(
            optax.contrib.schedule_free_adamw(
                learning_rate,
                warmup_steps=warmup_steps,
                b1=b1,
                b2=b2,
                eps=eps,
                weight_decay=decay,
                weight_lr_power=weight_lr_power,
            )
        )
    rate: Any = learning_rate
    if warmup_steps is not None:
        rate = optax.warmup_constant_schedule(0.0, learning_rate, warmup_steps)
    inner = optax.chain(
        optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True),
        *finish(rate, mup, base_width, "adam", decay, weight_decay_rule),
    )
    # Not in a chain: schedule_free_eval_params wants this very state.
    return in_float32(
        optax.contrib.schedule_free(inner, rate, b1=b1, weight_lr_power=weight_lr_power)
    )
