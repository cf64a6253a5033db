"""Hyper-parameters that others found and published, for baselines nobody tuned here.

References:
  Therien et al., `muLO <https://arxiv.org/abs/2406.00153>`_, v5, tables 7 and 9: width
  1024, depth 3, 1,000 steps, more than 500 trials each.
"""

import dataclasses
from collections.abc import Mapping

import tasks


@dataclasses.dataclass(frozen=True)
class Published:
    """What a table says of an optimizer on a task."""

    learning_rate: float
    hyper: Mapping[str, float]
    source: str


def _adam(rate: float, b1: float, b2: float, decay: float | None = None) -> Published:
    hyper = {"b1": b1, "b2": b2}
    if decay is None:
        return Published(rate, hyper, "μLO, table 7")
    return Published(rate, hyper | {"weight_decay": decay}, "μLO, table 9")


# By optimizer, then kind of model and source of the data; "" is any source.
_TABLE: Mapping[str, Mapping[tuple[str, str], Published]] = {
    "mu_adam": {
        ("transformer", ""): _adam(0.1077, 0.85, 0.999),
        ("vit", ""): _adam(0.044173, 0.85, 0.999),
        ("mlp", "imagenet_resized/32x32"): _adam(0.044173, 0.85, 0.999),
        ("mlp", "imagenet_resized/64x64"): _adam(0.028289, 0.85, 0.99),
        ("mlp", "cifar10"): _adam(0.1473, 0.9, 0.95),
    },
    "adamw": {
        ("transformer", ""): _adam(7.02e-4, 0.9, 0.99, 1e-3),
        ("vit", ""): _adam(1.70e-4, 0.9, 0.999, 1e-2),
        ("mlp", "imagenet_resized/32x32"): _adam(7.02e-4, 0.9, 0.999, 1e-2),
        ("mlp", "imagenet_resized/64x64"): _adam(7.02e-4, 0.9, 0.99, 1e-3),
        ("mlp", "cifar10"): _adam(2.89e-3, 0.9, 0.95, 1e-4),
    },
}


def find(optimizer: str, task: tasks.names.TaskName) -> Published | None:
    """Return what is published of an optimizer on a kind of model and data, or None.

    Args:
      optimizer: A name in :mod:`evaluate.optimizers.names`.
      task: Its width and depth do not matter.
    """
    rows = _TABLE.get(optimizer, {})
    return rows.get((task.kind, task.data.source)) or rows.get((task.kind, ""))
