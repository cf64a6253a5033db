"""Meta-training for a few meta-steps, and what its checkpoints hold."""

import jax
import numpy as np

from meta_train import loop
from meta_train import workdir as workdir_lib


def run(trainer, workdir, meta_steps):
    """Go on to a meta-step, with checkpoints every second; the theta's folder."""
    workdir.mkdir(exist_ok=True)
    config = loop.RunConfig(
        seed=0,
        meta_steps=meta_steps,
        log_steps=1,
        checkpoint_steps=2,
        keep_checkpoints=1,
    )
    return loop.run(trainer, config, workdir, card={})


def final(trainer, workdir):
    """Every array of the newest checkpoint, by path."""
    checkpoints = workdir_lib.Checkpoints(workdir, keep=1)
    try:
        return by_path(checkpoints.restore(checkpoints.latest(), trainer.init()))
    finally:
        checkpoints.close()


def by_path(state):
    """Every array of a state, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}
