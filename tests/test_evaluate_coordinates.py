import dataclasses
import functools
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import mulo
from evaluate import coord_report, coordinates

ROOT = pathlib.Path(__file__).parent.parent
# Random, but its steps are a hundredth of the weights' size: ten of them matter.
RULE = mulo.SmallFC(hidden_size=4, step_mult=0.01)
PRETRAINED = mulo.Pretrained(RULE, RULE.init(jax.random.key(0)), {})


@functools.cache
def check(task, optimizer, **changes):
    settings = {"widths": (16, 128), "num_seeds": 2, "num_steps": 6} | changes
    config = coordinates.CoordConfig(task=task, optimizer=optimizer, **settings)
    return coordinates.check(config, PRETRAINED)


@pytest.mark.parametrize("optimizer", ["mu_adam", "mulo"])
def test_mup_optimizers_on_a_mup_task_pass(optimizer):
    result = check("mlp-d2-digits", optimizer)
    assert result.growing == ()
    assert result.layers == ("linear_0", "linear_1", "logits")
    assert np.abs(result.verdicts).max() < 0.25


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "mulo", "mu_adam"])
def test_the_same_rules_in_the_standard_parametrization_fail(optimizer):
    rate = 1e-3 if optimizer == "mu_adam" else None
    result = check("sp-mlp-d2-digits", optimizer, learning_rate=rate)
    # The input layer is right in both parametrizations, so it must not be blamed.
    assert result.growing == ("linear_1", "logits")
    assert result.verdicts[1:].min() > 0.35


def test_hidden_layers_stand_still_at_the_first_step_only():
    # The readout is zero: no gradient passes it before it has moved.
    result = check("mlp-d2-digits", "mu_adam")
    logits = result.changes[result.layers.index("logits")]
    assert (logits > 0).all()
    assert (result.changes[:, :, 1:] > 0).all()
    config = dataclasses.replace(result.config, num_steps=2, num_seeds=1)
    assert coordinates.check(config).changes.shape == (3, 2, 2)


def test_slopes_of_a_power_law_are_its_exponent():
    widths = (8, 32, 128)
    powers = np.array([[0.0, 0.5], [1.0, -0.5]])  # (layers, T)
    changes = 3.0 * np.power(np.array(widths)[None, :, None], powers[:, None, :])
    np.testing.assert_allclose(coordinates.fit_slopes(widths, changes), powers)


def test_a_change_that_is_not_finite_is_infinite_growth():
    changes = np.ones((1, 3, 2))
    changes[0, 2, 1] = np.inf
    slopes = coordinates.fit_slopes((8, 16, 32), changes)
    np.testing.assert_array_equal(slopes, [[0.0, np.inf]])


def test_a_layer_that_stands_still_has_no_slope():
    changes = np.zeros((1, 3, 1))
    assert coordinates.fit_slopes((8, 16, 32), changes) == 0.0
    changes[0, 1:, 0] = [1.0, 2.0]  # The two widths that moved decide.
    assert coordinates.fit_slopes((8, 16, 32), changes) == pytest.approx(1.0)


def test_growth_and_shrinking_are_told_apart_by_the_threshold():
    base = check("mlp-d2-digits", "mu_adam")
    result = dataclasses.replace(base, verdicts=np.array([0.31, -0.31, 0.29]))
    assert result.growing == ("linear_0",)
    assert result.shrinking == ("linear_1",)
    text = coord_report.describe(result)
    assert "FAILED: the change of linear_0 grows faster than width^0.3" in text
    assert "shrinks (warning)" in text
    values = json.loads(result.to_json())
    assert not values["passed"]
    assert values["slope_by_layer"]["linear_1"] == -0.31


def test_infinite_slopes_are_null_in_json():
    base = check("mlp-d2-digits", "mu_adam")
    result = dataclasses.replace(base, verdicts=np.array([np.inf, 0.0, 0.0]))
    assert result.growing == ("linear_0",)
    assert json.loads(result.to_json())["slope_by_layer"]["linear_0"] is None
    assert coord_report.png(result)[:4] == b"\x89PNG"


def test_an_optimizer_that_moves_nothing_proves_nothing():
    with pytest.raises(ValueError, match="nothing moved in 2 steps of mu_adam"):
        check("mlp-d2-digits", "mu_adam", learning_rate=0.0, num_steps=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "mlp-w8-d2-digits"}, "template without a width"),
        ({"optimizer": "mu_adm"}, "did you mean 'mu_adam'"),
        ({"widths": (8, 8)}, "two or more different"),
        ({"num_steps": 1}, "num_steps must be >= 2"),
        ({"num_seeds": 0}, "num_seeds must be >= 1"),
    ],
)
def test_configurations_that_make_no_sense_are_errors(changes, message):
    settings = {"task": "mlp-d2-digits", "optimizer": "mu_adam"} | changes
    with pytest.raises(ValueError, match=message):
        coordinates.CoordConfig(**settings)


def test_widths_that_are_no_numbers_are_an_error():
    with pytest.raises(ValueError, match="whole numbers, like 32,64; got '6x'"):
        coord_report.parse_widths(["8", "6x"])


def test_shown_steps_are_powers_of_two_and_the_last():
    assert coord_report.shown_steps(10) == [1, 2, 4, 8, 10]
    assert coord_report.shown_steps(8) == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("task", "optimizer", "status"),
    [("mlp-d2-digits", "mu_adam", 0), ("sp-mlp-d2-digits", "adam", 1)],
)
def test_the_exit_status_is_the_verdict(task, optimizer, status, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "evaluate.coord_check"),
            *(f"--task={task}", f"--optimizer={optimizer}", "--widths=16,128"),
            *("--seeds=2", "--steps=6", f"--png={tmp_path / 'check.png'}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    assert ("FAILED" in done.stdout) == (status == 1)
    assert (tmp_path / "check.png").read_bytes()[:4] == b"\x89PNG"
    values = json.loads((tmp_path / "check.json").read_text())
    assert values["passed"] == (status == 0)
