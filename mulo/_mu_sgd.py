"""Stochastic gradient descent under μP: optax's own, with one multiplier per leaf.

Input weights and biases step by fan_out/base_width of the learning rate, hidden weights
by fan_out/fan_in, readouts by fan_in/base_width (Tensor Programs V, arXiv 2203.03466,
table 8, with the readout's 1/fan_in in the forward pass). Where the multiplier is 1 the
updates are bitwise optax's.
"""

from typing import Any

import jax
import optax

from mulo import _mu_adam
from mulo import _numbers as numbers
from mulo._wrappers import in_float32


def mu_sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    mup: Any,
    base_width: jax.typing.ArrayLike,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Stochastic gradient descent with μP multipliers.

    Args:
      learning_rate: Parameter units per unit of gradient at ``base_width``; float or
        schedule.
      mup: Tree of :class:`mulo.mup.Scaling` from ``mulo.mup.infer``. None means the
        standard parametrization, i.e. ``optax.sgd``; then base_width is checked and
        changes nothing.
      base_width: Fan at which every weight steps by the learning rate alone.
      momentum: Decay per step of the sum of past gradients; None keeps no such sum.
      nesterov: Whether momentum is Nesterov's.

    Returns:
      A transformation that takes ``value=`` and ignores unknown keyword arguments.

    Raises:
      ValueError: As :func:`mulo.mu_adam`.
    """
    numbers.check_scale(learning_rate, base_width)
    decay: Any = momentum  # optax's annotation leaves out arrays, which it takes.
    chain = optax.chain(
        optax.identity() if momentum is None else optax.trace(decay, nesterov),
        _mu_adam.scale_by_mup(mup, optimizer="sgd", base_width=base_width),
        optax.scale_by_learning_rate(learning_rate),
    )
    return in_float32(chain)
