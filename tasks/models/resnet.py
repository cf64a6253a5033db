"""Image classification by a small residual convnet with group norm, in μP and in SP.

A 3x3 stem of ``width`` channels, then ``depth`` residual blocks in three stages of
``width``, twice and four times as many channels, then group norm, activation function,
the mean over all pixels and a linear readout. A block is norm, activation, 3x3
convolution, and the same again (pre-activation, [1]). The first block of the second and
of the third stage halves the image; there the shortcut is a 1x1 convolution of the
block's first activation, elsewhere the identity.

Norms see one example at a time, so there is no batch state. Their groups have 8
channels at every width, wider networks have more groups: a group then computes the same
function of its channels at any width, and nothing but the sums over input channels,
which μP is about, depends on it. (A fixed number of groups would also have a limit, but
narrow networks would have fewer channels to average over than wide ones.)
Convolutions have no bias: the norms after them have an offset.

``alpha`` multiplies what a block adds by ``depth ** -alpha``, under μP and SP alike: 0
is the usual network. Initial weights are those of :mod:`tasks.models.layers`; under μP
the logits are times 1/fan_in of the readout.

References:
  [1] He et al., `Identity mappings <https://arxiv.org/abs/1603.05027>`_, 2016.
  [2] Wu and He, `Group normalization <https://arxiv.org/abs/1803.08494>`_, 2018.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from tasks.models import activations, layers, network

GROUP_SIZE = 8  # Channels per group of a norm.
_STAGES = 3


class _Block(nn.Module):
    """Stream (b, h, w, c) to (stream, convolutions' outputs by name)."""

    channels: int
    stride: int  # 2 in the first block of a stage but the first: there c changes.
    sp: bool
    multiplier: float  # On the branch.
    activation: activations.Activation

    @nn.compact
    def __call__(self, stream: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        def conv(name: str, **shape: int) -> nn.Conv:
            return layers.conv(name, self.channels, sp=self.sp, use_bias=False, **shape)

        found = {}
        x = self.activation(layers.group_norm("norm_0", GROUP_SIZE)(stream))
        shortcut = stream
        if self.stride > 1:
            shortcut = conv("shortcut", size=1, stride=self.stride)(x)
        x = found["conv_0"] = conv("conv_0", stride=self.stride)(x)
        x = self.activation(layers.group_norm("norm_1", GROUP_SIZE)(x))
        x = found["conv_1"] = conv("conv_1")(x)
        return shortcut + x * self.multiplier, found


class _Network(nn.Module):
    """Images (b, h, w, c) to (logits, activations by layer name)."""

    width: int
    depth: int
    num_classes: int
    sp: bool
    logit_multiplier: float
    activation: activations.Activation
    alpha: float

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        found = {}
        stem = layers.conv("stem", self.width, sp=self.sp, use_bias=False)
        x = found["stem"] = stem(inputs)
        per_stage = self.depth // _STAGES
        for i in range(self.depth):
            stage, place = divmod(i, per_stage)
            block = _Block(
                self.width * 2**stage,
                2 if stage > 0 and place == 0 else 1,
                self.sp,
                self.depth**-self.alpha,
                self.activation,
                name=f"block_{i}",
            )
            x, inside = block(x)
            found |= {f"block_{i}/{name}": value for name, value in inside.items()}
            found[f"block_{i}"] = x
        x = self.activation(layers.group_norm("norm", GROUP_SIZE)(x))
        readout = layers.dense("readout", self.num_classes, sp=self.sp)
        found["logits"] = readout(jnp.mean(x, axis=(1, 2))) * self.logit_multiplier
        return found["logits"], found


@dataclasses.dataclass(frozen=True, eq=False)
class ResNetTask(network.ClassifierTask):
    """A ResNet of ``depth`` blocks of ``width``, 2 ``width`` and 4 ``width`` channels.

    Raises:
      ValueError: If the width is no multiple of the 8 channels of a group, the depth
        none of the three stages, ``alpha`` negative or the activation unknown.
    """

    activation: str | activations.Activation = "relu"
    alpha: float = 0.0  # Residual branches are times depth ** -alpha.

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % GROUP_SIZE:
            raise ValueError(
                f"the width of a ResNet must be a multiple of {GROUP_SIZE}, the "
                f"channels of a group of its norms; got {self.width}."
            )
        if self.depth % _STAGES:
            raise ValueError(
                f"the depth of a ResNet must be a multiple of {_STAGES}, as many "
                f"blocks in each of its stages; got {self.depth}."
            )
        if not self.alpha >= 0:
            raise ValueError(f"alpha must be at least 0, got {self.alpha}.")
        activations.get(self.activation)

    @property
    def _width_step(self) -> int:
        return GROUP_SIZE

    def _network(self, width: int, logit_multiplier: float) -> nn.Module:
        return _Network(
            width,
            self.depth,
            self.dataset.num_classes,
            self.sp,
            logit_multiplier,
            activations.get(self.activation),
            self.alpha,
        )
