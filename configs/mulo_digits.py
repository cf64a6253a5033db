"""Small learned optimizers, meta-trained on scikit-learn's digits (no download).

    python -m meta_train --config=configs/mulo_digits.py:demo --workdir=runs/digits

Variants:
  ``full``: a μLO on the classifier at widths 32 and 64, hidden size 32, 5,000
    meta-steps. The classifier is memorized well before 1,000 steps.
  ``demo``: what ``make demo`` runs. LearnedMuon, from its nominal rule, on an
    autoencoder of width 32 over 50 to 400 steps, 800 meta-steps: about two minutes on
    two CPU cores.
  ``smoke``: seconds, for CI.
"""

import ml_collections

from configs import base


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = base.meta_training()
    c.tasks = ("mlp-w32-d2-digits", "mlp-w64-d2-digits")
    if variant == "smoke":
        base.smoke(c)
        c.batch_examples = 64
    elif variant == "demo":
        c.tasks = ("mlpae-w32-d3-digits",)
        c.rule.name = "learned_muon"
        c.objective.weights = "late"
        c.estimator.update(
            sigma=0.1,
            trunc_steps=20,
            min_length_steps=50,
            max_length_steps=400,
            name="noise_reuse_es",
        )
        c.meta_optimizer.update(
            peak_lr=1e-2,
            end_lr=1e-3,
            warmup_steps=20,
            decay_steps=800,
            weight_decay=0.0,
        )
        c.run.update(meta_steps=800, log_steps=20, checkpoint_steps=200)
    elif variant != "full":
        raise base.unknown(variant, "smoke", "demo", "full")
    return c
