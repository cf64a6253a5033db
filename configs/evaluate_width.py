"""How optimizers tuned or meta-trained at some widths do at others, on digits.

Trains an MLP at every width with every optimizer. Hand-designed optimizers are tuned on
a grid of learning rates at each width; "untuned" rates stand beside them. Cells already
in the workdir are not run again, so widths, seeds or rates can be added later.

Command::

    python -m evaluate --config=configs/evaluate_width.py:demo \
        --theta=runs/demo/theta --workdir=runs/eval_demo

Variants, times on 2 CPU cores: ``smoke`` seconds; ``demo`` 3 minutes; ``full``
(default) widths 32 to 1024 over 1,000 steps, hours. Any other task:
``--config.task=mlp-d3-cifar10:8x8:gray --config.data_dir=…``. Other optimizers:
``--optimizers=mulo,small_fc,mu_soap_blocked,velo`` with ``--sp_theta=…`` or
``--theta=small_fc=…`` for what is learned under the standard parametrization, such as
the SP twin of a μLO, ``small_fc``, and ``--theta=velo=…``.
"""

import ml_collections
from ml_collections import config_dict

from evaluate import optimizers


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
    # Of every optimizer, for --config.learning_rates.mu_lion="(1e-3,1e-2)" and
    # --config.hyper.mu_lion.b1=0.95. Grids: evaluate/rates.py; learned optimizers have
    # nothing to tune, 1 is the step as it was meta-trained.
    specs = optimizers.SPECS.values()
    c.learning_rates = config_dict.create(**{s.name: s.grid for s in specs})
    c.untuned_learning_rates = config_dict.create(mu_adam=1e-3)
    c.hyper = config_dict.create(**{s.name: dict(s.hyper) for s in specs if s.hyper})
    c.hyper.mu_sgd.momentum = c.hyper.sgd.momentum = 0.9
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
