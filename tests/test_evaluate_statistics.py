from typing import Any

import numpy as np
import pytest
import scipy.stats

from evaluate.report import statistics

SETTINGS: dict[str, Any] = {"num_samples": 500, "confidence": 0.95, "seed": 0}


def interval(scores, **changes):
    return statistics.bootstrap_interval(np.array(scores), **SETTINGS | changes)


def rank_intervals(scores, **changes):
    return statistics.rank_intervals(np.array(scores), **SETTINGS | changes)


def profile(scores, thresholds, **changes):
    settings = SETTINGS | changes
    return statistics.performance_profile(np.array(scores), thresholds, **settings)


def test_interquartile_mean_drops_a_quarter_at_each_end():
    # 8 scores: two dropped at each end, mean of 3, 4, 5, 6.
    scores = np.array([100.0, 1.0, 3.0, 2.0, 4.0, 6.0, 5.0, -50.0])
    expected = (2.0 + 3.0 + 4.0 + 5.0) / 4
    assert statistics.interquartile_mean(scores) == expected


def test_interquartile_mean_of_fewer_than_four_is_the_mean():
    assert statistics.interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0


def test_interquartile_mean_reduces_the_last_axis():
    scores = np.array([[9.0, 2.0, 4.0, -9.0], [1.0, 3.0, 5.0, 7.0]])
    np.testing.assert_array_equal(statistics.interquartile_mean(scores), [3.0, 4.0])


def test_interquartile_mean_outlives_a_quarter_of_divergence_but_not_more():
    assert statistics.interquartile_mean(np.array([1.0, 2.0, 4.0, np.inf])) == 3.0
    scores = np.array([1.0, 2.0, np.inf, np.inf])
    assert statistics.interquartile_mean(scores) == np.inf


def test_interquartile_mean_with_a_score_that_is_no_number_is_none():
    assert np.isnan(statistics.interquartile_mean(np.array([1.0, 2.0, 3.0, np.nan])))


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


def test_average_ranks_share_ties_and_put_divergence_last():
    scores = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, np.nan]])
    # Second task: ranks 1.5, 1.5, 3.
    np.testing.assert_allclose(statistics.average_ranks(scores), [1.25, 1.75, 3.0])


def test_rank_intervals_of_one_task_whose_seeds_agree_have_no_width():
    # Losses 2, 1, 1: the last two share ranks 1 and 2.
    found = rank_intervals([[[2.0, 2.0], [1.0, 1.0], [1.0, 1.0]]])
    assert [(i.estimate, i.low, i.high) for i in found] == [
        (3.0, 3.0, 3.0),
        (1.5, 1.5, 1.5),
        (1.5, 1.5, 1.5),
    ]


def test_rank_intervals_resample_tasks():
    # Each method wins one of two tasks: a quarter of the draws has either task twice.
    found = rank_intervals([[[1.0], [2.0]], [[2.0], [1.0]]])
    assert [(i.estimate, i.low, i.high) for i in found] == [(1.5, 1.0, 2.0)] * 2


def test_rank_intervals_resample_seeds_within_the_task_and_method():
    # One task. Means are 2 and 2.5, but drawing a 3 twice makes the first method worse.
    scores = [[[1.0, 3.0], [2.5, 2.5]]]
    found = rank_intervals(scores)
    assert [(i.estimate, i.low, i.high) for i in found] == [
        (1.0, 1.0, 2.0),
        (2.0, 1.0, 2.0),
    ]
    assert rank_intervals(scores) == found


def test_rank_intervals_use_interquartile_means_and_put_divergence_last():
    # One diverged seed in four is trimmed; of the second method all diverged.
    mostly = [1.0, 1.0, 1.0, np.nan]
    found = rank_intervals([[mostly, [np.inf] * 4, [2.0] * 4]])
    assert [i.estimate for i in found] == [1.0, 3.0, 2.0]
    assert found[0].high > 1.0  # Drawing the divergence twice loses to 2.


def test_rank_estimates_sum_to_those_of_a_permutation():
    scores = np.random.default_rng(0).integers(0, 4, size=(7, 5, 3)).astype(float)
    found = rank_intervals(scores, num_samples=50)
    assert sum(i.estimate for i in found) == pytest.approx(1 + 2 + 3 + 4 + 5)
    assert all(1.0 <= i.low <= i.estimate <= i.high <= 5.0 for i in found)


def test_rank_intervals_of_too_few_axes_are_an_error():
    with pytest.raises(ValueError, match=r"must be \(tasks, methods, S\)"):
        rank_intervals([[1.0, 2.0]])


def test_profile_counts_runs_at_or_below_and_never_those_that_diverged():
    found = profile([[1.0, 2.0], [3.0, np.nan], [-np.inf, np.inf]], [0, 1, 2.5, 1e300])
    np.testing.assert_allclose(found.fraction, [0, 1 / 6, 2 / 6, 3 / 6])
    np.testing.assert_array_equal(found.thresholds, [0.0, 1.0, 2.5, 1e300])


def test_profile_bands_are_the_quantiles_of_a_binomial():
    # 12 of 40 runs of one stratum reach 0.5: resampled counts are Binomial(40, 0.3).
    scores = np.array([[0.0] * 12 + [1.0] * 28])
    found = profile(scores, [0.5], num_samples=4000, confidence=0.9)
    expected = scipy.stats.binom.ppf([0.05, 0.95], 40, 0.3) / 40
    np.testing.assert_allclose([found.low[0], found.high[0]], expected, atol=1e-12)


def test_profile_bands_resample_within_strata_only():
    # Whole strata reach the threshold or do not, so no resample differs.
    found = profile([[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]], [5.0])
    assert (found.low[0], found.fraction[0], found.high[0]) == (0.5, 0.5, 0.5)


def test_profile_bands_count_a_score_at_the_threshold_too():
    found = profile([[1.0, 1.0]], [1.0])
    assert (found.low[0], found.fraction[0], found.high[0]) == (1.0, 1.0, 1.0)


def test_profile_and_its_bands_rise_with_the_threshold():
    scores = np.random.default_rng(0).normal(size=(4, 6))
    found = profile(scores, np.linspace(-3, 3, 25))
    for values in (found.fraction, found.low, found.high):
        assert (np.diff(values) >= 0).all()
    assert (found.low <= found.fraction).all()
    assert (found.fraction <= found.high).all()


def test_profile_at_an_infinite_threshold_is_an_error():
    with pytest.raises(ValueError, match="thresholds must be finite"):
        profile([[1.0]], [np.inf])


def test_profile_of_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"must be \(strata, S\)"):
        profile(np.zeros((2, 0)), [1.0])


def test_slope_is_the_least_squares_one():
    # Mean x 1, mean y 2; sum of products 3, of squares 2.
    assert statistics.slope([0.0, 1.0, 2.0], [1.0, 1.0, 4.0]) == pytest.approx(1.5)


def test_slope_over_one_x_is_an_error():
    with pytest.raises(ValueError, match="two different x"):
        statistics.slope([1.0, 1.0], [1.0, 2.0])
