"""Learned optimizers, randomly initialized, that train one another on digits.

No hand-designed optimizer takes part; ``smoke`` is of seconds.
"""

import ml_collections

from configs import base


def get_config(variant: str = "digits") -> ml_collections.ConfigDict:
    """Return the configuration; ``variant`` is ``digits`` or ``smoke``."""
    c = base.meta_training()
    c.rule.update(name="small_fc", hidden_size=8)
    # Without smaller steps towards the end most runs lose what they had learned.
    c.population.update(size=8, every_steps=20, perturb_std=0.03, end_factor=0.0)
    c.estimator.update(num_pairs=4, trunc_steps=20, min_length_steps=40)
    c.estimator.update(max_length_steps=200)
    c.tasks, c.batch_examples = ("mlp-w16-d2-digits",), 32
    # Small steps: most of the first ones lead nowhere.
    c.meta_optimizer.update(step_factor=0.1, clip_order="after", clip_norm=0.05)
    c.meta_optimizer.decay_steps = 1_000
    c.run.update(meta_steps=1_000, checkpoint_steps=200)
    c.probes.update(tasks=c.tasks, batch_examples=32, steps=200, every_steps=100)
    if variant == "smoke":
        base.smoke(c)
        c.population.update(size=2, every_steps=2)
        c.probes.tasks = ()
    elif variant != "digits":
        raise base.unknown(variant, "digits", "smoke")
    return c
