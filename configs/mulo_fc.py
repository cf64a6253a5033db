"""mulo-fc: the paper's per-parameter MLP under μP, told its progress and annealed.

    python -m meta_train --config=configs/mulo_fc.py --workdir=runs/mulo_fc

The network of SmallFC, from scratch, on mulo-s's task. configs/lo_fc.py is its twin
in standard parametrization, with the same everything.

Variants: ``full``, minutes on one core; ``smoke``: seconds, on digits.
"""

import ml_collections

from configs import mulo_s


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = mulo_s.get_config(variant)
    c.rule.name = "annealed_fc"
    c.estimator.sigma = 0.03
    c.meta_optimizer.peak_lr = 3e-3
    if variant == "full":
        c.estimator.min_length_steps = 100
        c.meta_optimizer.warmup_steps = 100
    return c
