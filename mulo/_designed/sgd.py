"""Stochastic gradient descent, as :mod:`mulo._designed` says of optax's own."""

from typing import Any

import jax
import optax

from mulo._designed.chains import chain, finish


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
      ValueError: As :func:`mulo.adam`.
    """
    decay: Any = momentum  # optax's annotation leaves out arrays, which it takes.
    return chain(
        optax.identity() if momentum is None else optax.trace(decay, nesterov),
        *finish(learning_rate, mup, base_width, "sgd"),
    )
