"""SmallFC meta-trained on Celo's four small tasks with scale augmentation.

    TFDS_DATA_DIR=… python -m meta_train --config=configs/celo_fast_velo.py \
        --workdir=runs/fast_velo

MNIST, Fashion-MNIST, CIFAR-10 and SVHN as gray images of 8x8 pixels under MLPs of 64,
32 and 10 units, batches of 64; each run's parameters are scaled by one α, log-uniform
in [1e-3, 1e3] (arXiv 2501.12670; ``tasks/suites.py``, ``tasks/augmentation.py``). Kept
from Celo: PES with sigma 0.01, truncations of 50, lengths log-uniform in 100-2,000,
AdamW at 3e-4, 100,000 meta-steps. Differs: the rule is SmallFC in μP, not Celo's; the
learning rate warms up and decays; images are normalized.

Variants:
  ``full``: as above. Celo's authors report 24 GPU-hours for theirs. Not run here yet.
  ``full_sp``: its twin in the standard parametrization.
  ``present``: the sets whose data are there, and the bundled digits.
  ``smoke``: seconds, on digits alone.
"""

import ml_collections
from ml_collections import config_dict

from meta_train import rules


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = config_dict.create(
        tasks=("fast_velo",),
        # One for all tasks, or a tuple with one for each.
        batch_examples=config_dict.FieldReference(64, field_type=object),
        data_dir="",  # Empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        data_budget_bytes=8 << 30,  # A larger data set is refused.
        loss_ceiling=10.0,  # nats
        init_theta="",  # Released name or path to go on from; empty: drawn anew.
        augment=dict(  # See tasks/augmentation.py.
            reparam="global",  # or none, tensor, parameter
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
            max_length_steps=2_000,
            curriculum=(),  # (from meta-step, max_length_steps)
            noise="fresh",  # or reused, over a whole run
            loss_diff_clip=float("inf"),  # nats
        ),
        meta_optimizer=dict(
            peak_lr=3e-4,
            end_lr=3e-5,
            warmup_steps=100,
            decay_steps=100_000,
            weight_decay=1e-4,
            clip_norm=1.0,
            clip_order="before",
        ),
        run=dict(
            seed=0,
            meta_steps=100_000,
            log_steps=50,
            checkpoint_steps=1_000,
            keep_checkpoints=2,
        ),
        report=dict(tensorboard=False, wandb=False),
    )
    if variant == "full_sp":
        c.tasks = ("sp-fast_velo",)
    elif variant == "present":
        c.tasks = ("fast_velo:present",)
    elif variant == "smoke":
        c.tasks = ("mlp-w8+w16-d1-digits",)
        c.batch_examples = 16
        c.rule_defaults.update(rules.SMOKE)
        c.pes.update(
            num_pairs=2, trunc_steps=5, min_length_steps=5, max_length_steps=20
        )
        c.meta_optimizer.update(warmup_steps=1, decay_steps=6)
        c.run.update(meta_steps=6, log_steps=1, checkpoint_steps=2)
    elif variant != "full":
        raise ValueError(
            f"variant must be smoke, present, full_sp or full, got {variant!r}."
        )
    return c
