"""Labelled images on the device, drawn inside jit.

Training batches may be cropped (``:crop4``: zeros around the raw pixels, then a window
of the old size at random) and mirrored (``:flip``); evaluation sees images as they are.

Inputs are normalized to mean 0 and std 1 per channel, both of the train split. Under
``:velodrome`` they are x / 255 and the splits others, as :mod:`tasks.data.velodrome`
says.

Axes: b examples of a batch, n examples of a split, h and w pixels, c channels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tasks import base
from tasks.data import images, names, velodrome


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset(base.Dataset):
    """Splits of ``inputs``, uint8 (n, h, w, c), and ``labels``, int32 (n,).

    Inputs may be float32 too, in the same units: what resizing left unrounded.

    Raises:
      ValueError: If ``crop`` does not lie in [0, the images' shorter side).
    """

    classes: int  # Values a label can take.
    mean: tuple[float, ...]  # shape=(c,). Of x / 255 over the train split.
    std: tuple[float, ...]  # shape=(c,). Likewise; 1 where a channel is constant.
    crop: int = 0  # Pixels of padding on every side before a random crop.
    flip: bool = False  # Mirror left and right with probability 1/2.

    def __post_init__(self) -> None:
        h, w, _ = self.input_shape
        if not 0 <= self.crop < min(h, w):
            raise ValueError(
                f"crop must lie in [0, {min(h, w)}) for images of {h}x{w} pixels, got "
                f"{self.crop} in {self.name!r}."
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return (h, w, c)."""
        return self.splits["train"]["inputs"].shape[1:]

    @property
    def input_dtype(self) -> Any:
        """Return float32."""
        return jnp.float32

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return self.classes

    def sample(
        self, arrays: base.Arrays, key: jax.Array, batch_size: int
    ) -> base.Batch:
        """Draw normalized float32 inputs (b, h, w, c) and int32 labels (b,)."""
        count = arrays["labels"].shape[0]
        # One draw of 32 bits: the modulo favours no example by more than count / 2^32,
        # and `randint`, which draws twice, takes twice as long to compile.
        if not self.distorts:
            bits = jax.random.bits(key, (batch_size,))
            return self.examples(arrays, _below(bits, count))
        bits = jax.random.bits(key, (2, batch_size))
        return self.distorted(arrays, _below(bits[0], count), bits[1])

    @property
    def distorts(self) -> bool:
        """Whether training images are cropped or mirrored."""
        return self.crop > 0 or self.flip

    def distorted(
        self, arrays: base.Arrays, index: jax.Array, bits: jax.Array
    ) -> base.Batch:
        """Return examples by number, cropped and mirrored as for training.

        Args:
          arrays: A split.
          index: shape=(b,), integers in [0, n).
          bits: shape=(b,), uint32. Where to crop and whether to mirror.

        Returns:
          As :meth:`examples`.
        """
        taken = self._take(arrays, index)
        x = taken["inputs"]
        if self.crop:
            # The modulo favours no offset by more than (2 * crop + 1)^2 / 2^32.
            side = np.uint32(2 * self.crop + 1)
            around = (self.crop, self.crop)
            padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
            # On CPUs a slice per image beats gathers of pixels by a factor of two.
            x = jax.vmap(
                lambda image, y, z: jax.lax.dynamic_slice(
                    image, (y, z, jnp.uint32(0)), x.shape[1:]
                )
            )(padded, bits % side, bits // side % side)
            bits = bits // side**2
        if self.flip:
            mirror = (bits % np.uint32(2) == 1)[:, None, None, None]
            x = jnp.where(mirror, x[:, :, ::-1], x)
        return self.normalize({**taken, "inputs": x})

    def num_examples(self, arrays: base.Arrays) -> int:
        """Return n."""
        return arrays["labels"].shape[0]

    def examples(self, arrays: base.Arrays, index: jax.Array) -> base.Batch:
        """Return normalized float32 inputs (b, h, w, c) and int32 labels (b,)."""
        return self.normalize(self._take(arrays, index))

    def _take(self, arrays: base.Arrays, index: jax.Array) -> dict[str, jax.Array]:
        return {
            k: jnp.asarray(arrays[k]).at[index].get(mode="promise_in_bounds")
            for k in ("inputs", "labels")
        }

    def normalize(self, arrays: base.Arrays) -> base.Batch:
        """Turn raw images into float32 ones of mean 0 and std 1 per channel.

        Args:
          arrays: Examples as a split holds them, any number of them.

        Returns:
          The same examples in the form of :meth:`sample`.
        """
        inputs = jnp.asarray(arrays["inputs"])
        per_channel = (1,) * (inputs.ndim - 1) + (len(self.mean),)
        mean = np.asarray(self.mean, np.float32).reshape(per_channel)
        std = np.asarray(self.std, np.float32).reshape(per_channel)
        # One multiply-add per pixel.
        scaled = inputs.astype(jnp.float32) * (1 / (255 * std)) - mean / std
        return {"inputs": scaled, "labels": jnp.asarray(arrays["labels"], jnp.int32)}


def make(
    name: names.DataName,
    splits: Mapping[str, Mapping[str, np.ndarray]],
    num_classes: int,
    mean_and_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> ImageDataset:
    """Make a data set as its name says, of images that have their size already.

    Args:
      name: Its splits, normalization, crop and flip are followed here.
      splits: ``train``, complete, and what the set has of ``valid`` and ``test``:
        ``inputs`` (n, h, w, c) and ``labels`` (n,).
      num_classes: Values a label can take.
      mean_and_std: Per channel, of x / 255 over the train split that
        :func:`tasks.base.complete_splits` gives; None to measure them. Not looked at
        under ``:velodrome``.

    Raises:
      ValueError: If the crop or the train split is too small.
    """
    if name.velodrome:
        splits = velodrome.complete_splits(splits)
        channels = splits["train"]["inputs"].shape[-1]
        mean_and_std = (0.0,) * channels, (1.0,) * channels
    else:
        splits = base.complete_splits(splits)
        mean_and_std = mean_and_std or images.mean_and_std(splits["train"]["inputs"])
    return ImageDataset(
        str(name), splits, num_classes, *mean_and_std, name.crop or 0, name.flip
    )


def _below(bits: jax.Array, count: int) -> jax.Array:
    """Return int32 in [0, count) from 32 random bits each."""
    return (bits % np.uint32(count)).astype(jnp.int32)
