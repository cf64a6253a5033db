"""Small learned optimizers, meta-trained on scikit-learn's digits (no download).

    python -m meta_train --config=configs/mulo_digits.py:demo --workdir=runs/digits

Variants:
  ``full``: a μLO on the classifier at widths 32 and 64, hidden size 32, 5,000
    meta-steps. The classifier is memorized well before 1,000 steps.
  ``demo``: what ``make demo`` runs. A learned Adam under μP, from Adam at 1e-3, on an
    autoencoder of width 32 over 50 to 400 steps, 1,000 meta-steps: about a minute on
    two CPU cores. ``--config.rule.name=small_fc --config.pes.sigma=0.01
    --config.meta_optimizer.peak_lr=0.01`` trains a SmallFC with 4 hidden units instead:
    after 600 meta-steps, in two to three times the CPU time, its losses over 200 steps
    were 1.2 (width 32) to 3 times (width 512) those of the learned Adam.
  ``demo_sp``: its twin in the standard parametrization, same budget.
  ``smoke``: seconds, for CI.
"""

import ml_collections

from configs import base


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = base.meta_training()
    c.tasks = ("mlp-w32-d2-digits", "mlp-w64-d2-digits")
    if variant == "smoke":
        c.tasks = ("mlp-w8-d2-digits",)
        base.smoke(c)
    elif variant in ("demo", "demo_sp"):
        sp = "sp-" if variant == "demo_sp" else ""
        c.tasks = (f"{sp}mlpae-w32-d3-digits",)
        c.rule.name = "learned_adam"
        c.rule_defaults.learned_adam = dict(initial_b2=0.99)
        c.rule_defaults.small_fc.hidden_size = 4
        c.pes.update(
            sigma=0.1, trunc_steps=20, min_length_steps=50, max_length_steps=400
        )
        c.meta_optimizer.update(
            peak_lr=5e-2, end_lr=2e-3, warmup_steps=20, decay_steps=1_000
        )
        c.run.update(meta_steps=1_000, log_steps=20, checkpoint_steps=200)
    elif variant != "full":
        raise base.unknown(variant, "smoke", "demo", "demo_sp", "full")
    return c
