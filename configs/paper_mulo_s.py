"""μLO_S: the paper's single-width recipe (arXiv 2406.00153, appendix C).

    python -m meta_train --config=configs/paper_mulo_s.py --workdir=runs/paper_s

ImageNet 32x32 (tfds ``imagenet_resized/32x32``, 3.9 GB on the device), MLP of width 128
and depth 3, batch 4096. The authors report 8 hours on one A6000. Not run here yet.

Variants: ``full``, and ``smoke``: seconds, on made-up images of the same shape.

Kept from the paper and its code: PES with sigma 0.01, 8 antithetic pairs, truncations
of 50, lengths log-uniform in 100-1,000, AdamW 3e-3 → 1e-3 whose decay ends at meta-step
4,900, clipping after AdamW, step multiplier 0.01, base width 1. Differs: particles are
put out of step by shortened first runs, not by an offset of the step count, and
per-step losses count at most ``loss_ceiling``.
"""

import ml_collections

from configs import base


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = base.meta_training()
    c.tasks = ("mlp-w128-d3-imagenet_resized/32x32",)
    c.batch_examples = 4_096
    c.loss_ceiling = 20.0
    c.estimator.loss_diff_clip = float("inf")
    c.meta_optimizer.update(end_lr=1e-3, decay_steps=4_900, clip_order="after")
    c.run.checkpoint_steps = 100
    if variant == "smoke":
        base.smoke(c)
        c.tasks, c.batch_examples = ("mlp-w16-d3-synthetic:32x32x3:1000",), 8
        c.estimator.update(trunc_steps=2, min_length_steps=2, max_length_steps=6)
        c.meta_optimizer.update(warmup_steps=100, decay_steps=4_900)
        c.run.meta_steps = 2
    elif variant != "full":
        raise base.unknown(variant, "smoke", "full")
    return c
