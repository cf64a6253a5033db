import json
import math

import numpy as np
import pytest
from helpers import sweep_parts

import tasks
from evaluate.report import reference

THEIRS = "ImageMLP_FashionMnist8_Relu32"
OURS = reference.TASKS[THEIRS]
CURVE = {"steps": [0, 100, 200, 400], "loss": [2.0, 1.0, 1.1, 0.5]}


def write(path, values):
    path.write_text(json.dumps(values))
    return str(path)


@pytest.fixture
def curves(tmp_path):
    values = {"curves": {THEIRS: CURVE, "another task": {"steps": [], "loss": []}}}
    return reference.load(write(tmp_path / "curves.json", values))


def study(finals_of, tasks=(OURS, "mlp-w4-d1-digits")):
    config = sweep_parts.config(tasks=tasks, widths=(), num_seeds=2)
    made = [
        sweep_parts.entry(sweep_parts.contender(name), setting, finals)
        for name, finals in finals_of.items()
        for setting in config.settings
    ]
    return sweep_parts.study(config, made)


def test_every_task_has_a_name_of_ours():
    for name in reference.TASKS.values():
        assert str(tasks.names.parse(name)) == name


def test_published_curves_are_read_falling(curves):
    assert list(curves) == [OURS]
    steps, losses = curves[OURS]
    np.testing.assert_array_equal(steps, [0, 100, 200, 400])
    np.testing.assert_array_equal(losses, [2.0, 1.0, 1.0, 0.5])
    assert reference.load("") == {}


def test_speed_up_is_the_step_of_the_curve_over_our_steps(curves):
    found = reference.speedups(
        study({"mu_adam": [0.75, 0.75], "sgd": [0.3, math.nan]}), curves
    )
    # 0.75 is half-way between steps 200 and 400; runs have 20 steps. 0.3 lies beyond
    # the curve's end; a run that diverged has none.
    adam, sgd = found["reference_speedups"]
    assert (adam["key"], adam["setting"]) == ("mu_adam (per cell)", 0)
    assert adam["speedup"] == pytest.approx(300 / 20)
    assert sgd["speedup"] == pytest.approx((400 / 20 + 0) / 2)
    iqm = {line["key"]: line["estimate"] for line in found["reference_iqm"]}
    assert iqm == pytest.approx({"mu_adam (per cell)": 15.0, "sgd (per cell)": 10.0})


def test_without_a_curve_there_is_no_speed_up_and_the_reader_is_told(curves):
    made = study({"mu_adam": [0.7, 0.7]})
    none = {"reference_speedups": [], "reference_iqm": []}
    assert reference.speedups(made, {}) == none
    (said,) = reference.warnings(made, {})
    assert OURS in said
    assert reference.warnings(made, curves) == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"curves": []}'.replace("[]", f'{{"{THEIRS}": 3}}'),
        json.dumps({"curves": {THEIRS: {"steps": [0, 1]}}}),
        json.dumps({"curves": {THEIRS: {"steps": [0, 1], "loss": ["a", "b"]}}}),
        json.dumps({"curves": {THEIRS: {"steps": [0, 1], "loss": [1.0]}}}),
        json.dumps({"curves": {THEIRS: {"steps": [1, 0], "loss": [2.0, 1.0]}}}),
        json.dumps({"curves": {THEIRS: {"steps": [], "loss": []}}}),
    ],
)
def test_a_bad_file_is_found_before_anything_runs(content, tmp_path):
    path = tmp_path / "curves.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"reference_curves: .* is no file of VeLO"):
        reference.load(str(path))


def test_a_missing_file_is_an_error_too(tmp_path):
    with pytest.raises(ValueError, match=r"reference_curves: .*FileNotFoundError"):
        reference.load(str(tmp_path / "nothing"))
