"""A small μLO, meta-trained on scikit-learn's digits (bundled, no download).

    python -m meta_train --config=configs/mulo_digits.py:demo --workdir=runs/digits

Variants: ``smoke`` (seconds, for CI), ``demo`` (what ``make demo`` runs) and ``full``.
"""

import ml_collections
from ml_collections import config_dict


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = config_dict.create(
        tasks=("mlp-w32-d2-digits", "mlp-w64-d2-digits"),
        batch_examples=64,
        data_dir="",  # Empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        loss_ceiling=10.0,  # nats
        init_theta="",  # Released name or path to go on from; empty: drawn anew.
        rule=dict(hidden_size=32, step_mult=0.01, base_width=1.0),
        pes=dict(
            sigma=0.01,  # units of theta
            num_pairs=8,
            trunc_steps=50,
            min_length_steps=100,
            max_length_steps=1_000,
            curriculum=(),  # (from meta-step, max_length_steps)
            loss_diff_clip=0.5,  # nats
        ),
        meta_optimizer=dict(
            peak_lr=3e-3,
            end_lr=1e-4,
            warmup_steps=100,
            decay_steps=5_000,
            weight_decay=1e-4,
            clip_norm=1.0,
            clip_order="before",
        ),
        run=dict(
            seed=0,
            meta_steps=5_000,
            log_steps=10,
            checkpoint_steps=250,
            keep_checkpoints=2,
        ),
        report=dict(tensorboard=False, wandb=False),
    )
    if variant == "smoke":
        c.tasks = ("mlp-w8-d2-digits",)
        c.rule.hidden_size = 4
        c.pes.update(
            num_pairs=2, trunc_steps=5, min_length_steps=5, max_length_steps=20
        )
        c.meta_optimizer.update(warmup_steps=1, decay_steps=6)
        c.run.update(meta_steps=6, log_steps=1, checkpoint_steps=2)
    elif variant == "demo":
        c.meta_optimizer.update(warmup_steps=30, decay_steps=600)
        c.run.update(meta_steps=600, checkpoint_steps=100)
    elif variant != "full":
        raise ValueError(f"variant must be smoke, demo or full, got {variant!r}.")
    return c
