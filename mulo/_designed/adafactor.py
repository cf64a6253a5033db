"""Adafactor, as :mod:`mulo._designed` says of optax's own."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mulo._checks import numbers
from mulo._designed import weight_decay as decay_lib
from mulo._designed.chains import chain
from mulo._designed.weight_decay import WeightDecay, WeightDecayRule, check_weight_decay
from mulo._transforms.float32 import in_float32
from mulo.mup._transforms import scale_by_mup
from mulo.mup._views import sees_weights


@sees_weights()
def adafactor(
    learning_rate: optax.ScalarOrSchedule,
    *,
    mup: Any = None,
    base_width: jax.typing.ArrayLike = 1.0,
    min_dim_size_to_factor: int = 128,
    decay_rate: jax.typing.ArrayLike = 0.8,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: float | None = 1.0,
    momentum: float | None = None,
    eps: jax.typing.ArrayLike = 1e-30,
    weight_decay: WeightDecay = None,
    weight_decay_rule: WeightDecayRule = "independent",
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Adafactor.

    A step is the learning rate times the root mean square of the weights, at least
    1e-3: for a hidden matrix that is 1/√fan_in already, so μP takes another 1/√fan_in.
    With ``multiply_by_parameter_scale=False`` Adam's rule holds.

    Args:
      learning_rate: Fraction of the parameter scale per step (or parameter units,
        without it) at ``base_width``; float or schedule.
      mup: As in :func:`mulo.nadamw`; None is ``optax.adafactor``.
      base_width: As in :func:`mulo.nadamw`.
      min_dim_size_to_factor: Second moments are factored if two axes have this size.
      decay_rate: Exponent of the second moment's decay, ``1 - (t + 1) ** -decay_rate``.
      multiply_by_parameter_scale: Whether the step is a fraction of the parameters.
      clipping_threshold: Largest root mean square of a direction; None for no clipping.
      momentum: Decay of an average of the steps; None for none.
      eps: Added to squared gradients.
      weight_decay: Fraction of a parameter removed per step, whatever the learning
        rate (optax's ``weight_decay_rate``); None for none.
      weight_decay_rule: As in :func:`mulo.nadamw`.
      mask: As in :func:`mulo.nadamw`.

    Returns:
      As :func:`mulo.nadamw`.
    """
    check_weight_decay(weight_decay_rule, weight_decay)
    numbers.check_scale(learning_rate, base_width)
    if mup is None:
        return in_float32(
            optax.adafactor(
                learning_rate,
                min_dim_size_to_factor=min_dim_size_to_factor,
                decay_rate=decay_rate,
                multiply_by_parameter_scale=multiply_by_parameter_scale,
                clipping_threshold=clipping_threshold,
                momentum=momentum,
                eps=eps,
                weight_decay_rate=weight_decay,
                weight_decay_mask=mask,
            )
        )
    steps: list[optax.GradientTransformation] = [
        optax.scale_by_factored_rms(
            decay_rate=decay_rate,
            min_dim_size_to_factor=min_dim_size_to_factor,
            epsilon=eps,
        )
    ]
    if clipping_threshold is not None:
        steps.append(optax.clip_by_block_rms(clipping_threshold))
    steps.append(optax.scale_by_learning_rate(learning_rate, flip_sign=False))
    if multiply_by_parameter_scale:
        steps.append(optax.scale_by_param_block_rms())
    if momentum is not None:
        steps.append(optax.ema(momentum, debias=False, accumulator_dtype=jnp.float32))
    kind = "adafactor" if multiply_by_parameter_scale else "adam"
    factors = scale_by_mup(mup, optimizer=kind, base_width=base_width)
    tail = decay_lib.beside(factors, weight_decay, weight_decay_rule, mask)
    return chain(*steps, *tail, optax.scale(-1.0))
