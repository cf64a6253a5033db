"""Image compression by an MLP autoencoder, in μP and in SP.

An MLP (:mod:`tasks.models.mlp`) with a narrow layer in its middle gives back the image
it read: ``mlpae-w128-d3-fashion_mnist`` has hidden layers of 128, 32 and 128 units,
then the readout to the pixels and a sigmoid. Depth d, odd, counts the weight matrices
before the readout: (d - 1) / 2 of ``width`` units on either side of the bottleneck,
which has a quarter of them.

The loss is the squared error against the pixels in [0, 1], mean over pixels and
examples. Inputs are what the data set gives, as in other tasks; the targets are made
from them, so what is added to a batch's inputs is in its targets too.

Differs from [1]: inputs are normalized, unless the data set is ``:velodrome``.

References:
  [1] ``learned_optimization/tasks/fixed/image_mlp_ae.py``, of VeLOdrome
  (Metz et al., `VeLO <https://arxiv.org/abs/2211.09760>`_, 2022).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tasks import base
from tasks.data import image_dataset
from tasks.models import activations, mlp, network

_NARROWING = 4  # Units of a hidden layer per unit of the bottleneck.


@dataclasses.dataclass(frozen=True, eq=False)
class MLPAutoencoderTask(network.NetworkTask):
    """An autoencoder with a bottleneck of ``width / 4`` units.

    Raises:
      ValueError: If the width is no multiple of 4, the depth even or below 3, the
        activation function unknown, or the data set not one of images.
    """

    activation: str | activations.Activation = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % _NARROWING:
            raise ValueError(
                f"the width of an autoencoder must be a multiple of {_NARROWING}, "
                f"since the bottleneck has a quarter of it; got {self.width}."
            )
        if self.depth < 3 or self.depth % 2 == 0:
            raise ValueError(
                "the depth of an autoencoder must be odd and at least 3, as many "
                f"layers before the bottleneck as after it; got {self.depth}."
            )
        activations.get(self.activation)
        if not isinstance(self.dataset, image_dataset.ImageDataset):
            raise ValueError(
                f"an autoencoder needs images, got the data set {self.dataset.name!r}, "
                f"a {type(self.dataset).__name__}."
            )

    @property
    def _width_step(self) -> int:
        return _NARROWING

    def _network(self, width: int, logit_multiplier: float) -> nn.Module:
        side = (width,) * (self.depth // 2)
        return mlp.Network(
            (*side, width // _NARROWING, *side),
            math.prod(self.dataset.input_shape),
            self.sp,
            logit_multiplier,
            activations.get(self.activation),
        )

    def apply(self, params: base.Params, inputs: jax.Array) -> jax.Array:
        """Return the images in [0, 1] that come out, float32, shaped as the inputs."""
        return jax.nn.sigmoid(super().apply(params, inputs)).reshape(inputs.shape)

    def loss(self, params: base.Params, key: jax.Array, batch: base.Batch) -> jax.Array:
        """Return the mean squared error of a pixel in [0, 1]; the key is not used."""
        del key
        error = self.apply(params, batch["inputs"]) - self._pixels(batch["inputs"])
        return jnp.mean(jnp.square(error))

    def metrics(self, params: base.Params, batch: base.Batch) -> dict[str, jax.Array]:
        """Return ``loss`` (squared error per pixel); there is no accuracy."""
        return {"loss": self.loss(params, jax.random.key(0), batch)}

    def _pixels(self, inputs: jax.Array) -> jax.Array:
        """Undo :meth:`ImageDataset.normalize`: x / 255 where x are the raw pixels."""
        assert isinstance(self.dataset, image_dataset.ImageDataset)
        per_channel = (1,) * (inputs.ndim - 1) + (inputs.shape[-1],)
        mean = np.asarray(self.dataset.mean, np.float32).reshape(per_channel)
        std = np.asarray(self.dataset.std, np.float32).reshape(per_channel)
        return inputs * std + mean
