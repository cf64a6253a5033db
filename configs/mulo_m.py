"""mulo-m: LearnedMuon on a mixture of tasks, for every kind of network.

    python -m meta_train --config=configs/mulo_m.py --workdir=runs/mulo_m

From mulo-s's theta (``runs/mulo_s/theta``; run configs/mulo_s.py first), goes on with
MLPs on 8x8 gray CIFAR-10 (three widths, two depths) and Fashion-MNIST 14x14, an
autoencoder and a small transformer on bytes, widths 24 to 128, batches of 8 to 128,
lengths of 100 to 3,000. Late losses count, as logarithms, so that solved tasks do too;
noise is kept over whole runs. docs/recipes.md says what each of these is worth.

Variants: ``full``, about an hour on two cores; ``smoke``: seconds, on digits.
"""

import ml_collections

from configs import base

# Task, batch.
MIXTURE = (
    ("mlp-w32-d3-cifar10:8x8:gray", 128),
    ("mlp-w128-d3-cifar10:8x8:gray", 128),
    ("mlp-w64-d6-cifar10:8x8:gray", 128),
    ("mlp-w24-d3-fashion_mnist:14x14", 64),
    ("mlpae-w32-d3-fashion_mnist:14x14", 64),
    ("transformer-w32-d1-k8-s32-tiny_shakespeare", 8),
)


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = base.meta_training()
    c.tasks, c.batch_examples = zip(*MIXTURE, strict=True)
    c.rule.name = "learned_muon"
    c.init_theta = "runs/mulo_s/theta"
    c.objective.update(weights="late", transform="log", log_floor=0.01)
    c.pes.update(
        sigma=0.1,
        num_pairs=4,
        min_length_steps=100,
        max_length_steps=3_000,
        noise="reused",
        loss_diff_clip=1.0,
    )
    c.meta_optimizer.update(
        peak_lr=2e-3, end_lr=1e-4, warmup_steps=20, decay_steps=1_500, weight_decay=0.0
    )
    # What is chosen by must be no cell that results are reported on.
    c.probes.update(
        tasks=(
            "mlp-w192-d3-cifar10:8x8:gray",  # wide
            "mlp-w32-d3-cifar10:8x8:gray",  # long
            "mlp-w32-d3-fashion_mnist:14x14",  # solved
            "mlp-w32-d9-cifar10:8x8:gray",  # deep
            "transformer-w32-d2-k8-s32-pystdlib",  # text
        ),
        batch_examples=(128, 128, 64, 128, 8),
        steps=(300, 3_000, 2_000, 500, 500),
        every_steps=200,
        num_seeds=2,
    )
    c.run.update(meta_steps=1_500, log_steps=20, checkpoint_steps=100)
    if variant == "smoke":
        c.tasks, c.batch_examples = ("mlp-w8-d2-digits",), 16
        base.smoke(c)
        c.init_theta = ""
        c.probes.update(
            tasks=("mlp-w8-d2-digits",), batch_examples=16, steps=10, every_steps=3
        )
    elif variant != "full":
        raise base.unknown(variant, "smoke", "full")
    return c
