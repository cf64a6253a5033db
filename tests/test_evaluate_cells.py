import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from evaluate import cells, files

PROGRAM = cells.Program(
    task="mlp-w8-d1-synthetic:4x4x1:3",
    optimizer="mu_adam",
    hyper=(("b1", 0.9), ("b2", 0.99)),
    horizon_steps=100,
    batch_size=16,
    theta_sha256=None,
    num_train_examples=512,
    num_valid_examples=128,
)
CELL = cells.Cell(program=PROGRAM, learning_rate=0.1, seed=0)


def summarize(losses, valid_loss=0.5, chance_loss: float | None = math.log(10)):
    return cells.summarize_run(
        CELL,
        np.asarray(losses),
        valid_loss=valid_loss,
        valid_accuracy=0.75,
        chance_loss=chance_loss,
        secs_per_step=0.01,
    )


def falling(steps=100):
    return np.linspace(2.3, 0.32, steps)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "mlp-w16-d1-synthetic:4x4x1:3"},
        {"hyper": (("b1", 0.9), ("b2", 0.999))},
        {"horizon_steps": 101},
        {"batch_size": 17},
        {"theta_sha256": "0" * 64},
        {"num_train_examples": 513},
    ],
)
def test_every_part_of_the_definition_changes_the_file(changes, tmp_path):
    program = dataclasses.replace(PROGRAM, **changes)
    other = dataclasses.replace(CELL, program=program)
    assert other.path(tmp_path) != CELL.path(tmp_path)


def test_learning_rates_that_print_alike_have_different_files(tmp_path):
    other = dataclasses.replace(CELL, learning_rate=0.1 + 1e-9)
    assert other.path(tmp_path) != CELL.path(tmp_path)


def test_a_result_is_read_back_as_it_was_written(tmp_path):
    result = summarize(falling())
    cells.write(tmp_path, result)
    found = cells.read(tmp_path, CELL)
    assert found is not None
    for field in dataclasses.fields(cells.CellResult):
        first, second = getattr(result, field.name), getattr(found, field.name)
        if isinstance(first, np.ndarray):
            np.testing.assert_allclose(second, first, rtol=1e-5)
        else:
            assert second == first


def test_losses_that_are_not_finite_are_null_in_the_file(tmp_path):
    losses = falling()
    losses[60:] = np.inf
    path = cells.write(tmp_path, summarize(losses, valid_loss=math.nan))
    values = json.loads(path.read_text())
    assert values["final_train_loss"] is None
    assert values["curve_losses"][60] is None
    found = cells.read(tmp_path, CELL)
    assert found is not None
    assert math.isnan(found.final_train_loss)
    assert found.first_nonfinite_step == 60
    assert np.isnan(found.curve_losses[60:]).all()


def test_missing_results_are_none(tmp_path):
    assert cells.read(tmp_path, CELL) is None


@pytest.mark.parametrize("damage", ["", "{", '{"cell": {}}', "[]"])
def test_damaged_results_are_reported_and_count_as_missing(damage, tmp_path, capsys):
    CELL.path(tmp_path).write_text(damage)
    assert cells.read(tmp_path, CELL) is None
    assert "unusable" in capsys.readouterr().err


def test_final_loss_is_the_mean_of_the_last_twentieth_but_ten_steps_at_least():
    long = summarize(np.arange(1000.0)[::-1] / 1000)
    assert long.final_train_loss == pytest.approx(np.arange(50).mean() / 1000)
    short = summarize(falling(100))
    assert short.final_train_loss == pytest.approx(falling(100)[-10:].mean())
    assert summarize([2.0, 1.0]).final_train_loss == 1.5


def test_falling_losses_did_not_diverge():
    assert not summarize(falling()).diverged


def test_standing_still_at_chance_is_no_divergence():
    noise = 0.05 * np.sin(np.arange(100))
    assert not summarize(math.log(10) + noise).diverged


def test_ending_above_the_start_is_divergence():
    assert summarize(np.linspace(2.3, 3.0, 100)).diverged


def test_ending_above_twice_chance_is_divergence_from_any_start():
    losses = np.linspace(9.0, 4.7, 100)  # 2 ln 10 = 4.605.
    assert summarize(losses).diverged
    assert not summarize(losses, chance_loss=math.log(100)).diverged


def test_without_classes_ending_above_the_start_is_divergence():
    for final, diverged in ((0.218, False), (0.222, True)):
        losses = np.linspace(0.2, final, 100)
        losses[-10:] = final
        assert summarize(losses, chance_loss=None).diverged == diverged


def test_one_overflow_is_divergence_even_if_it_comes_back():
    losses = falling()
    losses[50] = np.nan
    result = summarize(losses)
    assert result.diverged
    assert result.first_nonfinite_step == 50
    assert math.isnan(result.final_train_loss)


def test_validation_loss_that_is_not_finite_is_divergence():
    assert summarize(falling(), valid_loss=math.inf).diverged


def test_long_curves_are_averaged_over_equal_bins():
    steps, losses = cells.bin_curve(np.arange(1000.0), max_points=500)
    np.testing.assert_allclose(losses[:2], [0.5, 2.5])
    np.testing.assert_allclose(steps[:2], [0.5, 2.5])
    assert len(steps) == len(losses) == 500


def test_bins_of_uneven_curves_cover_every_step_once():
    steps, losses = cells.bin_curve(np.arange(1237.0), max_points=500)
    # Bins differ in size, so weigh each by the steps between bin ends.
    np.testing.assert_allclose(losses, steps)
    assert len(steps) == 500


def test_shards_are_disjoint_and_complete():
    everything = [
        cells.Cell(program=PROGRAM, learning_rate=lr, seed=seed)
        for lr in (0.1, 0.2, 0.3)
        for seed in range(5)
    ]
    parts = [cells.shard(everything, f"{i}/4") for i in (1, 2, 3, 4)]
    assert sorted(itertools.chain(*parts)) == sorted(everything)
    assert {len(part) for part in parts} == {3, 4}


@pytest.mark.parametrize("spec", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", ""])
def test_shards_of_another_form_are_an_error(spec):
    with pytest.raises(ValueError, match="shard must be i/n"):
        cells.shard([CELL], spec)


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing(
    tmp_path, monkeypatch
):
    path = tmp_path / "x.json"
    files.write_text(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
