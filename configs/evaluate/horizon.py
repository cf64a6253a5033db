"""Longer: runs of 1, 5 and 25 times the longest of meta-training.

    python -m evaluate --config=configs/evaluate/horizon.py:cpu --workdir=runs/horizon

A run at a constant rate serves the shorter horizons too; with a schedule each horizon
has runs of its own.

Variants: ``smoke`` seconds, on digits; ``cpu`` 8x8 gray CIFAR-10 at width 32; ``gpu``
width 128 and a transformer (not run here); ``paper`` 25,000 steps at width 1,024 of the
μLO paper, on CIFAR-10 instead of ImageNet (not run here).
"""

import ml_collections

from configs.evaluate import base


def get_config(variant: str = "cpu") -> ml_collections.ConfigDict:
    """Return the sweep of a variant: ``smoke``, ``cpu``, ``gpu`` or ``paper``."""
    c = base.suite(variant)
    c.tasks = ("mlp-w32-d3-cifar10:8x8:gray",)
    c.widths = ()
    c.horizons = (1_000, 5_000, 25_000)
    if variant == "smoke":
        c.tasks = ("mlp-w8-d1-digits",)
        c.horizons = (10, 20)
    elif variant == "cpu":
        c.tuning_refinements = 3
        c.optimizers = base.without(c, "mu_shampoo", "mu_lion", "mu_adafactor")
    elif variant == "gpu":
        c.tasks = ("mlp-w128-d3-cifar10", "transformer-w128-d3-tiny_shakespeare")
    elif variant == "paper":
        c.tasks = ("mlp-w1024-d3-cifar10",)
    return c
