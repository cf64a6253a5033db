"""Layers and their initial weights, in μP and in SP.

* μP: weights from a truncated normal of std exactly 1/sqrt(fan_in), readouts zero,
  biases N(0, 1) as in the μLO paper (arXiv 2406.00153, section 4 and appendix C).
* SP: weights from a normal of scale 1/sqrt(fan_in) truncated at two scales, as
  ``haiku.Linear`` and ``haiku.Conv2D`` do (so their std is 0.88/sqrt(fan_in)), readouts
  too; biases zero.

Differs from the μLO code: that leaves the std of truncated weights at 0.88/sqrt(fan_in)
under μP too; here it is what the paper says.
"""

import math
from typing import Any

import jax
from flax import linen as nn

_EPSILON = 1e-5  # Of norms, added to the variance; as haiku's.


def dense(name: str, features: int, *, sp: bool) -> nn.Dense:
    """Return a dense layer with a bias; ``readout`` is the name of a readout."""
    return nn.Dense(
        features,
        kernel_init=kernel_init(sp=sp, readout=name == "readout"),
        bias_init=bias_init(sp=sp),
        name=name,
    )


def conv(
    name: str,
    features: int,
    *,
    sp: bool,
    size: int = 3,
    stride: int = 1,
    use_bias: bool = True,
) -> nn.Conv:
    """Return a convolution of (b, h, w, in) by ``size`` x ``size`` pixels.

    Zeros are padded so that an image of h x w pixels becomes one of h / stride x
    w / stride, rounded up.
    """
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding="SAME",
        use_bias=use_bias,
        kernel_init=kernel_init(sp=sp),
        bias_init=bias_init(sp=sp),
        name=name,
    )


def layer_norm(name: str) -> nn.LayerNorm:
    """Return layer norm over the last axis: gain 1 and offset 0 at first."""
    return nn.LayerNorm(epsilon=_EPSILON, use_fast_variance=False, name=name)


def group_norm(name: str, group_size: int) -> nn.GroupNorm:
    """Return group norm of (b, h, w, c): gain 1 and offset 0 at first.

    Args:
      name: Of the layer.
      group_size: Channels that are normalized together, over all pixels; divides c.
    """
    return nn.GroupNorm(
        num_groups=None,
        group_size=group_size,
        epsilon=_EPSILON,
        use_fast_variance=False,  # The mean of squares less the squared mean cancels.
        name=name,
    )


def kernel_init(*, sp: bool, readout: bool = False) -> Any:
    """Return the initializer of a weight (..., in, out); all but the last axis fan in.

    Args:
      sp: Standard parametrization.
      readout: The weight maps to the outputs: zero under μP.
    """
    if sp:
        return _haiku_truncated_normal
    return nn.initializers.zeros if readout else nn.initializers.lecun_normal()


def bias_init(*, sp: bool) -> Any:
    """Return the initializer of a bias."""
    return nn.initializers.zeros if sp else nn.initializers.normal(1.0)


def _haiku_truncated_normal(key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
    scale = math.prod(shape[:-1]) ** -0.5
    return nn.initializers.truncated_normal(scale)(key, shape, dtype)
