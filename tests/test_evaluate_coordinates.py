import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import tasks
from evaluate.coord_check import coordinates, report
from evaluate.optimizers import random_thetas

ROOT = pathlib.Path(__file__).parent.parent
TASK = "mlp-d2-synthetic:4x4x1:3"
DEPTH_TASK = "mlp-w8-synthetic:4x4x1:3"


def check(task, **changes):
    settings: dict[str, Any] = {"widths": (32, 256), "num_seeds": 2, "num_steps": 6}
    settings |= changes
    config = coordinates.CoordConfig(task=task, optimizer="mulo", **settings)
    return coordinates.check(config, random_thetas.pretrained())


def made_up(verdicts):
    """Return a result with these verdicts for layers a, b, …"""
    layers = tuple("abcdef"[: len(verdicts)])
    return coordinates.CoordResult(
        config=coordinates.CoordConfig(
            task=TASK, optimizer="mu_adam", widths=(8, 16), num_steps=3
        ),
        layers=layers,
        changes=np.ones((len(layers), 2, 3)),
        slopes=np.zeros((len(layers), 3)),
        verdicts=np.array(verdicts),
    )


def test_a_learned_optimizer_passes_under_mup():
    result = check(TASK)
    assert result.growing == ()
    assert result.layers == ("linear_0", "linear_1", "logits")
    assert np.abs(result.verdicts).max() < 0.25
    # The readout is zero: no gradient passes it before it has moved.
    np.testing.assert_array_less(result.changes[1, :, 0], result.changes[1, :, 1])
    assert (result.changes[:, :, 1:] > 0).all()


def test_the_same_learned_optimizer_fails_in_the_standard_parametrization():
    result = check(f"sp-{TASK}")
    # The input layer is right in both parametrizations, so it must not be blamed.
    assert result.growing == ("linear_1", "logits")
    assert result.verdicts[1:].min() > 0.5


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
    result = made_up([0.31, -0.31, 0.29])
    assert result.growing == ("a",)
    assert result.shrinking == ("b",)
    text = report.describe(result)
    assert "FAILED: the change of a grows faster than width^0.3" in text
    assert "shrinks (warning)" in text
    values = json.loads(result.to_json())
    assert not values["passed"]
    assert values["slope_by_layer"]["b"] == -0.31


def test_too_few_sizes_seeds_or_steps_are_doubted():
    def doubts(widths, num_seeds, num_steps):
        result = made_up([0.0])
        config = dataclasses.replace(
            result.config, widths=widths, num_seeds=num_seeds, num_steps=num_steps
        )
        result = dataclasses.replace(result, config=config)
        assert json.loads(result.to_json())["doubts"] == list(result.doubts)
        return result.doubts

    assert doubts((8, 16, 32), 2, 5) == ()
    (sizes,) = doubts((8, 16), 2, 5)
    assert sizes == "two widths make a line of any two numbers: give three or more"
    (seeds,) = doubts((8, 16, 32), 1, 5)
    assert seeds == "one seed shows no spread: give --seeds=2 or more"
    (steps,) = doubts((8, 16, 32), 2, 4)
    assert steps.startswith("4 steps are too few")
    assert "--steps=5" in steps


def test_doubts_are_printed_below_the_verdict():
    result = made_up([0.0])
    config = dataclasses.replace(result.config, num_seeds=1)
    text = report.describe(dataclasses.replace(result, config=config))
    assert text.index("passed: ") < text.index("Warning: one seed shows no spread")
    assert ", 1 seed: RMS" in text


def test_infinite_slopes_are_null_in_json():
    result = made_up([np.inf, 0.0])
    assert result.growing == ("a",)
    assert json.loads(result.to_json())["slope_by_layer"]["a"] is None
    assert report.png(result)[:4] == b"\x89PNG"


def test_an_optimizer_that_moves_nothing_proves_nothing():
    config = coordinates.CoordConfig(
        task="mlp-d1-synthetic:2x2x1:2",
        optimizer="mu_adam",
        widths=(4, 8),
        num_steps=2,
        num_seeds=1,
        learning_rate=0.0,
    )
    with pytest.raises(ValueError, match="nothing moved in 2 steps of mu_adam at w"):
        coordinates.check(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "mlp-w8-d2-digits"}, "template without a width"),
        ({"optimizer": "mu_adm"}, "did you mean 'mu_adam'"),
        ({"widths": (8, 8)}, "two or more different"),
        ({"num_steps": 1}, "num_steps must be >= 2"),
        ({"num_seeds": 0}, "num_seeds must be >= 1"),
        ({"depths": (2, 4)}, "depths need a template without a depth"),
        ({"task": DEPTH_TASK, "widths": (2, 4)}, "widths need a template without a wi"),
        ({"task": DEPTH_TASK, "depths": (1, 4)}, "depths must be two or more"),
    ],
)
def test_configurations_that_make_no_sense_are_errors(changes, message):
    settings: dict[str, Any] = {"task": TASK, "optimizer": "mu_adam"}
    settings |= changes
    with pytest.raises(ValueError, match=message):
        coordinates.CoordConfig(**settings)


def test_sizes_that_are_no_numbers_are_an_error():
    with pytest.raises(ValueError, match=r"depths must be whole .* 32,64; got '6x'"):
        report.parse_sizes("depths", ["8", "6x"])
    assert report.parse_sizes("depths", None) == ()


@pytest.mark.parametrize(
    ("layer", "depth", "name"),
    [
        ("logits", 4, "logits"),
        ("block_0", 4, "first_block"),
        ("block_0/conv_1", 4, "first_block/conv_1"),
        ("block_2/mlp_in", 4, "middle_block/mlp_in"),
        ("block_3/mlp_in", 4, None),
        ("block_2", 4, None),
        ("block_3", 4, "last_block"),
        ("linear_11", 12, "last_linear"),
    ],
)
def test_layers_are_matched_across_depths_by_their_place(layer, depth, name):
    assert coordinates.name_at_any_depth(layer, depth) == name


def test_a_check_against_depth_compares_what_all_depths_have():
    config = coordinates.CoordConfig(
        task=DEPTH_TASK,
        optimizer="mu_adam",
        depths=(4, 2),
        num_steps=3,
        num_seeds=1,
        batch_size=8,
    )
    done = []
    result = coordinates.check(config, on_size=done.append)
    assert done == [2, 4]
    assert result.layers == ("first_linear", "last_linear", "logits")
    assert result.changes.shape == (3, 2, 3)
    assert (result.changes[:, :, 1:] > 0).all()
    values = json.loads(result.to_json())
    assert (values["axis"], values["sizes"]) == ("depth", [2, 4])
    text = report.describe(result)
    assert " d2 " in text
    assert "grows faster than depth^0.3" in text


def test_models_are_shared_between_optimizers_and_give_the_same_result():
    settings: dict[str, Any] = {"widths": (4, 8), "num_steps": 2, "num_seeds": 1}
    models: dict[str, Any] = {}
    results = [
        coordinates.check(
            coordinates.CoordConfig(task=TASK, optimizer="mu_adam", **settings),
            models=shared,
        )
        for shared in (models, models, None)
    ]
    assert {str(task) for task in models} == {
        TASK.replace("-d2", f"-w{w}-d2") for w in (4, 8)
    }
    for other in results[1:]:
        np.testing.assert_array_equal(other.changes, results[0].changes)


def test_shown_steps_are_powers_of_two_and_the_last():
    assert report.shown_steps(10) == [1, 2, 4, 8, 10]
    assert report.shown_steps(8) == [1, 2, 4, 8]


def command(folder, *more):
    return subprocess.run(
        [
            *(sys.executable, "-m", "evaluate.coord_check", "--widths=32,256"),
            *("--seeds=2", "--steps=6", f"--workdir={folder}", *more),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("task", "flags", "status"),
    [
        (TASK, ["--optimizer=mulo", "--theta=random"], 0),
        (f"sp-{TASK}", ["--optimizer=adam"], 1),
    ],
)
def test_the_exit_status_says_whether_a_layer_grows(task, flags, status, tmp_path):
    done = command(tmp_path, f"--task={task}", *flags)
    assert done.returncode == status, done.stderr
    assert ("FAILED" in done.stdout) == (status == 1)
    assert (tmp_path / "coord_check.png").read_bytes()[:4] == b"\x89PNG"
    values = json.loads((tmp_path / "coord_check.json").read_text())
    assert values["passed"] == (status == 0)
    slopes = values["slope_by_layer"]
    assert abs(slopes.pop("linear_0")) < 0.25
    if status == 0:
        assert max(slopes.values()) < 0.25
    else:
        assert min(slopes.values()) > 0.5


def test_bad_input_is_one_line_and_status_2(tmp_path):
    done = command(tmp_path, f"--task={TASK}", "--optimizer=mulo")
    assert done.returncode == 2
    assert done.stderr.startswith("coord_check: optimizer 'mulo' needs a theta")
    assert done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--steps=abc", "flag --steps=abc"),
        ("--nosuchflag", "Unknown command line flag"),
        ("stray", "unknown arguments: stray"),
        ("--learning_rate=nan", "rate must be finite"),
        ("--threshold=nan", "threshold must be finite"),
        ("--workdr=x", "Unknown command line flag 'workdr'. Did you mean: workdir"),
    ],
)
def test_flags_that_make_no_sense_are_status_2_and_train_nothing(
    flag, message, tmp_path
):
    done = command(tmp_path, f"--task={TASK}", "--optimizer=mu_adam", flag)
    assert done.returncode == 2
    assert done.stderr.startswith("coord_check: ")
    assert message in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", list(tasks.names.KINDS))
def test_default_sizes_are_ones_that_the_kind_can_have(kind):
    data = "digits" if tasks.names.KINDS[kind].modality == "images" else "pystdlib"
    for template in (f"{kind}-d3-{data}", f"{kind}-w64-{data}"):
        config = coordinates.CoordConfig(task=template, optimizer="mu_adam")
        for size in config.sizes:
            tasks.get(config.task_name(size))
