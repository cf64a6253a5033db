"""Held out: what no released theta was meta-trained on or chosen by, of five kinds.

    python -m evaluate --config=configs/evaluate/heldout.py:cpu --workdir=runs/heldout

MLPs up to 16 times as wide, four times as deep and 20 times as long as the base of
meta-training, which is the first cell (of mulo-m's mixture: four, two and four times
its widest, deepest and longest), autoencoders, convolutions, ViTs and transformers on
text; batches of 16 to 128. All but learned rules and the nominal one are tuned in every
cell.

Variants: ``smoke`` seconds, on embedded data; ``cpu`` 26 cells, hours on two cores;
``quick`` nine of them. ``--config.lambdas_at=none`` leaves out the factors on learned
steps, most of the time.
"""

import ml_collections

from configs.evaluate import base

BASE = "mlp-w32-d3-cifar10:8x8:gray@1000"
CELLS = (
    # Wider.
    "mlp-w96-d3-cifar10:8x8:gray@1000",
    "mlp-w256-d3-cifar10:8x8:gray@1000",
    "mlp-w512-d3-cifar10:8x8:gray@300",
    "mlp-w64-d3-cifar10:16x16@1000",
    "mlp-w128-d3-fashion_mnist@1000",
    # Deeper.
    "mlp-w64-d9-cifar10:8x8:gray@1000",
    "mlp-w32-d12-fashion_mnist:14x14@1000",
    "mlp-w128-d6-cifar10:8x8:gray@500",
    # Longer.
    "mlp-w64-d3-cifar10:8x8:gray@5000",
    "mlp-w32-d3-cifar10:8x8:gray@20000",
    "mlp-w64-d3-fashion_mnist:14x14@5000",
    "mlp-w64-d2-digits@2000",
    # Other kinds.
    "mlpae-w64-d3-fashion_mnist:14x14@1000",
    "mlpae-w128-d3-digits@1000",
    "mlpae-w64-d3-cifar10:8x8@2000",
    "conv-w8-d3-cifar10:8x8@500",
    "conv-w16-d3-fashion_mnist:14x14@300",
    "conv-w8-d2-digits@500",
    "vit-w64-d2-p2-k16-cifar10:8x8@500",
    "vit-w32-d4-p2-k8-cifar10:8x8:gray@1000",
    "vit-w64-d2-p7-k16-fashion_mnist:14x14@500",
    "transformer-w64-d2-k16-s32-tiny_shakespeare@1000",
    "transformer-w128-d2-k16-s32-tiny_shakespeare@500",
    "transformer-w32-d2-k8-s32-tiny_shakespeare@5000",
    "transformer-w64-d4-k16-s32-pystdlib@500",
)
QUICK = (1, 5, 8, 10, 12, 15, 18, 21)  # Of CELLS.


def get_config(variant: str = "cpu") -> ml_collections.ConfigDict:
    """Return the sweep of a variant: ``smoke``, ``quick`` or ``cpu``."""
    if variant not in ("smoke", "quick", "cpu"):
        raise ValueError(f"variant must be smoke, quick or cpu; got {variant!r}.")
    c = base.suite("cpu" if variant == "quick" else variant)
    c.widths = ()
    if variant == "smoke":
        c.tasks = ("mlp-w8-d1-digits", "mlpae-w8-d3-digits@10")
        return c
    cells = CELLS if variant == "cpu" else tuple(CELLS[i] for i in QUICK)
    c.tasks = (BASE, *cells)
    c.optimizers = (
        "mulo",
        "celo2",
        "adamw",
        "mu_muon",
        "mu_soap_blocked",
        "theta_init",
    )
    c.optional = ("celo2",)
    c.published = c.transfer = False
    c.lambdas_at = "all"
    # Around the best at the base.
    c.learning_rates.adamw = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
    c.learning_rates.mu_muon = (0.015, 0.03, 0.06, 0.12)
    c.learning_rates.mu_soap_blocked = (0.2, 0.4)
    c.learning_rates.celo2 = (8e-4, 1.6e-3, 3.2e-3)
    c.tuning_refinements = 1
    c.valid_points = 4
    c.batch_examples_of.conv = 32
    c.batch_examples_of.vit = 16
    c.batch_examples_of.transformer = 16
    return c
