"""Wider: tasks at 1 to 64 times the width of meta-training.

    python -m evaluate --config=configs/evaluate/width.py:cpu --workdir=runs/width

Variants: ``smoke`` seconds, on digits; ``cpu`` 8x8 gray CIFAR-10 at widths 32 to 256;
``gpu`` widths 32 to 2048 (not run here); ``paper`` the widths of the μLO paper's
CIFAR-10 column over 5,000 steps (not run here).
"""

import ml_collections

from configs.evaluate import base


def get_config(variant: str = "cpu") -> ml_collections.ConfigDict:
    """Return the sweep of a variant: ``smoke``, ``cpu``, ``gpu`` or ``paper``."""
    c = base.suite(variant)
    c.tasks = ("mlp-d3-cifar10:8x8:gray",)
    if variant == "smoke":
        c.tasks = ("mlp-d1-digits",)
        c.widths = (8, 16)
    elif variant == "cpu":
        c.widths = (32, 64, 128, 256)
    elif variant == "gpu":
        c.widths = (32, 64, 128, 256, 512, 1024, 2048)
    elif variant == "paper":
        c.tasks = ("mlp-d3-cifar10",)
        c.widths = (128, 256, 512, 1024, 2048, 4096, 8192)
        c.horizons = (5_000,)
        c.batch_examples = 4_096
    return c
