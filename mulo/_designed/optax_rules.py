"""optax's own optimizers under μP: names, defaults and multipliers, nothing else.

Without a μP tree each function is optax's. With one, every leaf's step is multiplied
by the factor that its optimizer needs (:func:`mulo.mup.update_multipliers`), between
what makes the direction and the learning rate. Weight decay is decoupled, as in
:func:`adamw`. All keep their state and do their arithmetic in float32 whatever
the parameters' dtype (float64 for float64), and let a NaN through as optax does: it
stays in its leaf. Without a μP tree multipliers are 1:
``base_width`` and ``weight_decay_rule`` are checked and change nothing.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mulo._checks import numbers
from mulo._designed import weight_decay as decay_lib
from mulo._designed.chains import chain, finish
from mulo._designed.weight_decay import WeightDecay, WeightDecayRule, check_weight_decay
from mulo._transforms.float32 import in_float32
from mulo.mup._transforms import scale_by_mup
from mulo.mup._views import sees_weights


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    mup: Any = None,
    base_width: jax.typing.ArrayLike = 1.0,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Stochastic gradient descent.

    Under μP input weights and biases step by fan_out/base_width of the learning rate,
    hidden weights by fan_out/fan_in, readouts by fan_in/base_width (Tensor Programs V,
    arXiv 2203.03466, table 8, with the readout's 1/fan_in in the forward pass).

    Args:
      learning_rate: Parameter units per unit of gradient at ``base_width``; float or
        schedule.
      mup: Tree of :class:`mulo.mup.Scaling` from ``mulo.mup.infer``; None for the
        standard parametrization, i.e. ``optax.sgd``.
      base_width: Fan at which every weight steps by the learning rate alone.
      momentum: Decay per step of the sum of past gradients; None keeps no such sum.
      nesterov: Whether momentum is Nesterov's.

    Returns:
      A transformation that takes ``value=`` and ignores unknown keyword arguments.

    Raises:
      ValueError: As :func:`adam`.
    """
    decay: Any = momentum  # optax's annotation leaves out arrays, which it takes.
    return chain(
        optax.identity() if momentum is None else optax.trace(decay, nesterov),
        *finish(learning_rate, mup, base_width, "sgd"),
    )


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
    return chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
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
    return chain(
        optax.scale_by_adam(b1, b2, eps, nesterov=True),
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
      learning_rate: As in :func:`nadamw`.
      mup: As in :func:`nadamw`; None is ``optax.lion``.
      base_width: As in :func:`nadamw`.
      b1: Weight of the momentum, against the gradient's, in the step.
      b2: Decay of the momentum per step.
      weight_decay: As in :func:`nadamw`.
      weight_decay_rule: As in :func:`nadamw`.
      mask: As in :func:`nadamw`.

    Returns:
      As :func:`nadamw`.
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
      mup: As in :func:`nadamw`; None is ``optax.adafactor``.
      base_width: As in :func:`nadamw`.
      min_dim_size_to_factor: Second moments are factored if two axes have this size.
      decay_rate: Exponent of the second moment's decay, ``1 - (t + 1) ** -decay_rate``.
      multiply_by_parameter_scale: Whether the step is a fraction of the parameters.
      clipping_threshold: Largest root mean square of a direction; None for no clipping.
      momentum: Decay of an average of the steps; None for none.
      eps: Added to squared gradients.
      weight_decay: Fraction of a parameter removed per step, whatever the learning
        rate (optax's ``weight_decay_rate``); None for none.
      weight_decay_rule: As in :func:`nadamw`.
      mask: As in :func:`nadamw`.

    Returns:
      As :func:`nadamw`.
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
      mup: As in :func:`nadamw`; None is ``optax.contrib.schedule_free_adamw``.
      base_width: As in :func:`nadamw`.
      warmup_steps: Length of a linear warm-up of the learning rate, if any.
      b1: Weight of the average, against the iterate's, where gradients are taken.
      b2: Decay of the second moment per step.
      eps: As in :func:`nadamw`.
      weight_decay: As in :func:`nadamw`.
      weight_decay_rule: As in :func:`nadamw`.
      weight_lr_power: Power of the learning rate that weights the average.

    Returns:
      As :func:`nadamw`.
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
        *finish(
            rate,
            mup,
            base_width,
            "adam",
            weight_decay=decay,
            rule=weight_decay_rule,
        ),
    )
    # Not in a chain: schedule_free_eval_params wants this very state.
    return in_float32(
        optax.contrib.schedule_free(inner, rate, b1=b1, weight_lr_power=weight_lr_power)
    )
