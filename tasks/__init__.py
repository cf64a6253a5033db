"""What is optimized: models with a loss and a data set, by name.

>>> task = tasks.get("mlp-w32-d3-digits", batch_size=64)
>>> arrays = jax.device_put(task.dataset.arrays("train"))
>>> params = task.init(key)
>>> loss = task.loss(params, key, task.sample(arrays, key))
"""

import os

from tasks import data as data
from tasks import names as names
from tasks.base import Dataset as Dataset
from tasks.base import Task as Task


def get(
    name: str | names.TaskName,
    *,
    batch_size: int = 128,
    data_dir: str | os.PathLike[str] | None = None,
) -> Task:
    """Build a task from its name.

    Args:
      name: As ``mlp-w128-d3-cifar10``; :mod:`tasks.names` has the whole form.
      batch_size: Examples per inner step.
      data_dir: Where tensorflow-datasets keeps its data; see :func:`tasks.data.load`.

    Returns:
      The task, its data set opened.

    Raises:
      ValueError: If the name is malformed or has no width, a part of it is unknown, or
        the data is not there.
    """
    parsed = name if isinstance(name, names.TaskName) else names.parse(name)
    if parsed.width is None:
        example = parsed.at_width(128)
        raise ValueError(
            f"a task needs a width, got the template {str(parsed)!r}. "
            f"Give one with -w<width>, as in {str(example)!r}."
        )
    from tasks import mlp  # Only here: flax takes a second to import.

    return mlp.MLPTask(
        name=str(parsed),
        dataset=data.load(parsed.data, data_dir),
        batch_size=batch_size,
        width=parsed.width,
        depth=parsed.depth,
        sp=parsed.sp,
    )
