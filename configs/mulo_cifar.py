"""A μLO meta-trained on CIFAR-10.

    TFDS_DATA_DIR=… python -m meta_train --config=configs/mulo_cifar.py:cpu \
        --workdir=runs/cifar

Variants:
  ``cpu``: 8x8 gray, width 32, for two CPU cores: about 20 minutes. Below μAdam at
    the best constant rate after 1,000 steps at widths 32, 128 and 512; with a cosine
    schedule nothing tells the two apart (docs/results.md, as mulo-cifar8).
  ``cpu_long``: from ``runs/cifar/theta``, what ``cpu`` ends with, 1,500 further
    meta-steps with lengths up to 10,000, for longer horizons: about 6 minutes.
    In docs/results.md it is mulo-cifar8-long.
  ``full``: 32x32 colour, widths 128, 512 and 1,024, for a GPU. Not run here yet.
  ``smoke``: seconds.
"""

import ml_collections

from configs import base


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = base.meta_training()
    c.tasks = (
        "mlp-w128-d3-cifar10",
        "mlp-w512-d3-cifar10",
        "mlp-w1024-d3-cifar10",
    )
    c.batch_examples = 128
    if variant in ("cpu", "cpu_long"):
        c.tasks = ("mlp-w32-d3-cifar10:8x8:gray",)
        if variant == "cpu_long":
            c.init_theta = "runs/cifar/theta"
            c.estimator.max_length_steps = 10_000
            c.meta_optimizer.update(
                peak_lr=1e-3, end_lr=3e-5, warmup_steps=50, decay_steps=1_500
            )
            c.run.meta_steps = 1_500
    elif variant == "smoke":
        base.smoke(c)
        c.tasks = ("mlp-w8-d2-cifar10:8x8:gray",)
    elif variant != "full":
        raise base.unknown(variant, "smoke", "cpu", "cpu_long", "full")
    return c
