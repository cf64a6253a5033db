"""mulo-fc: the paper's per-parameter MLP under μP, told its progress and annealed.

    python -m meta_train --config=configs/mulo_fc.py --workdir=runs/mulo_fc

The network of SmallFC, from scratch, on mulo-s's task. configs/lo_fc.py is its twin
in standard parametrization, with the same everything.

Variants: ``full``, minutes on one core; ``smoke``: seconds, on digits.
"""

import ml_collections

from configs import base


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = base.meta_training()
    c.tasks = ("mlp-w32-d3-cifar10:8x8:gray",)
    c.batch_examples = 128
    c.rule.name = "annealed_fc"
    c.objective.weights = "late"
    c.pes.update(
        sigma=0.03, min_length_steps=100, max_length_steps=2_000, noise="reused"
    )
    c.meta_optimizer.update(
        peak_lr=3e-3, end_lr=1e-4, warmup_steps=100, decay_steps=2_000, weight_decay=0.0
    )
    c.run.update(meta_steps=2_000, log_steps=20, checkpoint_steps=200)
    if variant == "smoke":
        c.tasks, c.batch_examples = ("mlp-w8-d2-digits",), 16
        base.smoke(c)
    elif variant != "full":
        raise base.unknown(variant, "smoke", "full")
    return c
