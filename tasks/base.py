"""What a task, a data set and a family of tasks are.

Axes: b examples of a batch, n examples of a split.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Params = Any  # A pytree of float32 arrays.
TaskParams = Any  # A pytree of arrays: what a family draws for each of its tasks.
Arrays = Mapping[str, Any]  # A split: whole arrays by name.
Batch = Mapping[str, jax.Array]  # "inputs" (b, ...), "labels" (b, ...).

VALID_FRAC = 0.1  # Of the train split, where a set has no validation split.


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset(abc.ABC):
    """Splits as whole arrays on the host.

    Put a split on the device once (``jax.device_put(dataset.arrays("train"))``) and
    hand it to jitted functions as an argument: captured, it would become a constant of
    the program.
    """

    name: str  # Canonical name, with the options.
    splits: Mapping[str, Mapping[str, np.ndarray]]  # "train", "valid", "test".

    def arrays(self, split: str) -> Mapping[str, np.ndarray]:
        """Return a split's arrays.

        Raises:
          ValueError: If the split is none of train, valid, test.
        """
        if split not in self.splits:
            raise ValueError(
                f"split must be one of {sorted(self.splits)}, got {split!r}."
            )
        return self.splits[split]

    @property
    @abc.abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example's inputs."""

    @property
    @abc.abstractmethod
    def input_dtype(self) -> Any:
        """Of a batch's inputs: float32 pixels, int32 tokens."""

    @property
    @abc.abstractmethod
    def num_classes(self) -> int:
        """Values a label can take."""

    @abc.abstractmethod
    def sample(self, arrays: Arrays, key: jax.Array, batch_size: int) -> Batch:
        """Draw a training batch with replacement: a pure function, made for jit.

        Args:
          arrays: A split, as :meth:`arrays` gives it.
          key: PRNG key of the draw, and of random crops and the like.
          batch_size: Examples to draw.

        Returns:
          ``inputs`` (b, *input_shape) and ``labels`` (b, ...).
        """

    @abc.abstractmethod
    def num_examples(self, arrays: Arrays) -> int:
        """Examples of a split that an evaluation goes through."""

    @abc.abstractmethod
    def examples(self, arrays: Arrays, index: jax.Array) -> Batch:
        """Return examples of a split by number, as they are, for evaluation.

        Args:
          arrays: A split, as :meth:`arrays` gives it.
          index: shape=(b,), integers in [0, num_examples).

        Returns:
          ``inputs`` (b, *input_shape) and ``labels`` (b, ...).
        """


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

    def sample(
        self, arrays: Arrays, key: jax.Array, batch_size: int | None = None
    ) -> Batch:
        """Draw ``batch_size`` (the task's own) examples; see :meth:`Dataset.sample`."""
        return self.dataset.sample(arrays, key, batch_size or self.batch_size)

    @property
    def positions(self) -> int:
        """Vectors an example goes through the network as: 1, or tokens or patches."""
        return 1

    @property
    def chance_loss(self) -> float | None:
        """Loss of equal odds for every label; None where there are no labels."""
        return None

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Params:
        """Draw initial parameters, float32."""

    @abc.abstractmethod
    def apply(self, params: Params, inputs: jax.Array) -> jax.Array:
        """Return what the network makes of the inputs (b, ...), float32."""

    @abc.abstractmethod
    def activations(self, params: Params, inputs: jax.Array) -> dict[str, jax.Array]:
        """Return what each layer's weights produce, by name, in order, output last."""

    @abc.abstractmethod
    def loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """Return the mean loss of a batch, float32 scalar.

        In nats per label for classifiers and language models.
        """

    @abc.abstractmethod
    def metrics(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """Return ``loss``, and ``accuracy`` (fraction) where it means something."""

    @abc.abstractmethod
    def scalings(self) -> Any:
        """Return the tree of ``mulo.mup.Scaling`` of the parameters; None under SP."""


@dataclasses.dataclass(frozen=True, eq=False)
class TaskFamily:
    """Tasks of the same shapes, drawn inside jit; this one has a single member.

    Families that draw something override the methods; see :mod:`tasks.augmentation`.
    """

    task: Task  # What the members are variants of.

    def arrays(self, split: str) -> Arrays:
        """Return what the members' ``sample`` reads, arrays on the host."""
        return self.task.dataset.arrays(split)

    def sample(self, key: jax.Array) -> TaskParams:
        """Draw what tells a member from the others: a pytree of arrays."""
        del key
        return ()

    def at(self, task_params: TaskParams) -> Task:
        """Return a member; its functions may be traced like ``task_params``."""
        del task_params
        return self.task


def mean_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean cross entropy in nats: shape=().

    Args:
      logits: (..., classes), float32.
      labels: (...), integers.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses)


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
        count = next(iter(train.values())).shape[0]  # Examples, or tokens.
        if count < 2:
            raise ValueError(f"the train split must hold 2 examples, got {count}.")
        kept = count - max(1, round(VALID_FRAC * count))
        valid = {k: v[kept:] for k, v in train.items()}
        train = {k: v[:kept] for k, v in train.items()}
    return {"train": train, "valid": valid, "test": splits.get("test", valid)}
