"""VeLOdrome: speed-up over tuned Adam on up to ten of its tasks, interquartile mean.

    python -m evaluate --config=configs/evaluate/velodrome.py:cpu \
        --config.reference_curves=velodrome.json --workdir=runs/velodrome

The curves are those of ``baselines/data/speedup_over_multiple_baselines.json`` of
google/learned_optimization, as ``{"curves": {task: {"steps": […], "loss": […]}}}``.
Learned rules under μP train the μP twins of the tasks. Copies of the data with fewer
images than the real sets flatter everybody on the larger networks.

Variants: ``smoke`` seconds, on synthetic images; ``cpu`` the four small tasks over
1,000 steps; ``gpu`` eight tasks and ``paper`` all ten over 10,000 steps (not run here).
"""

import ml_collections

from configs.evaluate import base
from evaluate.report import reference

_LARGE = ("-cifar10:velodrome",)  # At 32x32 colour: an hour would not do.
_HUGE = ("w4096", "w8192")


def get_config(variant: str = "cpu") -> ml_collections.ConfigDict:
    """Return the sweep of a variant: ``smoke``, ``cpu``, ``gpu`` or ``paper``."""
    c = base.suite(variant)
    c.widths = ()
    every = tuple(reference.TASKS.values())
    c.tasks = every
    c.transfer = False  # The tasks have no base among them.
    c.published = False
    if variant == "smoke":
        c.tasks = ("mlp-w8-d1-synthetic:4x4x1:3", "mlpae-w8-d3-synthetic:4x4x1:3")
    elif variant == "cpu":
        c.tasks = tuple(t for t in every if not any(x in t for x in _LARGE))
        c.optimizers = base.without(c, "mu_shampoo", "mu_lion", "mu_adafactor")
        c.lambdas_at = "none"
        c.valid_points = 4
    elif variant == "gpu":
        c.tasks = tuple(t for t in every if not any(x in t for x in _HUGE))
        c.horizons = (10_000,)
    elif variant == "paper":
        c.horizons = (10_000,)
    return c
