"""Image classification by a multi-layer perceptron, in μP and in SP.

Depth d is the number of weight matrices before the readout, the input one included:
``d3`` has three and a readout. After each comes an activation function (ReLU unless the
name says otherwise), with ``ln`` a layer norm before it; images are flattened. Initial
weights are those of :mod:`tasks.models.layers`; under μP the logits are times 1/fan_in.

References:
  Therien et al., `μLO <https://arxiv.org/abs/2406.00153>`_, 2024, section 4 and
  appendix C.
  ``learned_optimization/tasks/fixed/image_mlp.py``, for SP and the place of the norm.
"""

import dataclasses

import jax
from flax import linen as nn

from tasks.models import activations, layers, network


class Network(nn.Module):
    """Flat images to (outputs, pre-activations by layer name)."""

    widths: tuple[int, ...]  # Units of each hidden layer.
    outputs: int
    sp: bool
    logit_multiplier: float
    activation: activations.Activation
    layer_norm: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return outputs (b, outputs) of inputs (b, ...), and (b, units) by layer."""
        found = {}
        x = inputs.reshape(inputs.shape[0], -1)
        for i, width in enumerate(self.widths):
            name = f"linear_{i}"
            x = found[name] = layers.dense(name, width, sp=self.sp)(x)
            if self.layer_norm:
                x = layers.layer_norm(f"norm_{i}")(x)
            x = self.activation(x)
        readout = layers.dense("readout", self.outputs, sp=self.sp)
        found["logits"] = readout(x) * self.logit_multiplier
        return found["logits"], found


@dataclasses.dataclass(frozen=True, eq=False)
class MLPTask(network.ClassifierTask):
    """An MLP of ``depth`` hidden layers of ``width`` units, and a linear readout.

    Raises:
      ValueError: If the activation function is unknown.
    """

    activation: str | activations.Activation = "relu"
    layer_norm: bool = False  # Between a hidden layer and its activation function.

    def __post_init__(self) -> None:
        super().__post_init__()
        activations.get(self.activation)

    def _network(self, width: int, logit_multiplier: float) -> nn.Module:
        return Network(
            (width,) * self.depth,
            self.dataset.num_classes,
            self.sp,
            logit_multiplier,
            activations.get(self.activation),
            self.layer_norm,
        )
