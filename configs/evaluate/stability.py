"""Stability: how far pre-activations move over 500 steps, against width.

    python -m evaluate --config=configs/evaluate/stability.py:cpu \
        --workdir=runs/stability

Figure 2 of the μLO paper: the standard deviation of x_t - x_0 by layer stays where it
is at any width under μP, and grows with width under the standard parametrization. Rates
are fixed: what is compared is the same rate at every width.

Variants: ``smoke`` seconds, on digits; ``cpu`` widths 64 to 1,024; ``gpu`` and
``paper`` widths 64 to 4,096, the latter on 32x32 colour (not run here).
"""

import ml_collections

from configs.evaluate import base

_RATES = {
    "mu_adam": 0.1,
    "adam": 3e-3,
    "mu_muon": 0.03,
    "mu_soap_blocked": 0.1,
    "adamw": 3e-3,
}


def get_config(variant: str = "cpu") -> ml_collections.ConfigDict:
    """Return the sweep of a variant: ``smoke``, ``cpu``, ``gpu`` or ``paper``."""
    c = base.suite(variant)
    c.activations = True
    c.horizons = (500,)
    c.valid_points = 25
    c.num_seeds = c.tuning_seeds = 1
    c.optimizers = ("mulo", "small_fc", "mu_adam", "adam", "mu_muon")
    c.schedules = ("constant",)
    for name, rate in _RATES.items():
        c.learning_rates[name] = (rate,)
    c.tuning_refinements = 0
    c.transfer = c.published = False
    c.lambdas_at = "none"
    c.tasks = ("mlp-d3-cifar10:8x8:gray",)
    if variant == "smoke":
        c.tasks = ("mlp-d1-digits",)
        c.widths = (8, 16)
        c.horizons = (20,)
        c.valid_points = 4
    elif variant == "cpu":
        c.widths = (64, 128, 256, 512, 1024)
        c.optimizers = ("mulo", "small_fc", "mu_adam", "adam")
        c.thetas = ("mulo-s",)
    elif variant == "gpu":
        c.widths = (64, 128, 256, 512, 1024, 2048, 4096)
    elif variant == "paper":
        c.tasks = ("mlp-d3-cifar10",)
        c.widths = (64, 128, 256, 512, 1024, 2048, 4096)
        c.batch_examples = 4_096
    return c
