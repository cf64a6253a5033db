"""μLO_S: the paper's single-width recipe (arXiv 2406.00153, appendix C).

    python -m meta_train --config=configs/mulo_s.py --workdir=runs/mulo_s

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
from ml_collections import config_dict

from meta_train import rules


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = config_dict.create(
        tasks=("mlp-w128-d3-imagenet_resized/32x32",),
        # One for all tasks, or a tuple with one for each.
        batch_examples=config_dict.FieldReference(4_096, field_type=object),
        data_dir="",  # Empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        data_budget_bytes=8 << 30,  # A larger data set is refused.
        loss_ceiling=20.0,  # nats
        init_theta="",  # Released name or path to go on from; empty: drawn anew.
        augment=dict(  # See tasks/augmentation.py; all off.
            reparam="none",  # or global, tensor, parameter
            reparam_low=1e-3,
            reparam_high=1e3,
            label_subset_min=0,  # classes; 0: always all
            input_noise_max=0.0,  # std, units of normalized inputs
            activations=(),  # names, e.g. ("relu", "tanh")
        ),
        objective=dict(  # See docs/meta_training.md.
            weights="mean",  # or late, last
            power=4.0,  # of late
            last_frac=0.05,  # of last: share of a run
            transform="none",  # or log
            log_floor=0.1,  # of log, nats
            data="train",  # or valid
        ),
        normalize_grads=False,  # Each task's by the running RMS of its norm.
        probes=dict(  # Whole runs every so many meta-steps; none without tasks.
            tasks=(),
            batch_examples=config_dict.FieldReference(64, field_type=object),
            steps=config_dict.FieldReference(1_000, field_type=object),
            every_steps=100,
            num_seeds=2,
        ),
        rule=rules.section(),  # Another: --config.rule.name=velo.
        rule_defaults=dict(  # Where not an architecture's own; rule goes first.
            small_fc=dict(hidden_size=32, step_mult=0.01, base_width=1.0),
        ),
        pes=dict(
            sigma=0.01,  # units of theta
            num_pairs=8,
            trunc_steps=50,
            min_length_steps=100,
            max_length_steps=1_000,
            curriculum=(),  # (from meta-step, max_length_steps)
            noise="fresh",  # or reused, over a whole run
            loss_diff_clip=float("inf"),  # nats
        ),
        meta_optimizer=dict(
            peak_lr=3e-3,
            end_lr=1e-3,
            warmup_steps=100,
            decay_steps=4_900,
            weight_decay=1e-4,
            clip_norm=1.0,
            clip_order="after",
        ),
        run=dict(
            seed=0,
            meta_steps=5_000,
            log_steps=10,
            checkpoint_steps=100,
            keep_checkpoints=2,
        ),
        report=dict(tensorboard=False, wandb=False),
    )
    if variant == "smoke":
        c.tasks = ("mlp-w16-d3-synthetic:32x32x3:1000",)
        c.batch_examples = 8
        c.rule_defaults.update(rules.SMOKE)
        c.pes.update(num_pairs=2, trunc_steps=2, min_length_steps=2, max_length_steps=6)
        c.run.update(meta_steps=2, log_steps=1, checkpoint_steps=2)
    elif variant != "full":
        raise ValueError(f"variant must be smoke or full, got {variant!r}.")
    return c
