"""Options of meta-training that meet: they run, and resume bit for bit."""

import numpy as np
import pytest
from helpers import short_runs

from configs import base
from meta_train import setup

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
    made = trainer(changes)
    start = short_runs.by_path(made.init())
    short_runs.run(made, tmp_path / "whole", 6)
    short_runs.run(made, tmp_path / "parts", 2)
    short_runs.run(trainer(changes), tmp_path / "parts", 6)  # As a new process would.
    whole, parts = (
        short_runs.final(made, tmp_path / name) for name in ("whole", "parts")
    )
    assert parts.keys() == whole.keys() == start.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array, err_msg=name)
    thetas = [name for name in whole if name.startswith(".theta")]
    assert all(np.isfinite(whole[name]).all() for name in thetas)
    assert any(np.any(whole[name] != start[name]) for name in thetas)
