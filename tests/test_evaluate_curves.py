import math

import numpy as np
import pytest

from evaluate.sweep import curves


def test_trailing_mean_by_hand():
    # Windows (4), (4, 2), (2, 6), (6, 8).
    found = curves.trailing_mean(np.array([4.0, 2.0, 6.0, 8.0]), 2)
    np.testing.assert_array_equal(found, [4.0, 3.0, 4.0, 7.0])


def test_trailing_mean_agrees_with_slices_along_the_last_axis():
    losses = np.random.default_rng(0).normal(size=(2, 3, 17))
    found = curves.trailing_mean(losses, 5)
    assert found.shape == losses.shape
    for i in range(17):
        expected = losses[..., max(0, i - 4) : i + 1].mean(axis=-1)
        np.testing.assert_allclose(found[..., i], expected, atol=1e-12)


def test_trailing_mean_over_one_step_or_more_than_all():
    losses = np.array([3.0, 1.0, 2.0])
    np.testing.assert_array_equal(curves.trailing_mean(losses, 1), losses)
    for window in (3, 100):
        np.testing.assert_array_equal(
            curves.trailing_mean(losses, window), [3.0, 2.0, 2.0]
        )


def test_trailing_mean_is_no_number_from_the_divergence_on():
    losses = np.array([[1.0, 3.0, np.nan, 1.0, 1.0, 1.0], [1.0, np.inf, 1, 1, 1, 1]])
    found = curves.trailing_mean(losses, 2)
    np.testing.assert_array_equal(found[0], [1.0, 2.0] + [np.nan] * 4)
    np.testing.assert_array_equal(found[1], [1.0] + [np.nan] * 5)


def test_trailing_mean_forgets_a_spike_without_rounding_error():
    losses = np.ones(30)
    losses[[3, 12]] = 1e20
    np.testing.assert_array_equal(curves.trailing_mean(losses, 5)[17:], np.ones(13))


def test_trailing_mean_over_no_step_is_an_error():
    with pytest.raises(ValueError, match="window must be at least 1"):
        curves.trailing_mean(np.ones(3), 0)


@pytest.mark.parametrize(
    ("horizon", "first"), [(1000, 950), (401, 380), (100, 90), (10, 0), (7, 0)]
)
def test_final_loss_is_the_mean_of_five_percent_and_at_least_ten(horizon, first):
    # Losses are 0, 1, ...; what follows the horizon is not read.
    losses = np.append(np.arange(float(horizon)), [np.nan, 1e9])
    assert curves.final_loss(losses, horizon) == (first + horizon - 1) / 2


def test_area_under_curve_is_the_mean_up_to_the_horizon():
    losses = np.array([5.0, 3.0, 1.0, 100.0, np.nan])
    assert curves.area_under_curve(losses, 3) == 3.0


@pytest.mark.parametrize("curve", [curves.final_loss, curves.area_under_curve])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_divergence_anywhere_up_to_the_horizon_is_no_number(curve, bad):
    losses = np.ones(100)
    losses[5] = bad
    assert math.isnan(curve(losses, 100))
    assert curve(losses, 5) == 1.0


@pytest.mark.parametrize("curve", [curves.final_loss, curves.area_under_curve])
@pytest.mark.parametrize("horizon", [0, 4])
def test_horizon_outside_the_curve_is_an_error(curve, horizon):
    with pytest.raises(ValueError, match="horizon must lie in"):
        curve(np.ones(3), horizon)


@pytest.mark.parametrize("count", [1, 5, 10, 11, 203, 1000, 5000])
@pytest.mark.parametrize(
    "shape",
    [lambda t: 2.3 / (1 + t), lambda t: 7.0 - 1e-3 * t, lambda t: 0.1 * 0.999**t - 1],
    ids=["hyperbolic", "linear", "negative"],
)
def test_own_final_loss_takes_a_falling_curve_its_whole_horizon(count, shape):
    losses = shape(np.arange(count))
    target = curves.final_loss(losses, count)
    assert curves.steps_to_loss(losses, target) == pytest.approx(count, abs=1e-3)
    assert curves.speedup(losses, target, count) == pytest.approx(1.0, abs=1e-3)


def test_target_that_rounds_below_the_final_loss_is_reached():
    losses = 2.3 / (1 + np.arange(500))
    target = math.nextafter(curves.final_loss(losses, 500), 0.0)
    assert curves.steps_to_loss(losses, target) == pytest.approx(500)


def test_steps_to_loss_trails_half_a_window_behind_a_straight_line():
    # The curve itself is at 8.4 after 16 updates, seen by its loss 17; the mean over
    # 20 steps lags by 9.5 steps.
    losses = 10.0 - 0.1 * np.arange(400)
    assert curves.steps_to_loss(losses, 8.4) == pytest.approx(17 + 9.5)
    # Halfway between two steps.
    assert curves.steps_to_loss(losses, 8.35) == pytest.approx(17.5 + 9.5)


def test_smoothing_is_a_fraction_of_the_horizon_and_at_least_ten_steps():
    losses = 10.0 - 0.1 * np.arange(400)
    for horizon, window in ((800, 40), (400, 20), (200, 10), (4, 10)):
        found = curves.steps_to_loss(losses, 5.0, horizon=horizon)
        assert found == pytest.approx(51 + (window - 1) / 2)


def test_one_lucky_minibatch_does_not_reach_the_target():
    losses = np.full(400, 3.0)
    losses[50] = 0.0  # The mean over 20 steps is 2.85.
    assert curves.steps_to_loss(losses, 2.0) == math.inf
    assert curves.speedup(losses, 2.0, 400) == 0.0


def test_steps_to_loss_that_the_first_minibatch_has_is_one():
    assert curves.steps_to_loss(np.array([1.0, 2.0, 3.0]), 1.5) == 1.0


def test_target_reached_before_the_divergence_counts_and_after_it_does_not():
    losses = np.concatenate([np.full(20, 3.0), np.full(40, 1.0), [np.nan], np.zeros(9)])
    # The mean over 10 steps is 2 after five of the lower ones.
    assert curves.steps_to_loss(losses, 2.0) == pytest.approx(25.0)
    assert curves.steps_to_loss(losses, 0.5) == math.inf


def test_speedup_of_a_curve_twice_as_steep():
    # Final loss of the slow one: 10 - 0.01 * (999 - 24.5) = 0.255 after lag; the fast
    # one is there at step i = 487.25, so after 488.25 + 24.5 steps of trailing mean.
    slow, fast = 10.0 - 0.01 * np.arange(1000), 10.0 - 0.02 * np.arange(1000)
    target = curves.final_loss(slow, 1000)
    assert target == pytest.approx(0.255)
    found = curves.speedup(fast, target, 1000)
    assert found == pytest.approx(1000 / (488.25 + 24.5))


def test_speedup_is_below_one_where_a_longer_curve_arrives_later():
    losses = 10.0 - 0.01 * np.arange(2000)
    # The window is 5 % of the 1000 steps of the other, not of the 2000.
    expected = 1000 / (1501 + 24.5)
    assert curves.speedup(losses, -5.0, 1000) == pytest.approx(expected)


def test_basin_by_hand():
    # The limit is 1.01: half of the way to 1.02, a quarter of that to 1.04.
    found = curves.basin_decades(
        np.array([1e-3, 1e-2, 1e-1]), np.array([1.02, 1, 1.04])
    )
    assert found == (pytest.approx(0.75), False, False)


def test_basin_of_a_parabola_is_the_analytic_width():
    # 1 + d^2 <= 1.01 for |d| <= 0.1 decades.
    decades = np.linspace(-2.0, 2.0, 801)
    width, *is_open = curves.basin_decades(10**decades, 1 + decades**2)
    assert width == pytest.approx(0.2, abs=1e-3)
    assert is_open == [False, False]


def test_basin_does_not_depend_on_the_unit_of_rates_and_losses():
    rates, losses = (
        np.geomspace(1e-4, 1.0, 9),
        np.array([9, 5, 3, 2.0, 2.3, 2, 4, 7, 9]),
    )
    width, *_ = curves.basin_decades(rates, losses)
    scaled, *_ = curves.basin_decades(50 * rates, 3 * losses)
    assert width > 0.0
    assert scaled == pytest.approx(width)


def test_basin_that_reaches_an_end_is_a_lower_bound():
    rates = np.array([1e-3, 1e-2, 1e-1])
    found = curves.basin_decades(rates, np.array([1.0, 1.005, 1.0]))
    assert found == (pytest.approx(2.0), True, True)
    found = curves.basin_decades(rates, np.array([1.0, 1.02, 3.0]))
    assert found == (pytest.approx(0.5), True, False)
    found = curves.basin_decades(rates, np.array([3.0, 1.02, 1.0]))
    assert found == (pytest.approx(0.5), False, True)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_basin_ends_where_the_neighbour_diverged(bad):
    rates = np.array([1e-3, 1e-2, 1e-1, 1.0])
    found = curves.basin_decades(rates, np.array([bad, 1.0, 1.0, bad]))
    assert found == (pytest.approx(1.0), False, False)


def test_basin_holds_all_that_equals_the_best():
    rates = np.geomspace(1e-3, 1.0, 4)
    found = curves.basin_decades(rates, np.array([2.0, 1.0, 1.0, 2.0]))
    # And a hundredth of the way to twice the loss at either end.
    assert found == (pytest.approx(1.02), False, False)


def test_basin_leaves_out_a_second_one():
    rates = np.geomspace(1e-4, 1.0, 5)
    found = curves.basin_decades(rates, np.array([1.0, 2.0, 1.0, 1.0, 2.0]))
    # The first of equals is the best: the crossing is a hundredth of a decade away.
    assert found == (pytest.approx(0.01), True, False)


def test_basin_of_negative_losses_is_relative_to_their_size():
    found = curves.basin_decades(
        np.array([0.1, 1.0, 10.0]), np.array([-1.8, -2, -1.96])
    )
    assert found == (pytest.approx(0.02 / 0.2 + 0.02 / 0.04), False, False)


def test_basin_of_one_rate_or_of_none_that_trains_is_unknown():
    assert curves.basin_decades(np.array([0.1]), np.array([2.0])) == (0.0, True, True)
    found = curves.basin_decades(np.array([0.1, 1.0]), np.array([np.inf, np.nan]))
    assert found == (0.0, True, True)


@pytest.mark.parametrize(
    ("rates", "losses", "match"),
    [
        ([0.1, 0.1], [1.0, 1.0], "rates must be positive and rising"),
        ([0.0, 0.1], [1.0, 1.0], "rates must be positive and rising"),
        ([0.1, 0.2], [1.0], "must share a shape"),
        ([], [], "must share a shape"),
    ],
)
def test_basin_of_what_is_no_sweep_is_an_error(rates, losses, match):
    with pytest.raises(ValueError, match=match):
        curves.basin_decades(np.array(rates), np.array(losses))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (5.0, 0.0),
        (4.0, 10.0),
        (3.0, 20.0),
        (2.0, 30.0),  # Where the plateau begins.
        (1.5, 75.0),
        (1.0, 100.0),
        (0.9, math.inf),
        (math.inf, 0.0),
        (math.nan, 0.0),
    ],
)
def test_reference_steps_interpolate_to_the_first_step_that_has_the_loss(
    loss, expected
):
    steps, losses = np.array([10, 30, 50, 100]), np.array([4.0, 2.0, 2.0, 1.0])
    found = curves.reference_steps(steps, losses, loss)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("steps", "losses", "match"),
    [
        ([1, 2], [1.0, 2.0], "must not rise"),
        ([1, 2], [1.0, np.nan], "must be finite"),
        ([2, 1], [2.0, 1.0], "steps must rise"),
        ([1, 2], [1.0], "must share a shape"),
        ([], [], "must share a shape"),
    ],
)
def test_reference_that_is_no_falling_curve_is_an_error(steps, losses, match):
    with pytest.raises(ValueError, match=match):
        curves.reference_steps(np.array(steps), np.array(losses), 1.0)
