"""Average rank of optimizers over tasks at 1,000, 3,000 and 5,000 steps.

    python -m evaluate --config=configs/evaluate/paper_table1.py:cpu \
        --workdir=runs/table1

Table 1 of the μLO paper, in form: its tasks are on ImageNet and LM1B. Unlike there,
baselines are tuned in every setting and have a cosine schedule; published rates stand
beside them.

Variants: ``smoke`` seconds, on digits; ``cpu`` three small image tasks at two widths;
``gpu`` four kinds of task; ``paper`` the kinds of the paper at its sizes, on the data
of tensorflow-datasets that are small (neither run here).
"""

import ml_collections

from configs.evaluate import base


def get_config(variant: str = "cpu") -> ml_collections.ConfigDict:
    """Return the sweep of a variant: ``smoke``, ``cpu``, ``gpu`` or ``paper``."""
    c = base.suite(variant)
    c.horizons = (1_000, 3_000, 5_000)
    c.optimizers = (*base.LEARNED, "adamw", "mu_adam", "mu_soap_blocked", "mu_muon")
    c.lambdas_at = "none"
    if variant == "smoke":
        c.optimizers = ("mulo", "adamw", "mu_adam")
        c.tasks = ("mlp-d1-digits", "mlp-d2-digits")
        c.widths = (8,)
        c.horizons = (10, 20)
    elif variant == "cpu":
        c.tasks = (
            "mlp-d3-cifar10:8x8:gray",
            "mlp-d3-fashion_mnist:8x8",
            "mlpae-d3-fashion_mnist:8x8",
        )
        c.widths = (32, 64)
        c.tuning_refinements = 2
    elif variant == "gpu":
        c.tasks = (
            "mlp-d3-cifar10",
            "mlp-d3-fashion_mnist",
            "vit-d3-cifar10",
            "transformer-d3-tiny_shakespeare",
        )
        c.widths = (192, 384)
    elif variant == "paper":
        c.tasks = (
            "mlp-d3-cifar10",
            "vit-d3-h16-cifar10",
            "transformer-d3-h16-tiny_shakespeare",
        )
        c.widths = (2048, 3072)
        c.batch_examples = 4_096
        c.batch_examples_of.vit = 1_024
        c.batch_examples_of.transformer = 128
    return c
