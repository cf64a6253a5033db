"""Speed-ups over VeLOdrome's tuned Adam, from its published curves.

The speed-up of an optimizer on a task is the step at which the tuned baselines'
envelope first has the optimizer's final loss, over the optimizer's own number of steps:
2 means that tuned Adam needs twice as long. Our final loss is the mean of the last 5 %
of minibatch losses; the published curve is smoothed (0.95 per measurement) and falling.

Reference: Metz et al., `VeLO <https://arxiv.org/abs/2211.09760>`_, 2022, section 4.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluate.report import entries, matrices, statistics
from evaluate.sweep import curves as curves_lib

# VeLOdrome's name of a task, ours without its sizes' axes.
TASKS: Mapping[str, str] = {
    "ImageMLP_Cifar10_8_Relu32": "mlp-w32-d1-cifar10:8x8:velodrome",
    "ImageMLP_Cifar10_256x256_Relu": "mlp-w256-d2-cifar10:velodrome",
    "ImageMLP_Cifar10_1024x1024_Relu": "mlp-w1024-d2-cifar10:velodrome",
    "ImageMLP_Cifar10_4096x4096_Relu": "mlp-w4096-d2-cifar10:velodrome",
    "ImageMLP_Cifar10_8192x8192_Relu": "mlp-w8192-d2-cifar10:velodrome",
    "ImageMLP_Cifar10_128x128x128_Relu": "mlp-w128-d3-cifar10:velodrome",
    "ImageMLP_FashionMnist_Relu128x128": "mlp-w128-d2-fashion_mnist:velodrome",
    "ImageMLP_FashionMnist8_Relu32": "mlp-w32-d1-fashion_mnist:8x8:velodrome",
    "Conv_Cifar10_32x64x64": "conv-w32-d3-cifar10:velodrome",
    "ImageMLPAE_FashionMnist_128x32x128_bs128": (
        "mlpae-w128-d3-fashion_mnist:velodrome"
    ),
}

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]  # By our task: steps, losses.


def load(path: str) -> Curves:
    """Read published curves: ``{"curves": {task: {"steps": [...], "loss": [...]}}}``.

    Args:
      path: Of the JSON file; empty: no curves.

    Raises:
      ValueError: If the file is missing or not of this form.
    """
    if not path:
        return {}
    try:
        values = json.loads(pathlib.Path(path).read_text())["curves"]
        found = {
            ours: (
                np.array(values[theirs]["steps"], np.float64),
                np.minimum.accumulate(np.array(values[theirs]["loss"], np.float64)),
            )
            for theirs, ours in TASKS.items()
            if theirs in values
        }
        for steps, losses in found.values():
            curves_lib.reference_steps(steps, losses, math.inf)  # Checks them.
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"reference_curves: {path} is no file of VeLOdrome's curves "
            f"({type(error).__name__}: {error})."
        ) from error


def speedups(study: entries.Study, curves: Curves) -> dict[str, Any]:
    """Return speed-ups by line and setting, and their interquartile mean by line.

    Args:
      study: What was run.
      curves: As :func:`load` reads them; tasks without one are left out.

    Returns:
      ``reference_speedups`` and ``reference_iqm`` of summary.json. A run that diverged
      has speed-up 0; one beyond the end of the published curve, which is at 100,000
      steps, counts as that end.
    """
    index = {setting: i for i, setting in enumerate(study.settings)}
    by_setting: list[dict[str, Any]] = []
    by_line: dict[str, list[np.ndarray]] = {}
    for entry in study.entries:
        task = str(entry.setting.task)
        if task not in curves:
            continue
        steps, losses = curves[task]
        found = []
        for score in entry.scores():
            reached = 0.0
            if math.isfinite(score):
                reached = curves_lib.reference_steps(steps, losses, score)
            found.append(min(reached, steps[-1]) / entry.setting.horizon_steps)
        by_setting.append(
            {
                "key": entry.key,
                "setting": index[entry.setting],
                "speedup": float(np.mean(found)),
            }
        )
        by_line.setdefault(entry.key, []).append(np.array(found))
    most = max((len(rows) for rows in by_line.values()), default=0)
    iqm = []
    for key, rows in by_line.items():
        if len(rows) == most:  # On the same tasks, or not comparable.
            value = statistics.bootstrap_interval(
                np.array(rows), **matrices.bootstrap(study.config)
            )
            iqm.append(
                {
                    "key": key,
                    "estimate": value.estimate,
                    "low": value.low,
                    "high": value.high,
                }
            )
    return {"reference_speedups": by_setting, "reference_iqm": iqm}


def warnings(study: entries.Study, curves: Curves) -> list[str]:
    """Say which of VeLOdrome's tasks have no speed-up for want of a curve."""
    known = set(TASKS.values())
    tasks = dict.fromkeys(str(s.task) for s in study.settings)
    missing = [t for t in tasks if t in known and t not in curves]
    if not missing:
        return []
    return [
        f"no speed-up over VeLOdrome's tuned Adam on {', '.join(missing)}: give "
        "--config.reference_curves=<file> (configs/evaluate/velodrome.py says which)."
    ]
