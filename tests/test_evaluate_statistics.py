from typing import Any

import numpy as np
import pytest

from evaluate import statistics


def interval(scores, **changes):
    settings: dict[str, Any] = {"num_samples": 500, "confidence": 0.95, "seed": 0}
    settings |= changes
    return statistics.bootstrap_interval(np.array(scores), **settings)


def test_interquartile_mean_drops_a_quarter_at_each_end():
    # 8 scores: two dropped at each end, mean of 3, 4, 5, 6.
    scores = np.array([100.0, 1.0, 3.0, 2.0, 4.0, 6.0, 5.0, -50.0])
    expected = (2.0 + 3.0 + 4.0 + 5.0) / 4
    assert statistics.interquartile_mean(scores) == expected


def test_interquartile_mean_of_fewer_than_four_is_the_mean():
    assert statistics.interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0


def test_interquartile_mean_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one score"):
        statistics.interquartile_mean(np.array([]))


def test_interval_contains_the_estimate_and_is_reproducible():
    scores = [1.0, 2.0, 3.0, 4.0, 10.0]
    first = interval(scores)
    assert first.estimate == 3.0
    assert 1.0 <= first.low < 3.0 < first.high <= 10.0
    assert interval(scores) == first
    assert interval(scores, seed=1) != first


def test_interval_of_two_seeds_spans_both():
    # Resamples are (a, a), (a, b), (b, b): a quarter of them at each end.
    found = interval([1.0, 2.0])
    assert (found.low, found.estimate, found.high) == (1.0, 1.5, 2.0)


def test_bootstrap_resamples_within_strata_only():
    # Seeds agree within each task, so no resample differs; pooled ones would.
    found = interval([[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]])
    assert (found.low, found.estimate, found.high) == (5.0, 5.0, 5.0)
    pooled = interval([1.0, 1.0, 1.0, 9.0, 9.0, 9.0])
    assert pooled.low < 5.0 < pooled.high


def test_coverage_of_the_interval_is_near_what_it_claims():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        found = interval(rng.normal(size=40), seed=i, num_samples=300)
        hits += found.low <= 0.0 <= found.high
    # 95 % claimed; the percentile bootstrap is a little short at 40 scores.
    assert 0.88 <= hits / 200 <= 0.99


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_outside_the_unit_interval_is_an_error(confidence):
    with pytest.raises(ValueError, match="confidence must lie in"):
        interval([1.0], confidence=confidence)


def test_scores_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match="scores must be finite"):
        interval([1.0, np.nan])


def test_difference_is_negative_where_the_first_is_lower():
    settings: dict[str, Any] = {"num_samples": 500, "confidence": 0.95, "seed": 0}
    low, high = np.array([1.0, 1.1, 1.2]), np.array([2.0, 2.1, 2.2])
    found = statistics.bootstrap_difference(low, high, **settings)
    assert found.estimate == pytest.approx(-1.0)
    assert found.high < 0.0


def test_average_ranks_share_ties_and_put_divergence_last():
    scores = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, np.nan]])
    # Second task: ranks 1.5, 1.5, 3.
    np.testing.assert_allclose(statistics.average_ranks(scores), [1.25, 1.75, 3.0])


def test_slope_is_the_least_squares_one():
    # Mean x 1, mean y 2; sum of products 3, of squares 2.
    assert statistics.slope([0.0, 1.0, 2.0], [1.0, 1.0, 4.0]) == pytest.approx(1.5)


def test_slope_over_one_x_is_an_error():
    with pytest.raises(ValueError, match="two different x"):
        statistics.slope([1.0, 1.0], [1.0, 2.0])
