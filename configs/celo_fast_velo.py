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

from configs import base


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Return the config of a variant."""
    c = base.meta_training()
    c.tasks = ("fast_velo",)
    c.augment.reparam = "global"
    c.estimator.update(max_length_steps=2_000, loss_diff_clip=float("inf"))
    c.meta_optimizer.update(peak_lr=3e-4, end_lr=3e-5, decay_steps=100_000)
    c.run.update(meta_steps=100_000, log_steps=50, checkpoint_steps=1_000)
    if variant == "full_sp":
        c.tasks = ("sp-fast_velo",)
    elif variant == "present":
        c.tasks = ("fast_velo:present",)
    elif variant == "smoke":
        base.smoke(c)
        c.tasks = ("mlp-w8+w16-d1-digits",)
    elif variant != "full":
        raise base.unknown(variant, "smoke", "present", "full_sp", "full")
    return c
