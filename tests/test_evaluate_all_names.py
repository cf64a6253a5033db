"""Every optimizer's name in one sweep, end to end, under its parametrization."""

import csv
import json

import numpy as np
import pytest

from configs.evaluate import base
from evaluate import run
from evaluate.optimizers import names
from evaluate.report import writing
from evaluate.sweep import axes

NAMES = tuple(names.SPECS)
# These compile for long, and their forms under μP, which are swept, are the same
# program with other multipliers. Their updates: tests/test_evaluate_optimizers.py.
SLOW = {"elo", "velo", "celo", "lstm_ff"}
# One parametrization after the other: what depends on the task is compiled twice then.
SWEPT = tuple(name for name in NAMES if name not in SLOW)
SWEPT = tuple(sorted(SWEPT, key=lambda name: names.get(name).standard))
# The theta that random ones get makes these one and the same rule.
TWINS = {
    "mu_small_fc": "mulo",
    "theta_init": "mulo",
    "mu_learned_adam": "mu_adam",
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Sweep the names; return the workdir."""
    config = base.sweep()
    config.tasks = ("mlp-d2-synthetic:2x2x1:2",)
    config.widths = (4,)
    config.optimizers = SWEPT
    config.thetas = (
        "random",
        *(f"{name}=random" for name in SWEPT if is_learned(name)),
    )
    config.num_seeds = 1
    config.horizons = (3,)
    config.batch_examples = 8
    config.tuning_refinements = 0
    config.schedules = ("constant",)
    config.lambdas = ()
    config.valid_points = 1
    config.bootstrap_samples = 20
    config.jobs = config.lanes = 1
    config.hyper.soap_blocked.block_size = 2  # A side of 4 would be one block.
    config.hyper.mu_soap_blocked.block_size = 2
    for name in SWEPT:
        spec = names.get(name)
        if spec.step_size == "rate":
            config.learning_rates[name] = (spec.coord_learning_rate,)
        # Decay of these hundredths would not show after three steps.
        if "weight_decay" in config.hyper.get(name, {}):
            config.hyper[name].weight_decay = 0.5
    workdir = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "write", lambda workdir, study, values: workdir)
        assert run.run(config, workdir) == 0
    return workdir


def is_learned(name):
    return names.get(name).learned and name not in ("mulo", names.THETA_INIT)


def rows(workdir):
    text = (workdir / "results.csv").read_text()
    return {row["optimizer"]: row for row in csv.DictReader(text.splitlines())}


def test_every_name_trains_under_its_parametrization(swept):
    found = rows(swept)
    assert set(found) == set(SWEPT)
    for name, row in found.items():
        sp = "sp-" if names.get(name).standard else ""
        assert row["task"] == f"{sp}mlp-w4-d2-synthetic:2x2x1:2"
        assert np.isfinite(float(row["final_valid_loss"])), name
        assert bool(row["theta_sha256"]) == names.get(name).learned


def test_no_two_names_train_alike(swept):
    losses = {
        name: (float(row["final_train_loss"]), float(row["final_valid_loss"]))
        for name, row in rows(swept).items()
    }
    for name, twin in TWINS.items():
        np.testing.assert_allclose(losses.pop(name), losses[twin], rtol=1e-6)
    assert len(set(losses.values())) == len(SWEPT) - len(TWINS)


def test_the_summary_says_which_thetas_are_random(swept):
    values = json.loads((swept / "summary.json").read_text())
    learned = {"random", *(name for name in SWEPT if is_learned(name))}
    said = {x.split(":")[0] for x in values["warnings"] if "its theta is random" in x}
    assert said == learned
    thetas = dict.fromkeys(learned, "random") | {"random at init": "init"}
    assert values["thetas"] == thetas


@pytest.mark.parametrize("name", NAMES)
def test_hyper_parameters_of_every_name_can_be_set_in_the_config(name):
    config = base.sweep()
    config.optimizers = (name,)
    config.tasks = ("mlp-d2-digits",)
    spec = names.get(name)
    assert dict(config.hyper.get(name, {})).keys() == spec.hyper.keys()
    for key in spec.hyper:
        config.hyper[name][key] += 1  # Locked: only what is declared, same type.
    settings = axes.SweepConfig.from_dict(config.to_dict())
    resolved = names.resolve_hyper(name, settings.hyper.get(name, {}))
    for key, value in resolved.items():
        assert value == config.hyper[name][key]
    assert settings.grid(name) == spec.grid
