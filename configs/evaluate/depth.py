"""Deeper: tasks at 1 to 5 times the depth of meta-training.

    python -m evaluate --config=configs/evaluate/depth.py:cpu --workdir=runs/depth

Variants: ``smoke`` seconds, on digits; ``cpu`` 8x8 gray CIFAR-10 at depths 3 to 15,
width 32; ``gpu`` width 128, with transformers (not run here); ``paper`` depth 16 at
width 1,024 of the μLO paper, on CIFAR-10 instead of ImageNet (not run here).
"""

import ml_collections

from configs.evaluate import base


def get_config(variant: str = "cpu") -> ml_collections.ConfigDict:
    """Return the sweep of a variant: ``smoke``, ``cpu``, ``gpu`` or ``paper``."""
    c = base.suite(variant)
    c.tasks = ("mlp-w32-cifar10:8x8:gray",)
    c.widths = ()
    if variant == "smoke":
        c.tasks = ("mlp-w8-digits",)
        c.depths = (1, 2)
    elif variant == "cpu":
        c.depths = (3, 6, 9, 15)
    elif variant == "gpu":
        c.tasks = ("mlp-w128-cifar10", "transformer-w128-tiny_shakespeare")
        c.depths = (3, 6, 9, 15)
    elif variant == "paper":
        c.tasks = ("mlp-w1024-cifar10",)
        c.depths = (3, 16)
        c.horizons = (5_000,)
    return c
