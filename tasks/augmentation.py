"""Families of tasks that a single task is turned into, each member drawn inside jit.

* Reparametrization: the member trains W with loss(α W) and starts at W0 / α, where W0
  is the task's own start and α log-uniform; one α for all (``global``), for each tensor
  or for each parameter. The function is the same, and how it must be trained is not:
  dL/dW is α times the task's own gradient.
* Label subset: the member's batches hold some of the classes only: a number of them
  that is uniform between ``label_subset_min`` and all, drawn without replacement. Every
  class of them is equally likely, then every example of the class. Labels and logits
  stay as they are.
* Input noise: to every input of a training batch, after normalization, is added a
  normal number of the member's own standard deviation, new in every batch.
* Activation: the member uses one of several activation functions, whichever one the
  task's name asks for.

All are off by default and can be combined. :meth:`tasks.Task.scalings` stays as it is:
under μP a rule sees scaled parameters and gradients.

Axes: b examples of a batch, n examples of a split, c classes.

References:
  Metz et al., `VeLO <https://arxiv.org/abs/2211.09760>`_, 2022, appendix, and
  ``learned_optimization/tasks/task_augmentation.py``, for the reparametrization; its
  range here is that of Moudgil et al., `Celo <https://arxiv.org/abs/2501.12670>`_,
  2025.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from tasks import base
from tasks.data import image_dataset
from tasks.models import activations

LEVELS = ("none", "global", "tensor", "parameter")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What members of a family differ in.

    Attributes:
      reparam: One of :data:`LEVELS`: how many α a member draws.
      reparam_low: Smallest α.
      reparam_high: Largest α.
      label_subset_min: Fewest classes of a member; 0: all classes always.
      input_noise_max: Largest standard deviation of the noise, which is uniform in
        [0, this], in units of normalized inputs.
      activations: Names of activation functions; none: that of the task.

    Raises:
      ValueError: If a value is out of its range.
    """

    reparam: str = "none"
    reparam_low: float = 1e-3
    reparam_high: float = 1e3
    label_subset_min: int = 0
    input_noise_max: float = 0.0
    activations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.reparam not in LEVELS:
            raise ValueError(
                f"augment.reparam must be one of {list(LEVELS)}, got {self.reparam!r}."
            )
        low, high = self.reparam_low, self.reparam_high
        if not 0.0 < low <= high < math.inf:
            raise ValueError(
                "augment.reparam_low and reparam_high must satisfy 0 < low <= high < "
                f"inf, got {low} and {high}."
            )
        if self.label_subset_min < 0:
            raise ValueError(
                f"augment.label_subset_min must be >= 0, got {self.label_subset_min}."
            )
        if not 0.0 <= self.input_noise_max < math.inf:
            raise ValueError(
                "augment.input_noise_max must be finite and >= 0, got "
                f"{self.input_noise_max}."
            )
        object.__setattr__(self, "activations", tuple(self.activations))  # From JSON.
        for name in self.activations:
            activations.get(name)

    @property
    def is_off(self) -> bool:
        """Whether members do not differ."""
        return self.reparam == "none" and not (
            self.label_subset_min or self.input_noise_max or self.activations
        )


@dataclasses.dataclass(frozen=True, eq=False)
class AugmentedFamily(base.TaskFamily):
    """Variants of ``task``, as ``config`` says.

    A member is told by a dict, with only what is turned on:

    * ``scale``: α, float32: shape=(), (tensors,) or (parameters,).
    * ``classes``: int32 (c,), a random order of the classes; and ``num_classes``, int32
      shape=(): how many of them, from the first, are the member's.
    * ``noise_std``: float32, shape=().
    * ``activation``: int32, shape=(), index into ``config.activations``.

    Raises:
      ValueError: If the task cannot be varied so.
    """

    config: AugmentConfig

    def __post_init__(self) -> None:
        config, name = self.config, self.task.name
        images = isinstance(self.task.dataset, image_dataset.ImageDataset)
        for field in ("label_subset_min", "input_noise_max"):
            if getattr(config, field) and not images:
                raise ValueError(
                    f"augment.{field} is for images, and {name!r} has none: set it to "
                    "0."
                )
        if config.input_noise_max and self.task.chance_loss is None:
            raise ValueError(
                f"augment.input_noise_max would add noise to what {name!r} is to "
                "reconstruct: set it to 0."
            )
        if config.activations and not hasattr(self.task, "activation"):
            raise ValueError(
                "augment.activations is for tasks with an activation function to "
                f"choose, and {name!r} has none: leave it empty."
            )
        if config.label_subset_min > len(self._classes):
            raise ValueError(
                "augment.label_subset_min must be at most the number of classes, "
                f"{len(self._classes)} for {name!r}; got {config.label_subset_min}."
            )

    def arrays(self, split: str) -> base.Arrays:
        """Return a split's arrays; for label subsets also where each class lies.

        Returns:
          What the data set gives, and ``by_class``, int32 (n,): numbers of the
          examples, class by class; ``class_start`` and ``class_count``, int32 (c,).

        Raises:
          ValueError: If the split lacks a class that members draw from.
        """
        arrays = super().arrays(split)
        if not self.config.label_subset_min:
            return arrays
        labels = np.asarray(arrays["labels"])
        count = np.bincount(labels, minlength=self.task.dataset.num_classes)
        if np.any(count[self._classes] == 0):
            raise ValueError(
                f"for label subsets the split {split!r} of "
                f"{self.task.dataset.name!r} must hold every class of its train split."
            )
        return {
            **arrays,
            "by_class": np.argsort(labels, kind="stable").astype(np.int32),
            "class_start": (np.cumsum(count) - count).astype(np.int32),
            "class_count": count.astype(np.int32),
        }

    def sample(self, key: jax.Array) -> dict[str, jax.Array]:
        """Draw a member."""
        config, sizes = self.config, {}
        if config.reparam != "none":
            sizes["scale"] = self._num_scales
        if config.label_subset_min:
            sizes["classes"] = 1 + len(self._classes)
        if config.input_noise_max:
            sizes["noise_std"] = 1
        if config.activations:
            sizes["activation"] = 1
        # One draw for all: every further one is compiled anew.
        drawn = jax.random.uniform(key, (sum(sizes.values()),))
        ends = np.cumsum(list(sizes.values()))[:-1]
        parts = dict(zip(sizes, jnp.split(drawn, ends), strict=True))

        member = {}
        if "scale" in parts:
            low, high = math.log(config.reparam_low), math.log(config.reparam_high)
            scale = jnp.exp(low + (high - low) * parts["scale"])
            member["scale"] = scale[0] if config.reparam == "global" else scale
        if "classes" in parts:
            first, *_ = parts["classes"]
            spread = len(self._classes) - config.label_subset_min + 1
            member["num_classes"] = config.label_subset_min + _index(first, spread)
            order = jnp.argsort(parts["classes"][1:])
            member["classes"] = jnp.asarray(self._classes)[order]
        if "noise_std" in parts:
            member["noise_std"] = config.input_noise_max * parts["noise_std"][0]
        if "activation" in parts:
            count = len(config.activations)
            member["activation"] = _index(parts["activation"][0], count)
        return member

    def at(self, task_params: dict[str, jax.Array]) -> base.Task:
        """Return a member."""
        task: Any = self.task
        if "activation" in task_params:
            chosen = activations.select(
                self.config.activations, task_params["activation"]
            )
            task = dataclasses.replace(task, activation=chosen)
        return AugmentedTask(
            name=self.task.name,
            dataset=self.task.dataset,
            batch_size=self.task.batch_size,
            task=task,
            scales=self._scales(task_params.get("scale")),
            classes=task_params.get("classes"),
            num_classes=task_params.get("num_classes"),
            noise_std=task_params.get("noise_std"),
        )

    @property
    def _classes(self) -> np.ndarray:
        """Classes that occur in the train split: int32, ascending."""
        if not self.config.label_subset_min:
            return np.zeros(0, np.int32)
        return np.unique(self.task.dataset.arrays("train")["labels"]).astype(np.int32)

    def _shapes(self) -> Any:
        return jax.eval_shape(self.task.init, jax.random.key(0))

    @property
    def _num_scales(self) -> int:
        leaves = jax.tree.leaves(self._shapes())
        by_level = {
            "global": 1,
            "tensor": len(leaves),
            "parameter": sum(leaf.size for leaf in leaves),
        }
        return by_level[self.config.reparam]

    def _scales(self, scale: jax.Array | None) -> Any:
        """Return α as a tree like the parameters; None without."""
        if scale is None:
            return None
        shapes = self._shapes()
        if self.config.reparam == "global":
            return jax.tree.map(lambda _: scale, shapes)
        if self.config.reparam == "tensor":
            return jax.tree.unflatten(jax.tree.structure(shapes), list(scale))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
        return flatten_util.ravel_pytree(zeros)[1](scale)


@dataclasses.dataclass(frozen=True, eq=False)
class AugmentedTask(base.Task):
    """A member of an :class:`AugmentedFamily`: pure functions, also when traced."""

    task: base.Task  # The one it is a variant of, with its activation function.
    scales: Any = None  # α: tree like the parameters; leaves of their shapes or ().
    classes: jax.Array | None = None  # (c,), int32.
    num_classes: jax.Array | None = None  # shape=(), int32. In use, of `classes`.
    noise_std: jax.Array | None = None  # shape=(), float32.

    @property
    def positions(self) -> int:
        """Those of the task."""
        return self.task.positions

    @property
    def chance_loss(self) -> float | None:
        """That of the task."""
        return self.task.chance_loss

    def sample(
        self, arrays: base.Arrays, key: jax.Array, batch_size: int | None = None
    ) -> base.Batch:
        """Draw a batch of the member's classes, with its noise.

        Args:
          arrays: A split, as :meth:`AugmentedFamily.arrays` gives it.
          key: Decides everything drawn.
          batch_size: The task's own if None.
        """
        size = batch_size or self.batch_size
        data_key = noise_key = key
        if self.noise_std is not None:
            data_key, noise_key = jax.random.split(key)
        if self.classes is None:
            batch = self.task.sample(arrays, data_key, size)
        else:
            batch = self._sample_classes(arrays, data_key, size)
        if self.noise_std is not None:
            noise = jax.random.normal(noise_key, batch["inputs"].shape)
            batch = {**batch, "inputs": batch["inputs"] + self.noise_std * noise}
        return batch

    def _sample_classes(
        self, arrays: base.Arrays, key: jax.Array, size: int
    ) -> base.Batch:
        assert isinstance(self.dataset, image_dataset.ImageDataset)
        assert self.classes is not None
        assert self.num_classes is not None
        # The modulo's bias is below n / 2^32.
        bits = jax.random.bits(key, (2 + self.dataset.distorts, size))
        place = bits[0] % self.num_classes.astype(jnp.uint32)
        label = self.classes[place.astype(jnp.int32)]
        count = jnp.asarray(arrays["class_count"])[label].astype(jnp.uint32)
        rank = jnp.asarray(arrays["class_start"])[label]
        rank = rank + (bits[1] % count).astype(jnp.int32)
        index = jnp.asarray(arrays["by_class"])[rank]
        if self.dataset.distorts:
            return self.dataset.distorted(arrays, index, bits[2])
        return self.dataset.examples(arrays, index)

    def init(self, key: jax.Array) -> base.Params:
        """Draw W0 / α, float32."""
        params = self.task.init(key)
        if self.scales is None:
            return params
        return jax.tree.map(jnp.divide, params, self.scales)

    def apply(self, params: base.Params, inputs: jax.Array) -> jax.Array:
        """Return what the task's network makes of the inputs at α W."""
        return self.task.apply(self._scaled(params), inputs)

    def activations(
        self, params: base.Params, inputs: jax.Array
    ) -> dict[str, jax.Array]:
        """Return what each layer produces at α W."""
        return self.task.activations(self._scaled(params), inputs)

    def loss(self, params: base.Params, key: jax.Array, batch: base.Batch) -> jax.Array:
        """Return the task's loss at α W."""
        return self.task.loss(self._scaled(params), key, batch)

    def metrics(self, params: base.Params, batch: base.Batch) -> dict[str, jax.Array]:
        """Return the task's metrics at α W."""
        return self.task.metrics(self._scaled(params), batch)

    def scalings(self) -> Any:
        """Return the task's own: scales do not change what is wide."""
        return self.task.scalings()

    def _scaled(self, params: base.Params) -> base.Params:
        if self.scales is None:
            return params
        return jax.tree.map(jnp.multiply, params, self.scales)


def family(task: base.Task, config: AugmentConfig) -> base.TaskFamily:
    """Return the family of a task; of one member if nothing is turned on."""
    return base.TaskFamily(task) if config.is_off else AugmentedFamily(task, config)


def _index(uniform: jax.Array, count: int) -> jax.Array:
    """Return int32 in [0, count) from a number uniform in [0, 1)."""
    # The product rounds up to `count` for numbers just below 1.
    return jnp.minimum((uniform * count).astype(jnp.int32), count - 1)
