"""What every meta-training run can say; the files beside this one state what differs.

Keys are explained in docs/meta_training.md.
"""

import ml_collections
from ml_collections import config_dict

from meta_train import rules


def meta_training() -> ml_collections.ConfigDict:
    """Return a meta-training run's configuration with its defaults, without tasks."""
    return config_dict.create(
        tasks=(),  # Names, see docs/tasks.md.
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
        task_clip_norm=0.0,  # At most this of each task's, then; 0: no limit.
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
            annealed_fc=dict(hidden_size=32, step_mult=0.01, base_width=1.0),
        ),
        estimator=dict(  # See meta_train/estimators/.
            name="pes",
            sigma=0.01,  # units of theta
            # One for all tasks, or a tuple with one for each.
            num_pairs=config_dict.FieldReference(8, field_type=object),
            trunc_steps=50,
            min_length_steps=100,
            # The same.
            max_length_steps=config_dict.FieldReference(1_000, field_type=object),
            curriculum=(),  # (from meta-step, max_length_steps)
            noise_period=4,  # of gpes: truncations with one perturbation
            loss_diff="value",  # or sign
            loss_diff_clip=0.5,  # as the objective counts
            winsorize_frac=0.0,  # share of the pairs
            num_truncs=1,  # averaged into one gradient
            restart_prob=0.0,  # of runs from where earlier ones struggled
            restart_slack=0.0,  # nats per truncation
            restart_threshold=0.1,  # nats
        ),
        imitation=dict(  # Of a hand-designed optimizer, at first; see docs.
            expert="",
            learning_rate=1e-2,
            end_learning_rate=1e-4,
            weight=1.0,  # at the first meta-step; of the loss the rest
            expert_share=0.5,  # of the steps at the first meta-step
            until_meta_step=1_000,  # where both are zero
        ),
        meta_optimizer=dict(
            name="adamw",  # adam, lion, soap, or a released theta or path
            step_factor=1.0,  # on the steps of a learned one
            peak_lr=3e-3,
            end_lr=1e-4,
            warmup_steps=100,
            decay_steps=5_000,
            weight_decay=1e-4,
            clip_value=float("inf"),  # of every entry
            clip_norm=1.0,
            clip_order="before",
        ),
        population=dict(  # Thetas that train one another; see docs/meta_training.md.
            size=0,
            every_steps=20,
            perturb_std=0.02,  # units of theta
            end_factor=1.0,  # of steps, left at meta_optimizer.decay_steps
        ),
        run=dict(
            seed=0,
            meta_steps=5_000,
            log_steps=10,
            checkpoint_steps=250,
            keep_checkpoints=2,  # newest ones
            keep_every_steps=0,  # and those of multiples of this, for good; 0: none
            max_diverged_frac=1.0,  # share of a family's runs; more stops the run
            particles_at_once=0,  # runs side by side on a device; 0: automatic
        ),
        report=dict(tensorboard=False, wandb=False),
    )


def unknown(variant: str, *known: str) -> ValueError:
    """Return the error for a variant that a file does not have."""
    return ValueError(f"variant must be one of {', '.join(known)}; got {variant!r}.")


def smoke(c: ml_collections.ConfigDict) -> None:
    """Make a run one of seconds on digits, where compiling is most of the time."""
    c.tasks, c.batch_examples = ("mlp-w8-d2-digits",), 16
    c.rule_defaults.update(rules.smoke())
    c.estimator.update(
        num_pairs=2, trunc_steps=5, min_length_steps=5, max_length_steps=20
    )
    c.meta_optimizer.update(warmup_steps=1, decay_steps=6)
    c.run.update(meta_steps=6, log_steps=1, checkpoint_steps=2)
