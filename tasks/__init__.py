"""What is optimized: models with a loss and a data set, by name.

>>> task = tasks.get("mlp-w32-d3-digits", batch_size=64)
>>> arrays = jax.device_put(task.dataset.arrays("train"))
>>> params = task.init(key)
>>> loss = task.loss(params, key, task.sample(arrays, key))
"""

import importlib
import os

from tasks import data as data
from tasks import names as names
from tasks.base import Dataset as Dataset
from tasks.base import Task as Task
from tasks.base import TaskFamily as TaskFamily

# Imported on use: flax takes a second to import.
_CLASSES = {
    "mlp": ("tasks.models.mlp", "MLPTask"),
    "mlpae": ("tasks.models.autoencoder", "MLPAutoencoderTask"),
    "conv": ("tasks.models.conv", "ConvTask"),
    "resnet": ("tasks.models.resnet", "ResNetTask"),
    "vit": ("tasks.models.vit", "ViTTask"),
    "transformer": ("tasks.models.transformer", "TransformerTask"),
}
assert set(_CLASSES) == set(names.KINDS)


def get(
    name: str | names.TaskName,
    *,
    batch_size: int = 128,
    data_dir: str | os.PathLike[str] | None = None,
    data_budget_bytes: int = data.DATA_BUDGET_BYTES,
) -> Task:
    """Build a task from its name.

    Args:
      name: As ``mlp-w128-d3-cifar10``; :mod:`tasks.names` has the whole form.
      batch_size: Examples per inner step.
      data_dir: Where tensorflow-datasets keeps its data; see :func:`tasks.data.load`.
      data_budget_bytes: Largest data set that is accepted, all splits together.

    Returns:
      The task, its data set opened.

    Raises:
      ValueError: If the name is malformed, has no width or no depth, a part of it is
        unknown, the model cannot have these sizes, or the data is not there.
    """
    parsed = name if isinstance(name, names.TaskName) else names.parse(name)
    for field, example in (("width", parsed.at_width(128)), ("depth", None)):
        if getattr(parsed, field) is None:
            example = example or parsed.at_depth(3)
            raise ValueError(
                f"a task needs a {field}, got the template {str(parsed)!r}. "
                f"Give one, as in {str(example)!r}."
            )
    module, task_class = _CLASSES[parsed.kind]
    return getattr(importlib.import_module(module), task_class)(
        name=str(parsed),
        dataset=data.load(
            parsed.data,
            data_dir,
            modality=parsed.modality,
            data_budget_bytes=data_budget_bytes,
        ),
        batch_size=batch_size,
        width=parsed.width,
        depth=parsed.depth,
        sp=parsed.sp,
        **dict(parsed.options),
    )
