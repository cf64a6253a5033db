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
from ml_collections import config_dict

from meta_train import rules


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = config_dict.create(
        tasks=("mlp-w32-d2-digits", "mlp-w64-d2-digits"),
        # One for all tasks, or a tuple with one for each.
        batch_examples=config_dict.FieldReference(64, field_type=object),
        data_dir="",  # Empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        data_budget_bytes=8 << 30,  # A larger data set is refused.
        loss_ceiling=10.0,  # nats
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
        c.rule_defaults.update(rules.SMOKE)
        c.pes.update(
            num_pairs=2, trunc_steps=5, min_length_steps=5, max_length_steps=20
        )
        c.meta_optimizer.update(warmup_steps=1, decay_steps=6)
        c.run.update(meta_steps=6, log_steps=1, checkpoint_steps=2)
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
        raise ValueError(
            f"variant must be smoke, demo, demo_sp or full, got {variant!r}."
        )
    return c
