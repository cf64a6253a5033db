"""Image classification by a multi-layer perceptron, in μP and in SP.

Depth d is the number of weight matrices before the readout, the input one included:
``d3`` has three and a readout. ReLU between them, images flattened.

* μP [1]: weights from a truncated normal of variance 1/fan_in, all biases N(0, 1)
  (the readout's too), readout weights zero, logits times 1/fan_in.
* SP [2]: weights from a normal of scale 1/sqrt(fan_in) truncated at two scales, as
  ``haiku.Linear`` does (so their std is 0.88/sqrt(fan_in)); all biases zero.

Differs from the code of [1]: that leaves the std of truncated weights at 0.88 too;
here it is 1/sqrt(fan_in), as the paper says.

References:
  [1] Therien et al., `μLO <https://arxiv.org/abs/2406.00153>`_, 2024, section 4 and
  appendix C.
  [2] ``learned_optimization/tasks/fixed/image_mlp.py``.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from mulo import mup
from tasks import base


class _Network(nn.Module):
    """Flat images to (logits, pre-activations by layer name)."""

    width: int
    depth: int
    num_classes: int
    sp: bool
    logit_multiplier: float

    def _dense(self, name: str, features: int, inputs: jax.Array) -> jax.Array:
        if self.sp:
            kernel = nn.initializers.truncated_normal(inputs.shape[-1] ** -0.5)
            bias = nn.initializers.zeros
        else:
            readout = name == "readout"
            kernel = (
                nn.initializers.zeros if readout else nn.initializers.lecun_normal()
            )
            bias = nn.initializers.normal(1.0)
        dense = nn.Dense(features, kernel_init=kernel, bias_init=bias, name=name)
        return dense(inputs)

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        activations = {}
        x = inputs.reshape(inputs.shape[0], -1)
        for i in range(self.depth):
            name = f"linear_{i}"
            activations[name] = self._dense(name, self.width, x)
            x = jax.nn.relu(activations[name])
        logits = self._dense("readout", self.num_classes, x) * self.logit_multiplier
        activations["logits"] = logits
        return logits, activations


@dataclasses.dataclass(frozen=True, eq=False)
class MLPTask(base.Task):
    """An MLP of ``depth`` hidden layers of ``width`` units, and a linear readout.

    Raises:
      ValueError: If ``width``, ``depth`` or ``batch_size`` is below 1.
    """

    width: int  # Units of every hidden layer.
    depth: int  # Weight matrices before the readout.
    sp: bool = False  # Standard parametrization instead of μP.

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("width", "depth"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"{field} must be at least 1, got {getattr(self, field)}."
                )

    def init(self, key: jax.Array) -> base.Params:
        """Draw ``{"linear_0": {"kernel", "bias"}, ..., "readout": ...}``, float32."""
        return self._network.init(key, self._inputs(1))["params"]

    def apply(self, params: base.Params, inputs: jax.Array) -> jax.Array:
        """Return the logits (b, classes) of normalized inputs (b, h, w, c)."""
        return self._forward(params, inputs)[0]

    def activations(
        self, params: base.Params, inputs: jax.Array
    ) -> dict[str, jax.Array]:
        """Return ``linear_0`` ... (b, width) before ReLU, ``logits`` (b, classes)."""
        return self._forward(params, inputs)[1]

    def loss(self, params: base.Params, key: jax.Array, batch: base.Batch) -> jax.Array:
        """Return the mean cross entropy of a batch in nats; the key is not used."""
        del key
        return _cross_entropy(self.apply(params, batch["inputs"]), batch["labels"])

    def metrics(self, params: base.Params, batch: base.Batch) -> dict[str, jax.Array]:
        """Return ``loss`` (nats per example) and ``accuracy`` (fraction)."""
        logits = self.apply(params, batch["inputs"])
        correct = jnp.argmax(logits, axis=-1) == batch["labels"]
        return {
            "loss": _cross_entropy(logits, batch["labels"]),
            "accuracy": jnp.mean(correct.astype(jnp.float32)),
        }

    def scalings(self) -> Any:
        """Return the tree of ``mulo.mup.Scaling`` of the parameters; None under SP."""
        return None if self.sp else self._scalings

    @functools.cached_property
    def _scalings(self) -> Any:
        return mup.infer(self._shapes(self.width + 1), self._shapes(self.width))

    @functools.cached_property
    def _network(self) -> _Network:
        multiplier = (
            1.0
            if self.sp
            else mup.forward_multiplier(self._scalings["readout"]["kernel"])
        )
        return _Network(
            self.width, self.depth, self.dataset.num_classes, self.sp, multiplier
        )

    def _forward(self, params: base.Params, inputs: jax.Array) -> Any:
        return self._network.apply({"params": params}, inputs)

    def _inputs(self, batch_size: int) -> jax.Array:
        return jnp.zeros((batch_size, *self.dataset.input_shape), jnp.float32)

    def _shapes(self, width: int) -> Any:
        """Shapes of the parameters at a width, without computing them."""
        network = _Network(width, self.depth, self.dataset.num_classes, self.sp, 1.0)
        key = jax.random.key(0)
        return jax.eval_shape(network.init, key, self._inputs(1))["params"]


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses)
