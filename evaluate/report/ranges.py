"""Whether a setting lies within the sizes that a theta was meta-trained at."""

from collections.abc import Mapping
from typing import Any

from evaluate.sweep import axes


def inside(setting: axes.Setting, known: Mapping[str, Any]) -> bool | None:
    """Compare a setting with the sizes of meta-training.

    Args:
      setting: Where.
      known: As :func:`evaluate.sweep.contenders.meta_training_sizes` returns it.

    Returns:
      Whether width, depth and horizon all lie between the smallest and largest of
      meta-training; None where nothing is known.
    """
    if not known:
        return None
    for field, sizes in (
        ("width", "widths"),
        ("depth", "depths"),
        ("horizon_steps", "horizon_steps"),
    ):
        span = known.get(sizes)
        if span and not min(span) <= getattr(setting, field) <= max(span):
            return False
    return True
