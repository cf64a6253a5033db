"""mulo-s: LearnedMuon on one small task, in minutes.

    python -m meta_train --config=configs/mulo_s.py --workdir=runs/mulo_s

8x8 gray CIFAR-10 under an MLP of width 32, batch 128, lengths 200 to 2,000.

Variants: ``full``, a few minutes on two cores; ``smoke``: seconds, on digits.
"""

import ml_collections

from configs import base


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = base.meta_training()
    c.tasks = ("mlp-w32-d3-cifar10:8x8:gray",)
    c.batch_examples = 128
    c.rule.name = "learned_muon"
    c.objective.weights = "late"
    c.estimator.update(
        sigma=0.1, min_length_steps=200, max_length_steps=2_000, name="noise_reuse_es"
    )
    c.meta_optimizer.update(
        peak_lr=6e-3, end_lr=1e-4, warmup_steps=50, decay_steps=2_000, weight_decay=0.0
    )
    c.run.update(meta_steps=2_000, log_steps=20, checkpoint_steps=200)
    if variant == "smoke":
        base.smoke(c)
    elif variant != "full":
        raise base.unknown(variant, "smoke", "full")
    return c
