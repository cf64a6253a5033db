"""What a task and a data set are.

Axes: b examples of a batch, n examples of a split, h and w pixels, c channels.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = Any  # A pytree of float32 arrays.
Arrays = Mapping[str, Any]  # "inputs": uint8 (n, h, w, c), "labels": int32 (n,).
Batch = Mapping[str, jax.Array]  # "inputs": float32 (b, h, w, c), "labels": int32 (b,).

VALID_FRAC = 0.1  # Of the train split, where a set has no validation split.


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, whole splits as arrays on the host.

    Put a split on the device once (``jax.device_put(dataset.arrays("train"))``) and
    hand it to jitted functions as an argument: captured, it would become a constant of
    the program.
    """

    name: str  # Canonical name, with the options.
    num_classes: int
    input_shape: tuple[int, int, int]  # (h, w, c)
    mean: tuple[float, ...]  # shape=(c,). Of x / 255 over the train split.
    std: tuple[float, ...]  # shape=(c,). Likewise; 1 where a channel is constant.
    splits: Mapping[str, Mapping[str, np.ndarray]]  # "train", "valid", "test".

    def arrays(self, split: str) -> Mapping[str, np.ndarray]:
        """Return a split: uint8 inputs (n, h, w, c) and int32 labels (n,).

        Raises:
          ValueError: If the split is none of train, valid, test.
        """
        if split not in self.splits:
            raise ValueError(
                f"split must be one of {sorted(self.splits)}, got {split!r}."
            )
        return self.splits[split]

    def sample(self, arrays: Arrays, key: jax.Array, batch_size: int) -> Batch:
        """Draw a batch with replacement: a pure function of the key, made for jit.

        Args:
          arrays: A split, as :meth:`arrays` gives it.
          key: PRNG key of the draw.
          batch_size: Examples to draw.

        Returns:
          Normalized float32 inputs (b, h, w, c) and int32 labels (b,).
        """
        count = arrays["labels"].shape[0]
        # One draw of 32 bits: the modulo favours no example by more than count / 2^32,
        # and `randint`, which draws twice, takes twice as long to compile.
        bits = jax.random.bits(key, (batch_size,))
        index = (bits % np.uint32(count)).astype(jnp.int32)
        return self.normalize(
            {
                k: jnp.asarray(v).at[index].get(mode="promise_in_bounds")
                for k, v in arrays.items()
            }
        )

    def normalize(self, arrays: Arrays) -> Batch:
        """Turn uint8 images into float32 ones of mean 0 and std 1 per channel.

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


@dataclasses.dataclass(frozen=True, eq=False)
class Task(abc.ABC):
    """A model, a loss and a data set, as pure functions that jit and vmap.

    Raises:
      ValueError: If ``batch_size`` is below 1.
    """

    name: str  # As `tasks.get` takes it.
    dataset: Dataset
    batch_size: int  # Examples per inner step.

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}.")

    def sample(self, arrays: Arrays, key: jax.Array) -> Batch:
        """Draw ``batch_size`` examples of a split; see :meth:`Dataset.sample`."""
        return self.dataset.sample(arrays, key, self.batch_size)

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Params:
        """Draw initial parameters, float32."""

    @abc.abstractmethod
    def apply(self, params: Params, inputs: jax.Array) -> jax.Array:
        """Return the logits (b, classes) of normalized inputs (b, h, w, c)."""

    @abc.abstractmethod
    def activations(self, params: Params, inputs: jax.Array) -> dict[str, jax.Array]:
        """Return each layer's pre-activations by name, in order, logits last."""

    @abc.abstractmethod
    def loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """Return the mean loss of a batch, float32 scalar in nats per example."""

    @abc.abstractmethod
    def metrics(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """Return ``loss`` (nats per example) and ``accuracy`` (fraction)."""

    @abc.abstractmethod
    def scalings(self) -> Any:
        """Return the tree of ``mulo.mup.Scaling`` of the parameters; None under SP."""


def complete_splits(
    splits: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Mapping[str, np.ndarray]]:
    """Complete the splits that a set has to train, valid and test.

    Without ``valid`` the last ``VALID_FRAC`` of ``train`` becomes it, and leaves
    ``train``; without ``test`` the validation split serves as both.

    Args:
      splits: ``train`` and, where the set has them, ``valid`` and ``test``.

    Returns:
      All three; arrays are views of those given.

    Raises:
      ValueError: If ``train`` is too small to give away an example.
    """
    train, valid = splits["train"], splits.get("valid")
    if valid is None:
        count = train["labels"].shape[0]
        if count < 2:
            raise ValueError(f"the train split must hold 2 examples, got {count}.")
        kept = count - max(1, round(VALID_FRAC * count))
        valid = {k: v[kept:] for k, v in train.items()}
        train = {k: v[:kept] for k, v in train.items()}
    return {"train": train, "valid": valid, "test": splits.get("test", valid)}
