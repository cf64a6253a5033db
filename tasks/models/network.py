"""Tasks whose model is a flax linen network, in μP and in SP.

A network maps inputs (b, ...) to (outputs, activations by layer name); the task adds
the loss. Roles in μP come from the network's shapes at two widths.
"""

import abc
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mulo import mup
from tasks import base


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkTask(base.Task):
    """A network of some width and depth.

    Subclasses give :meth:`_network`, and :attr:`_width_step` where widths must be
    multiples of something. Under μP the readout must be called ``readout``.

    Raises:
      ValueError: If ``width``, ``depth`` or ``batch_size`` is below 1, or the width is
        no multiple of what the network needs.
    """

    width: int  # Units, or channels, of a hidden layer.
    depth: int  # Layers before the readout.
    sp: bool = False  # Standard parametrization instead of μP.

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("width", "depth"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"{field} must be at least 1, got {getattr(self, field)}."
                )

    @abc.abstractmethod
    def _network(self, width: int, logit_multiplier: float) -> nn.Module:
        """Return the network at a width: inputs to (outputs, activations)."""

    @property
    def _width_step(self) -> int:
        """Difference to the next width that the network can have."""
        return 1

    def init(self, key: jax.Array) -> base.Params:
        """Draw the network's parameters, a nested dict of float32 arrays."""
        return self._own_network.init(key, self._one_input)["params"]

    def apply(self, params: base.Params, inputs: jax.Array) -> jax.Array:
        """Return what the network makes of the inputs (b, ...), float32."""
        return self._forward(params, inputs)[0]

    def activations(
        self, params: base.Params, inputs: jax.Array
    ) -> dict[str, jax.Array]:
        """Return what each layer's weights produce, by name, in order, output last."""
        return self._forward(params, inputs)[1]

    def scalings(self) -> Any:
        """Return the tree of ``mulo.mup.Scaling`` of the parameters; None under SP."""
        return None if self.sp else self._scalings

    @functools.cached_property
    def _scalings(self) -> Any:
        wider = self._shapes(self.width + self._width_step)
        return mup.infer(wider, self._shapes(self.width))

    @functools.cached_property
    def _own_network(self) -> nn.Module:
        multiplier = 1.0
        if not self.sp and "readout" in self._scalings:
            multiplier = mup.forward_multiplier(self._scalings["readout"]["kernel"])
        return self._network(self.width, multiplier)

    def _forward(self, params: base.Params, inputs: jax.Array) -> Any:
        return self._own_network.apply({"params": params}, inputs)

    @property
    def _one_input(self) -> jax.Array:
        return jnp.zeros((1, *self.dataset.input_shape), self.dataset.input_dtype)

    def _shapes(self, width: int) -> Any:
        """Shapes of the parameters at a width, without computing them."""
        network = self._network(width, 1.0)
        return jax.eval_shape(network.init, jax.random.key(0), self._one_input)[
            "params"
        ]


class ClassifierTask(NetworkTask):
    """A network whose outputs are logits (..., classes) of integer labels (...)."""

    @property
    def chance_loss(self) -> float:
        """Return ln(classes), in nats."""
        return math.log(self.dataset.num_classes)

    def loss(self, params: base.Params, key: jax.Array, batch: base.Batch) -> jax.Array:
        """Return the mean cross entropy of a batch in nats; the key is not used."""
        del key
        logits = self.apply(params, batch["inputs"])
        return base.mean_cross_entropy(logits, batch["labels"])

    def metrics(self, params: base.Params, batch: base.Batch) -> dict[str, jax.Array]:
        """Return ``loss`` (nats per label) and ``accuracy`` (fraction)."""
        logits = self.apply(params, batch["inputs"])
        correct = jnp.argmax(logits, axis=-1) == batch["labels"]
        return {
            "loss": base.mean_cross_entropy(logits, batch["labels"]),
            "accuracy": jnp.mean(correct.astype(jnp.float32)),
        }
