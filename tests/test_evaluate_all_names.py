"""Every optimizer's name in one sweep, end to end, under its parametrization."""

import csv
import json

import fast_compile
import numpy as np
import pytest

from configs import evaluate_width
from evaluate import optimizers, run, style, sweep, training

NAMES = tuple(optimizers.SPECS)
# These compile for long, and their forms under μP, which are swept, are the same
# program with other multipliers. Their updates: tests/test_evaluate_optimizers.py.
SLOW = {"elo", "velo", "celo", "lstm_ff"}
SWEPT = tuple(name for name in NAMES if name not in SLOW)
# The theta that random ones get makes these one and the same rule.
TWINS = {"mu_small_fc": "mulo", "mu_learned_adam": "mu_adam"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Sweep the names; return the workdir."""
    config = evaluate_width.get_config("smoke")
    config.task = "mlp-d2-synthetic:2x2x1:2"
    config.widths = (4,)
    config.optimizers = SWEPT
    config.num_seeds = 1
    config.horizon_steps = 3
    config.batch_examples = 8
    config.bootstrap_samples = 20
    config.untuned_learning_rates = {}
    config.hyper.soap_blocked.block_size = 2  # A side of 4 would be one block of 16.
    config.hyper.mu_soap_blocked.block_size = 2
    for name in SWEPT:
        rate = optimizers.get(name).coord_learning_rate
        config.learning_rates[name] = (rate,)
        # Decay of these hundredths would not show after three steps.
        if "weight_decay" in config.hyper.get(name, {}):
            config.hyper[name].weight_decay = 0.5
    workdir = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "jax", fast_compile.Jax())
        assert run.run(config, workdir, theta=["random"], sp_theta="random") == 0
    return workdir


def rows(workdir):
    text = (workdir / "results.csv").read_text()
    return {row["optimizer"]: row for row in csv.DictReader(text.splitlines())}


def test_every_name_trains_under_its_parametrization(swept):
    found = rows(swept)
    assert set(found) == set(SWEPT)
    for name, row in found.items():
        mup = name == "mulo" or name.startswith("mu_")
        sp = "" if mup else "sp-"
        assert row["task"] == f"{sp}mlp-w4-d2-synthetic:2x2x1:2"
        assert np.isfinite(float(row["final_valid_loss"])), name
        assert bool(row["theta_sha256"]) == optimizers.get(name).learned


def test_no_two_names_train_alike(swept):
    losses = {
        name: (float(row["final_train_loss"]), float(row["final_valid_loss"]))
        for name, row in rows(swept).items()
    }
    for name, twin in TWINS.items():
        np.testing.assert_allclose(losses.pop(name), losses[twin], rtol=1e-6)
    assert len(set(losses.values())) == len(SWEPT) - len(TWINS)


def test_the_report_says_which_thetas_are_random(swept):
    values = json.loads((swept / "summary.json").read_text())
    learned = {name for name in SWEPT if optimizers.get(name).learned}
    assert values["environment"]["thetas"] == dict.fromkeys(learned, "random")
    said = {text.split(":")[0] for text in values["warnings"] if "random" in text}
    assert said == learned
    page = (swept / "report.html").read_text()
    assert "mu_velo: its theta is random, never meta-trained" in page


def test_no_two_optimizers_of_a_plot_look_alike():
    looks = style.looks(NAMES)
    assert len(set(looks.values())) == len(NAMES)
    nine = [name for name in NAMES if name not in style.LOOKS][:9]
    assert len({style.looks(nine)[name][0] for name in nine}) == 9


@pytest.mark.parametrize("name", NAMES)
def test_hyper_parameters_of_every_name_can_be_set_in_the_config(name):
    config = evaluate_width.get_config()
    spec = optimizers.get(name)
    assert dict(config.hyper.get(name, {})).keys() == spec.hyper.keys()
    for key in spec.hyper:
        config.hyper[name][key] += 1  # Locked: only what is declared, same type.
    settings = sweep.SweepConfig.from_dict(config.to_dict())
    resolved = optimizers.resolve_hyper(name, settings.hyper.get(name, {}))
    for key, value in resolved.items():
        assert value == config.hyper[name][key]
    assert settings.grid(name) == spec.grid
