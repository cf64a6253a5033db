"""Image classification by a plain convnet, in μP and in SP.

Depth d is the number of 3x3 convolutions before the readout. The first has ``width``
channels and a stride of 2, the others twice the channels and a stride of 1; after each
comes an activation function (ReLU unless the name says otherwise), after the last the
mean over all pixels. ``sp-conv-w32-d3-cifar10`` is VeLOdrome's Conv 32x64x64. Initial
weights are those of :mod:`tasks.models.layers`, where a kernel's pixels count as
fan-in; under μP the logits are times 1/fan_in of the readout.

References:
  ``Conv_Cifar10_32x64x64`` in ``learned_optimization/tasks/fixed/conv.py``, of
  VeLOdrome (Metz et al., `VeLO <https://arxiv.org/abs/2211.09760>`_, 2022).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from tasks.models import activations, layers, network


class _Network(nn.Module):
    """Images (b, h, w, c) to (logits, pre-activations by layer name)."""

    width: int
    depth: int
    num_classes: int
    sp: bool
    logit_multiplier: float
    activation: activations.Activation

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        found = {}
        x = inputs
        for i in range(self.depth):
            name = f"conv_{i}"
            channels, stride = (self.width, 2) if i == 0 else (2 * self.width, 1)
            found[name] = layers.conv(name, channels, sp=self.sp, stride=stride)(x)
            x = self.activation(found[name])
        readout = layers.dense("readout", self.num_classes, sp=self.sp)
        found["logits"] = readout(jnp.mean(x, axis=(1, 2))) * self.logit_multiplier
        return found["logits"], found


@dataclasses.dataclass(frozen=True, eq=False)
class ConvTask(network.ClassifierTask):
    """A convnet of ``depth`` convolutions: ``width`` channels, then twice as many.

    Raises:
      ValueError: If the activation function is unknown.
    """

    activation: str | activations.Activation = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        activations.get(self.activation)

    def _network(self, width: int, logit_multiplier: float) -> nn.Module:
        return _Network(
            width,
            self.depth,
            self.dataset.num_classes,
            self.sp,
            logit_multiplier,
            activations.get(self.activation),
        )
