"""Options of meta-training that meet: they run, and resume bit for bit."""

import jax
import numpy as np
import pytest

from configs import base
from meta_train import loop, setup
from meta_train import workdir as workdir_lib

TASK = "mlp-w3-d1-synthetic:2x1x1:2"
IMITATION = {"expert": "sgd", "learning_rate": 0.1, "until_meta_step": 3}
RESTARTS = {"restart_prob": 0.8, "restart_threshold": 0.0, "num_pairs": 4}


def trainer(changes):
    c = base.meta_training()
    base.smoke(c)
    c.rule.name = "learned_adam"
    c.tasks, c.batch_examples = (TASK,), 4
    c.estimator.update(trunc_steps=2, min_length_steps=2, max_length_steps=6)
    for section, values in changes.items():
        c[section].update(values)
    return setup.build(setup.resolve(c.to_dict()))


def run(changes, workdir, meta_steps):
    """Go on to a meta-step; every array of the checkpoint there and of the start."""
    workdir.mkdir(exist_ok=True)
    made = trainer(changes)
    config = loop.RunConfig(
        seed=0,
        meta_steps=meta_steps,
        log_steps=1,
        checkpoint_steps=2,
        keep_checkpoints=1,
    )
    loop.run(made, config, workdir, card={})
    checkpoints = workdir_lib.Checkpoints(workdir, keep=1)
    try:
        state = checkpoints.restore(checkpoints.latest(), made.init())
    finally:
        checkpoints.close()
    return by_path(state), by_path(made.init())


def by_path(state):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}


@pytest.mark.parametrize(
    "changes",
    [
        {"estimator": RESTARTS},
        {
            "imitation": IMITATION,
            "objective": {"transform": "log"},
            "estimator": {"name": "truncated_backprop"},
        },
        {"imitation": IMITATION, "estimator": {"name": "full_es"}},
        {"imitation": IMITATION, "estimator": RESTARTS | {"name": "pes_a"}},
        {
            "population": {"size": 2, "every_steps": 2},
            "probes": {
                "tasks": (TASK,),
                "batch_examples": 4,
                "steps": 3,
                "every_steps": 2,
            },
        },
    ],
    ids=["restarts", "backprop", "full_es", "pes_a", "population"],
)
def test_a_run_that_is_cut_ends_as_one_that_is_not(changes, tmp_path):
    whole, start = run(changes, tmp_path / "whole", 6)
    run(changes, tmp_path / "parts", 2)
    parts, _ = run(changes, tmp_path / "parts", 6)
    assert parts.keys() == whole.keys() == start.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array, err_msg=name)
    thetas = [name for name in whole if name.startswith(".theta")]
    assert all(np.isfinite(whole[name]).all() for name in thetas)
    assert any(np.any(whole[name] != start[name]) for name in thetas)
