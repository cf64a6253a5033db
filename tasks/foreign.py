"""Tasks of google/learned_optimization as tasks of ours; see `mulo.interop.task`.

Nothing of it is imported: a task of its brings all that is called.

Axis names: N batches of a split.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tasks import base

_SPLITS = {"train": "train", "valid": "outer_valid", "test": "test"}
_TRAIN_SPLITS = ("train", "inner_valid")
# Not left to be done: what asks for a network has to stop here, with the reason.
_NO_NETWORK = (
    "A task of learned_optimization has a loss and no network to look into: it can be "
    "meta-trained on, but neither swept over widths nor checked by coordinates."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Batches(base.Dataset):
    """Whole batches of any structure, one of which is a draw.

    A split holds the leaves of its batches by number, with a leading axis N, and is
    empty if the task has no data.
    """

    treedef: Any  # Of a batch.

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Raise: a batch may be anything."""
        raise NotImplementedError(_NO_NETWORK)

    @property
    def input_dtype(self) -> Any:
        """Raise: a batch may be anything."""
        raise NotImplementedError(_NO_NETWORK)

    @property
    def num_classes(self) -> int:
        """Raise: a batch may be anything."""
        raise NotImplementedError(_NO_NETWORK)

    def sample(
        self, arrays: base.Arrays, key: jax.Array, batch_size: int
    ) -> base.Batch:
        """Draw a batch, whole, with replacement; its size is what was read."""
        del batch_size
        if not arrays:
            return {}
        number = jax.random.randint(key, (), 0, self.num_examples(arrays))
        return {name: x[number] for name, x in arrays.items()}

    def num_examples(self, arrays: base.Arrays) -> int:
        """Batches of a split: N."""
        return len(next(iter(arrays.values()))) if arrays else 0

    def examples(self, arrays: base.Arrays, index: jax.Array) -> base.Batch:
        """Return one batch by number.

        Args:
          arrays: A split.
          index: shape=(1,), integer in [0, num_examples).

        Raises:
          ValueError: If more than one batch is asked for.
        """
        if jnp.shape(index) != (1,):
            raise ValueError(
                "Batches of a foreign task are taken one at a time: index must have "
                f"shape (1,), got {jnp.shape(index)}."
            )
        return {name: jnp.asarray(x)[index[0]] for name, x in arrays.items()}

    def batch(self, leaves: base.Batch) -> Any:
        """Put a batch's leaves back into the structure that the task reads."""
        names = map(_name, range(self.treedef.num_leaves))
        return self.treedef.unflatten([leaves[name] for name in names])


@dataclasses.dataclass(frozen=True, eq=False)
class ForeignTask(base.Task):
    """A loss of learned_optimization's, on batches that were read beforehand."""

    dataset: Batches
    lo_task: Any

    def init(self, key: jax.Array) -> base.Params:
        """Draw initial parameters as the task does."""
        return self.lo_task.init(_raw(key))

    def apply(self, params: base.Params, inputs: jax.Array) -> jax.Array:
        """Raise: the task has nothing but a loss."""
        raise NotImplementedError(_NO_NETWORK)

    def activations(
        self, params: base.Params, inputs: jax.Array
    ) -> dict[str, jax.Array]:
        """Raise: the task has nothing but a loss."""
        raise NotImplementedError(_NO_NETWORK)

    def loss(self, params: base.Params, key: jax.Array, batch: base.Batch) -> jax.Array:
        """Return the task's loss of a batch, shape=()."""
        return self.lo_task.loss(params, _raw(key), self.dataset.batch(batch))

    def metrics(self, params: base.Params, batch: base.Batch) -> dict[str, jax.Array]:
        """Return ``loss``; what is random in it, dropout say, is always the same."""
        return {"loss": self.loss(params, jax.random.key(0), batch)}

    def scalings(self) -> None:
        """Return None: the standard parametrization."""


def read(lo_task: Any, *, num_batches: int, split: str) -> ForeignTask:
    """Wrap a task and read its batches; see `mulo.interop.task`."""
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, got {num_batches}.")
    if split not in _TRAIN_SPLITS:
        raise ValueError(f"split must be one of {_TRAIN_SPLITS}, got {split!r}.")
    state = jax.eval_shape(lo_task.init_with_state, jax.random.PRNGKey(0))[1]
    if jax.tree.leaves(state):
        raise ValueError(
            f"{lo_task.name} has a state of its own (running means of batch "
            "normalization?), and our tasks are pure functions of their parameters. "
            "Use a task without, such as one whose network has layer normalization."
        )
    splits: dict[str, dict[str, np.ndarray]] = {name: {} for name in _SPLITS}
    treedef = jax.tree.structure({})
    if lo_task.datasets is not None:
        few = max(1, num_batches // 10)
        counts = {"train": num_batches, "valid": few, "test": few}
        for ours, theirs in (_SPLITS | {"train": split}).items():
            stream = lo_task.datasets.split(theirs)
            splits[ours], treedef = _stack(stream, counts[ours], lo_task.name, theirs)
    name = f"learned_optimization:{lo_task.name}"
    sizes = [x.shape[1] for x in splits["train"].values() if x.ndim > 1]
    return ForeignTask(
        name=name,
        dataset=Batches(name=name, splits=splits, treedef=treedef),
        batch_size=sizes[0] if sizes else 1,
        lo_task=lo_task,
    )


def _stack(stream, number, task, split):
    """Leaves of the next batches, stacked: (N, ...), and the batches' structure."""
    batches = list(itertools.islice(stream, number))
    if not batches:
        raise ValueError(f"{task} has no batch in its split {split!r}.")
    arrays = {}
    columns = zip(*(jax.tree.leaves(batch) for batch in batches), strict=True)
    for i, column in enumerate(columns):
        arrays[_name(i)] = stacked = np.stack([np.asarray(x) for x in column])
        if stacked.dtype.kind not in "biuf":
            raise ValueError(
                f"Batches of {task} hold {stacked.dtype} in leaf {i}, and only numbers "
                "can lie on the device. Map the task's datasets so that they leave it "
                "out."
            )
    return arrays, jax.tree.structure(batches[0])


def _name(leaf: int) -> str:
    return f"leaf_{leaf:03d}"


def _raw(key: jax.Array) -> jax.Array:
    """The same key of the old kind, the only one that haiku takes."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(key) if typed else key
