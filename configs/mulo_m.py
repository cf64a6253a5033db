"""mulo-m: LearnedMuon on a mixture of tasks, for every kind of network.

    python -m meta_train --config=configs/mulo_m.py --workdir=runs/mulo_m
    python -m meta_train --config=configs/mulo_m.py:decay --workdir=runs/mulo_m_decay

From the released mulo-s, goes on with MLPs on CIFAR-10 (8x8 gray, two widths, two
depths; 16x16), Fashion-MNIST 14x14 and digits, an autoencoder and a small transformer
on bytes, widths 16 to 128, batches of 8 to 128, lengths of 100 to 5,000. Late losses
count, as logarithms, so that solved tasks do too; noise is kept over whole runs; no
task's gradient may drown the others'. docs/recipes.md says what each of these is worth.

Variants: ``full``, 47 minutes on one core; ``decay``, 81 minutes, goes on from there,
with a learned weight decay, two convolutions, a second autoencoder and longer text: the
released theta. Two found nothing better by their probes: ``longer`` goes on from
``full`` for two hours without these, ``text`` from the released theta for 86 minutes
with more text and a third convolution. ``smoke``: seconds, on digits.
"""

import ml_collections

from configs import base

# Task, batch, pairs, longest run in steps: cheap tasks get more of both.
MIXTURE = (
    ("mlp-w32-d3-cifar10:8x8:gray", 128, 16, 5_000),
    ("mlp-w128-d3-cifar10:8x8:gray", 128, 4, 2_000),
    ("mlp-w32-d6-cifar10:8x8:gray", 128, 8, 3_000),
    ("mlp-w32-d3-cifar10:16x16", 32, 8, 3_000),
    ("mlp-w24-d3-fashion_mnist:14x14", 64, 8, 5_000),
    ("mlp-w16-d2-digits", 32, 8, 5_000),
    ("mlpae-w32-d3-fashion_mnist:14x14", 128, 8, 2_000),
    ("transformer-w32-d1-k8-s32-tiny_shakespeare", 8, 4, 2_000),
)
LONGER = (
    *MIXTURE[:-1],
    ("mlpae-w32-d3-digits", 64, 4, 3_000),
    ("transformer-w32-d1-k8-s32-tiny_shakespeare", 8, 4, 5_000),
)
DECAY = (
    *LONGER,
    ("conv-w4-d2-fashion_mnist:14x14", 16, 8, 1_000),
    ("conv-w8-d2-cifar10:8x8:gray", 16, 4, 1_000),
)
TEXT = (
    *DECAY,
    ("transformer-w24-d2-k8-s32-tiny_shakespeare", 16, 4, 1_000),
    ("conv-w4-d2-digits", 32, 8, 1_000),
)


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = base.meta_training()
    mixture = {"longer": LONGER, "decay": DECAY, "text": TEXT}.get(variant, MIXTURE)
    c.tasks, c.batch_examples, num_pairs, max_length_steps = zip(*mixture, strict=True)
    c.rule.name = "learned_muon"
    c.init_theta = "mulo-s"
    c.objective.update(weights="late", transform="log", log_floor=0.001)
    c.estimator.update(
        sigma=0.1,
        num_pairs=num_pairs,
        min_length_steps=100,
        max_length_steps=max_length_steps,
        name="noise_reuse_es",
        loss_diff_clip=1.0,
    )
    c.task_clip_norm = 0.5
    c.meta_optimizer.update(
        peak_lr=4e-3, end_lr=1e-4, warmup_steps=20, decay_steps=1_000, weight_decay=0.0
    )
    # What is chosen by must be no cell that results are reported on.
    c.probes.update(
        tasks=(
            "mlp-w192-d3-cifar10:8x8:gray",  # wide
            "mlp-w32-d3-cifar10:8x8:gray",  # long
            "mlp-w32-d3-fashion_mnist:14x14",  # solved
            "mlp-w32-d9-cifar10:8x8:gray",  # deep
            "transformer-w32-d2-k8-s32-pystdlib",  # text
            "mlpae-w48-d3-fashion_mnist:14x14",  # reconstruction
        ),
        batch_examples=(128, 128, 64, 128, 8, 64),
        steps=(300, 3_000, 2_000, 500, 500, 600),
        every_steps=200,
        num_seeds=2,
    )
    c.run.update(meta_steps=1_000, log_steps=10, checkpoint_steps=50)
    if variant == "longer":
        c.init_theta = "runs/mulo_m/theta"
        c.meta_optimizer.update(peak_lr=2e-3, end_lr=2e-5, decay_steps=2_800)
        c.run.meta_steps = 2_800
    elif variant == "decay":
        c.init_theta = "runs/mulo_m/theta"
        c.rule.weight_decay_unit = 0.003
        c.probes.tasks += ("conv-w12-d2-cifar10:8x8:gray",)
        c.probes.batch_examples += (32,)
        c.probes.steps += (400,)
        c.meta_optimizer.update(peak_lr=3e-3, end_lr=3e-5, decay_steps=1_200)
        c.run.meta_steps = 1_200
    elif variant == "text":
        c.init_theta = "runs/mulo_m_decay/theta_best"
        c.rule.weight_decay_unit = 0.003
        c.probes.tasks += (
            "conv-w12-d2-cifar10:8x8:gray",
            "transformer-w48-d1-k8-s32-tiny_shakespeare",
        )
        c.probes.batch_examples += (32, 16)
        c.probes.steps += (400, 1_000)
        c.meta_optimizer.update(peak_lr=2e-3, end_lr=2e-5, decay_steps=900)
        c.run.meta_steps = 900
    elif variant == "smoke":
        c.tasks, c.batch_examples = ("mlp-w8-d2-digits",), 16
        base.smoke(c)
        c.init_theta = ""
        c.probes.update(
            tasks=("mlp-w8-d2-digits",), batch_examples=16, steps=10, every_steps=3
        )
    elif variant != "full":
        raise base.unknown(variant, "smoke", "full", "longer", "decay", "text")
    return c
