"""Other kinds of task: from images under an MLP to text, ViT, conv, autoencoder.

    python -m evaluate --config=configs/evaluate/cross.py:cpu --workdir=runs/cross

The first task is that of meta-training: rates found there are transferred to the rest.

Variants: ``smoke`` seconds, on embedded data; ``cpu`` small networks over 500 steps;
``gpu`` larger ones (not run here); ``paper`` the kinds of the μLO paper's table 10 on
the data of tensorflow-datasets that are small (not run here).
"""

import ml_collections

from configs.evaluate import base


def get_config(variant: str = "cpu") -> ml_collections.ConfigDict:
    """Return the sweep of a variant: ``smoke``, ``cpu``, ``gpu`` or ``paper``."""
    c = base.suite(variant)
    c.widths = ()
    if variant == "smoke":
        c.tasks = ("mlp-w8-d1-digits", "mlpae-w8-d3-digits")
    elif variant == "cpu":
        c.tasks = (
            "mlp-w32-d3-cifar10:8x8:gray",
            "mlp-w64-d3-fashion_mnist:14x14",
            "mlpae-w64-d3-fashion_mnist:14x14",
            "conv-w8-d3-cifar10:8x8",
            "vit-w64-d2-p2-k16-cifar10:8x8",
            "transformer-w64-d2-k16-s32-tiny_shakespeare",
            "transformer-w64-d2-k16-s32-pystdlib",
        )
        c.optimizers = base.without(
            c, "mu_adam", "mu_shampoo", "mu_lion", "mu_adafactor"
        )
        c.horizons = (500,)
        c.tuning_refinements = 2
        c.valid_points = 4
        c.batch_examples_of.conv = 32
        c.batch_examples_of.vit = 16
        c.batch_examples_of.transformer = 8
    elif variant == "gpu":
        c.tasks = (
            "mlp-w128-d3-cifar10",
            "mlp-w256-d3-fashion_mnist",
            "mlpae-w256-d3-fashion_mnist",
            "conv-w64-d3-cifar10",
            "vit-w192-d3-cifar10",
            "transformer-w192-d3-tiny_shakespeare",
            "transformer-w192-d3-pystdlib",
        )
    elif variant == "paper":
        c.tasks = (
            "mlp-w1024-d3-cifar10",
            "vit-w1024-d3-h8-cifar10",
            "transformer-w1024-d3-h8-tiny_shakespeare",
        )
        c.horizons = (5_000,)
        c.batch_examples = 4_096
        c.batch_examples_of.vit = 1_024
        c.batch_examples_of.transformer = 128
    return c
