"""Names of tasks in metrics."""

import collections
from collections.abc import Sequence


def labels(named: Sequence[tuple[str, int]]) -> list[str]:
    """Names of tasks in metrics, from those and their batch sizes.

    A task that comes several times is told by its batch size: ``<name>@b<examples>``.
    """
    counts = collections.Counter(name for name, _ in named)
    return [name if counts[name] == 1 else f"{name}@b{batch}" for name, batch in named]
