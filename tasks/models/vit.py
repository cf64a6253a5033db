"""Image classification by a vision transformer, in μP and in SP.

An image is cut into square patches, row by row; each, flattened, goes through one
linear layer. Learned positions are added, :mod:`tasks.models.blocks` applied with
attention between all patches, and the mean of the last layer norm's outputs read out;
or, with ``class_token``, the output of a learned vector that goes ahead of the patches.
Under μP the readout starts at zero and its logits are times 1/width.

Positions and the class token start as N(0, 1) under μP, where their one input is 1;
under SP as in the public ViT code, positions at a std of 0.02 and the token at zero.
Differs from the μLO code: that has positions and the patches' kernel of std
1/sqrt(width) under μP, which fade as networks widen.

References:
  Dosovitskiy et al., `ViT <https://arxiv.org/abs/2010.11929>`_, 2021.
  ``vit_jax/models_vit.py`` of ``google-research/vision_transformer``, for SP.
  ``src/mu_vit.py`` of ``bentherien/mu_learned_optimization``, the μLO code.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tasks.models import blocks, layers


class _Network(nn.Module):
    """Images (b, height, width, c) to (logits, activations by layer name)."""

    config: blocks.BlockConfig
    patch: int
    class_token: bool
    classes: int
    logit_multiplier: float

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        c = self.config
        embed = nn.Dense(
            c.width,
            dtype=c.dtype,
            kernel_init=layers.kernel_init(sp=c.sp),
            name="embed",
        )
        x = embed(cut(inputs, self.patch)).astype(jnp.float32)
        if self.class_token:
            token = self.param(
                "class_token", _class_token_init(sp=c.sp), (c.width,), jnp.float32
            )
            first = jnp.broadcast_to(token[None, None], (x.shape[0], 1, c.width))
            x = jnp.concatenate([first, x], axis=1)
        positions = self.param(
            "positions", _positions_init(sp=c.sp), x.shape[1:], jnp.float32
        )
        x = x + positions[None]
        x, found = blocks.apply(c, x, {"embed": x})
        x = x[:, 0] if self.class_token else jnp.mean(x, axis=1)
        logits = blocks.readout(c, self.classes, x, self.logit_multiplier)
        found["logits"] = logits
        return logits, found


def cut(images: jax.Array, patch: int) -> jax.Array:
    """Cut images (b, height, width, c) into patches (b, s, patch * patch * c).

    Patches go from left to right, then down; so do the pixels of one, channels last.
    """
    b, height, width, c = images.shape
    rows, columns = height // patch, width // patch
    x = images.reshape(b, rows, patch, columns, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, -1)


def _positions_init(*, sp: bool) -> Any:
    return nn.initializers.normal(0.02 if sp else 1.0)


def _class_token_init(*, sp: bool) -> Any:
    return nn.initializers.zeros if sp else nn.initializers.normal(1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class ViTTask(blocks.BlocksTask):
    """An image classifier of ``depth`` blocks on square patches.

    Raises:
      ValueError: If the data set is none of images, or ``patch`` does not divide
        their sides.
    """

    patch: int = 4  # Pixels of a side.
    class_token: bool = False  # Read out a vector of its own, not the patches' mean.

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.dataset.input_shape) != 3:
            raise ValueError(
                f"a vit needs images, got the data set {self.dataset.name!r}; "
                "one of images is digits."
            )
        if self.patch < 1:
            raise ValueError(f"patch must be at least 1, got {self.patch}.")
        height, width, _ = self.dataset.input_shape
        if height % self.patch or width % self.patch:
            fits = [p for p in range(1, height + 1) if not (height % p or width % p)]
            raise ValueError(
                f"patch must divide the {height}x{width} images of "
                f"{self.dataset.name!r}, got {self.patch}; one of "
                f"{', '.join(f'-p{p}' for p in fits)} would."
            )

    @property
    def positions(self) -> int:
        """Patches of an image, and the class token."""
        height, width, _ = self.dataset.input_shape
        return (height // self.patch) * (width // self.patch) + self.class_token

    def _network(self, width: int, logit_multiplier: float) -> nn.Module:
        return _Network(
            self._block_config(width, causal=False),
            self.patch,
            self.class_token,
            self.dataset.num_classes,
            logit_multiplier,
        )
