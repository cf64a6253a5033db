"""The sweep of ``make demo``: autoencoders of digits, wider and deeper than before.

    python -m evaluate --config=configs/evaluate/demo.py:demo \
        --theta=runs/demo/theta --workdir=runs/demo_eval

200 steps, far from convergence: in eight epochs of 1,617 images nobody memorizes them,
and validation losses stay beside training losses. AdamW and μAdam have a cosine
schedule and are tuned at every width, on the seeds they are then reported on.

Variants: ``demo`` widths 32 (that of meta-training), 128 and 512, and a network of more
than twice the depth, two to three minutes on two cores; ``smoke`` seconds.
"""

import ml_collections

from configs.evaluate import base


def get_config(variant: str = "demo") -> ml_collections.ConfigDict:
    """Return the sweep of a variant: ``demo`` or ``smoke``."""
    c = base.sweep()
    c.tasks = ("mlpae-d3-digits", "mlpae-w32-d7-digits")
    c.widths = (32, 128, 512)
    c.horizons = (200,)
    c.batch_examples = 64
    c.optimizers = ("mulo", "adamw", "mu_adam", "null_muon", "theta_init")
    c.learning_rates.adamw = (4e-3, 8e-3, 1.6e-2)
    c.learning_rates.mu_adam = (0.12, 0.24, 0.48)
    c.tuning_seeds = 3  # The narrowest network's best rate differs from seed to seed.
    c.tuning_refinements = 2
    c.transfer = c.published = False
    c.lambdas_at = "none"
    c.valid_points = 5
    if variant == "smoke":
        c.tasks = ("mlpae-d3-digits",)
        c.widths = (8, 16)
        c.horizons = (20,)
        c.num_seeds = c.tuning_seeds = 2
        c.batch_examples = 16
        c.learning_rates.adamw = (1e-3, 1e-2)
        c.optimizers = ("mulo", "adamw", "null_muon")
        c.tuning_refinements = 1
        c.valid_points = 2
        c.bootstrap_samples = 200
        c.jobs = 1
    elif variant != "demo":
        raise ValueError(f"variant must be demo or smoke; got {variant!r}.")
    return c
