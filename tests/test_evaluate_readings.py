import dataclasses
import math

import numpy as np
import pytest

import tasks
from evaluate.sweep import cells, readings

PROGRAM = cells.Program(
    task=tasks.names.parse("mlp-w8-d1-synthetic:4x4x1:10"),
    optimizer="mu_adam",
    schedule="constant",
    hyper=(),
    horizon_steps=100,
    batch_size=16,
    theta_sha256="",
    num_train_examples=512,
    num_valid_examples=128,
)


def read(
    losses, horizon=None, valid=0.5, chance: float | None = math.log(10), **changes
):
    losses = np.asarray(losses, np.float64)
    program = dataclasses.replace(PROGRAM, horizon_steps=len(losses))
    result = cells.CellResult(
        cell=cells.Cell(program=program, learning_rate=0.1, seed=4),
        losses=losses,
        valid_steps=np.array([len(losses)]),
        valid_losses=np.array([valid]),
        valid_accuracies=np.array([0.75]),
        chance_loss=chance,
        secs_per_step=0.01,
        lanes=1,
    )
    result = dataclasses.replace(result, **changes)
    return readings.read_off(result, horizon or len(losses))


def falling(steps=100):
    return np.linspace(2.3, 0.32, steps)


def test_final_loss_is_the_mean_of_the_last_twentieth_but_ten_steps_at_least():
    long = read(np.arange(1000.0)[::-1] / 1000)
    assert long.final_train_loss == pytest.approx(np.arange(50).mean() / 1000)
    short = read(falling(100))
    assert short.final_train_loss == pytest.approx(falling(100)[-10:].mean())
    assert read([2.0, 1.0]).final_train_loss == 1.5


def test_a_reading_holds_what_the_run_says():
    found = read(falling())
    assert (found.seed, found.learning_rate, found.secs_per_step) == (4, 0.1, 0.01)
    assert found.initial_train_loss == 2.3
    assert found.area_under_curve == pytest.approx(falling().mean())
    assert (found.final_valid_loss, found.final_valid_accuracy) == (0.5, 0.75)
    assert found.first_nonfinite_step is None
    assert not found.diverged


def test_standing_still_at_chance_is_no_divergence():
    noise = 0.05 * np.sin(np.arange(100))
    assert not read(math.log(10) + noise).diverged


def test_ending_above_the_start_is_divergence():
    assert read(np.linspace(2.3, 3.0, 100)).diverged


def test_ending_above_twice_chance_is_divergence_from_any_start():
    losses = np.linspace(9.0, 4.7, 100)  # 2 ln 10 = 4.605.
    assert read(losses).diverged
    assert not read(losses, chance=math.log(100)).diverged


def test_without_classes_ending_above_the_start_is_divergence():
    for final, diverged in ((0.218, False), (0.222, True)):
        losses = np.linspace(0.2, final, 100)
        losses[-10:] = final
        assert read(losses, chance=None).diverged == diverged


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_overflow_is_divergence_even_if_it_comes_back(bad):
    losses = falling()
    losses[50] = bad
    found = read(losses)
    assert found.diverged
    assert found.first_nonfinite_step == 50
    assert math.isnan(found.final_train_loss)
    assert math.isnan(found.final_valid_loss)


def test_validation_loss_that_is_not_finite_is_divergence():
    found = read(falling(), valid=math.inf)
    assert found.diverged
    assert math.isnan(found.final_valid_loss)


def test_a_shorter_horizon_is_read_off_the_same_run():
    losses = falling()
    losses[70:] = np.nan
    found = read(
        losses,
        50,
        valid_steps=np.array([25, 50, 75, 100]),
        valid_losses=np.array([0.9, 0.7, np.nan, np.nan]),
        valid_accuracies=np.array([0.1, 0.2, np.nan, np.nan]),
    )
    # What comes after the horizon is not its business.
    assert not found.diverged
    assert found.first_nonfinite_step is None
    assert found.final_train_loss == pytest.approx(falling()[40:50].mean())
    assert found.area_under_curve == pytest.approx(falling()[:50].mean())
    assert (found.final_valid_loss, found.final_valid_accuracy) == (0.7, 0.2)
    np.testing.assert_array_equal(found.losses, falling()[:50])


def test_early_stopped_validation_is_the_lowest_up_to_the_horizon():
    changes = {
        "valid_steps": np.array([25, 50, 75, 100]),
        "valid_losses": np.array([0.9, 0.6, 0.8, 0.3]),
        "valid_accuracies": np.array([0.1, 0.2, 0.3, 0.4]),
    }
    assert read(falling(), 75, **changes).best_valid_loss == 0.6
    assert read(falling(), 75, **changes).final_valid_loss == 0.8
    assert read(falling(), 100, **changes).best_valid_loss == 0.3


def test_a_horizon_that_was_not_validated_has_no_validation_loss():
    found = read(falling(), 60)
    assert math.isnan(found.final_valid_loss)
    assert math.isnan(found.best_valid_loss)
    assert math.isnan(found.final_valid_accuracy)


@pytest.mark.parametrize("horizon", [-1, 101])
def test_horizons_that_the_run_does_not_have_are_errors(horizon):
    with pytest.raises(ValueError, match=r"horizon_steps must lie in 1 … 100"):
        read(falling(), horizon)
