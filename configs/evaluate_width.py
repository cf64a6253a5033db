"""How optimizers tuned or meta-trained at some widths do at others, on digits.

Trains an MLP at every width with every optimizer. Hand-designed optimizers are tuned on
a grid of learning rates at each width; "untuned" rates stand beside them. Cells already
in the workdir are not run again, so widths, seeds or rates can be added later.

Command::

    python -m evaluate --config=configs/evaluate_width.py:demo \
        --theta=runs/demo/theta --workdir=runs/eval_demo

Variants, times on 2 CPU cores: ``smoke`` seconds; ``demo`` 3 minutes; ``full``
(default) widths 32 to 1024 over 1,000 steps, hours. Any other task:
``--config.task=mlp-d3-cifar10:8x8:gray --config.data_dir=…``. The SP twin of a learned
optimizer is ``small_fc``: add it to ``--config.optimizers`` and give ``--sp_theta``.
"""

import ml_collections
from ml_collections import config_dict

# Published μAdam optima lie between 0.03 and 0.15 at base width 1, AdamW's between 2e-4
# and 3e-3 (μLO, tables 7 and 9); the grids leave room on both sides.
_MU_ADAM_GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_ADAMW_GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the configuration of a variant: ``full``, ``demo`` or ``smoke``."""
    c = config_dict.create(
        task="mlp-d2-digits",  # A template: widths are added, sp- where needed.
        widths=(32, 64, 128, 256, 512, 1024),
        optimizers=("mulo", "mu_adam", "adamw"),  # As in evaluate/optimizers.py.
        num_seeds=5,  # Seeds 0, 1, …: initial parameters and batches.
        horizon_steps=1_000,
        batch_examples=64,
        data_dir="",  # Where tensorflow-datasets keeps its data; empty: its default.
        data_budget_bytes=8 << 30,  # A larger data set is refused.
        lanes=0,  # Cells trained side by side; 0: one on CPUs, eight elsewhere.
        bootstrap_samples=2_000,
        confidence_frac=0.95,
        bootstrap_seed=0,
    )
    c.learning_rates = config_dict.create(
        mu_adam=_MU_ADAM_GRID,
        adamw=_ADAMW_GRID,
        adam=_ADAMW_GRID,
        mu_sgd=(1e-3, 1e-2, 1e-1, 1.0),
        sgd=(1e-3, 1e-2, 1e-1, 1.0),
        mulo=(1.0,),  # A multiplier of the learned step: nothing to tune.
        small_fc=(1.0,),
    )
    c.untuned_learning_rates = config_dict.create(mu_adam=1e-3)
    c.hyper = config_dict.create(
        mu_adam=dict(b1=0.9, b2=0.999, eps=1e-8, base_width=1.0),
        adamw=dict(b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-4),
        adam=dict(b1=0.9, b2=0.999, eps=1e-8),
        mu_sgd=dict(momentum=0.9, base_width=1.0),
        sgd=dict(momentum=0.9),
    )
    if variant == "demo":
        c.widths = (32, 128, 512, 1024)
        c.num_seeds = 1
        c.batch_examples = 32
        c.learning_rates.mu_adam = (1e-3, 3e-2, 1e-1, 3e-1)
        c.learning_rates.adamw = (1e-3, 3e-3, 1e-2)
    elif variant == "smoke":
        c.widths = (8, 16)
        c.num_seeds = 2
        c.horizon_steps = 20
        c.learning_rates.mu_adam = (1e-2, 1e-1)
        c.learning_rates.adamw = (1e-3, 1e-2)
        c.bootstrap_samples = 200
    elif variant != "full":
        raise ValueError(f"variant must be full, demo or smoke; got {variant!r}.")
    return c
