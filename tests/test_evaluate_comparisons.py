import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from evaluate.report import comparisons, statistics

SETTINGS: dict[str, Any] = {"num_samples": 500, "confidence": 0.95, "seed": 0}


def improvement(x, y, **changes):
    return comparisons.probability_of_improvement(
        np.array(x), np.array(y), **SETTINGS | changes
    )


def test_improvement_counts_pairs_by_hand():
    # Pairs (1, 2) and (1, 3) are won, (3, 2) is lost, (3, 3) ties: 2.5 of 4. In the
    # second stratum all are won.
    found = improvement([[1.0, 3.0], [0.0, 0.0]], [[2.0, 3.0], [5.0, 6.0]])
    assert found.estimate == (0.625 + 1.0) / 2
    assert found.low <= found.estimate <= found.high


def test_improvement_is_scipys_mann_whitney_statistic():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, size=(3, 5)).astype(float)
    y = rng.integers(0, 6, size=(3, 8)).astype(float)
    # scipy's statistic of (y, x) counts pairs with y above x, ties half.
    expected = np.mean(scipy.stats.mannwhitneyu(y, x, axis=1).statistic / (5 * 8))
    assert improvement(x, y).estimate == pytest.approx(expected, abs=1e-12)


def test_improvement_puts_divergence_last_and_lets_two_tie():
    # (1, inf) and (1, 2) are won, (nan, 2) is lost, (nan, inf) ties.
    assert improvement([[1.0, np.nan]], [[np.inf, 2.0]]).estimate == 0.625


def test_improvement_of_the_other_is_the_complement():
    x, y = np.random.default_rng(1).normal(size=(2, 4, 6))
    forth, back = improvement(x, y), improvement(y, x)
    assert forth.estimate + back.estimate == pytest.approx(1.0)
    assert improvement(x, x).estimate == pytest.approx(0.5)


def test_improvement_without_overlap_is_certain():
    found = improvement([[1.0, 2.0]], [[3.0, 4.0, 5.0]])
    assert (found.low, found.estimate, found.high) == (1.0, 1.0, 1.0)


def test_improvement_weighs_and_resamples_strata_alike():
    # Won for certain in one stratum and lost in the other, however seeds are drawn.
    found = improvement([[1.0, 2.0], [8.0, 9.0]], [[3.0, 4.0], [5.0, 6.0]])
    assert (found.low, found.estimate, found.high) == (0.5, 0.5, 0.5)


def test_improvement_interval_covers_the_analytic_probability():
    rng = np.random.default_rng(0)
    # P(x < y) for unit normals half a unit apart.
    truth = scipy.stats.norm.cdf(0.5 / math.sqrt(2))
    hits = 0
    for i in range(200):
        x, y = rng.normal(size=(2, 25)), rng.normal(0.5, size=(2, 25))
        found = improvement(x, y, seed=i, num_samples=200)
        hits += found.low <= truth <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_improvement_over_other_strata_is_an_error():
    with pytest.raises(ValueError, match="x and y must have shapes"):
        improvement([[1.0]], [[1.0], [2.0]])


def test_paired_test_by_hand():
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 2 sqrt(3). With two
    # degrees of freedom P(|T| > t) = 1 - t / sqrt(2 + t^2), and the 97.5 % quantile
    # is 4.3027. Of the 8 signings of three ranks, 2 are as extreme.
    found = comparisons.paired_test(
        np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0])
    )
    assert (found.num_pairs, found.num_dropped) == (3, 0)
    assert found.mean_difference == 2.0
    half = 4.302652729911275 / math.sqrt(3)
    assert found.interval is not None
    assert found.interval.estimate == 2.0
    assert found.interval.low == pytest.approx(2.0 - half)
    assert found.interval.high == pytest.approx(2.0 + half)
    assert found.t_p_value == pytest.approx(1 - math.sqrt(12 / 14))
    assert found.wilcoxon_p_value == 0.25


@pytest.mark.parametrize(
    "differences",
    [
        [0.3, -1.2, 2.5, 3.1, -0.1, 4.0, 5.5],
        [1.0, 1.0, -1.0, 2.0, 3.0, 3.0],
        [0.0, 0.0, 0.0, -3.0, 1.0, 2.0, 4.0],  # Without the zeros 0.625, not 0.5.
    ],
    ids=["distinct", "tied", "zeros"],
)
def test_wilcoxon_p_value_counts_all_sign_flips(differences):
    # Pratt: zeros take part in the ranking and then have no sign.
    signs = np.sign(differences)
    ranks = scipy.stats.rankdata(np.abs(differences))
    observed = np.abs(signs @ ranks)
    flips = itertools.product([-1.0, 1.0], repeat=len(differences))
    extreme = [abs((np.array(f) * signs) @ ranks) >= observed - 1e-9 for f in flips]
    found = comparisons.paired_test(np.array(differences), np.zeros(len(differences)))
    assert found.wilcoxon_p_value == pytest.approx(np.mean(extreme))


def test_six_pairs_of_one_sign_are_the_first_that_wilcoxon_calls_significant():
    def p_value(n):
        return comparisons.paired_test(np.arange(1.0, n + 1), np.zeros(n))

    assert p_value(5).wilcoxon_p_value == pytest.approx(2 / 2**5)
    assert p_value(6).wilcoxon_p_value == pytest.approx(2 / 2**6)


def test_pairing_removes_what_the_seeds_share():
    rng = np.random.default_rng(0)
    shared = rng.normal(scale=10.0, size=8)
    x, y = shared + rng.normal(scale=0.1, size=8), shared + 1.0
    found = comparisons.paired_test(x, y)
    assert found.interval is not None
    assert comparisons.is_below(found.interval, 0.0)
    assert found.t_p_value < 1e-4 < 0.5 < scipy.stats.ttest_ind(x, y).pvalue


def test_paired_test_changes_sign_with_its_arguments():
    x, y = np.random.default_rng(2).normal(size=(2, 9))
    forth, back = comparisons.paired_test(x, y), comparisons.paired_test(y, x)
    assert forth.mean_difference == -back.mean_difference
    assert forth.interval is not None
    assert back.interval is not None
    assert forth.interval.low == pytest.approx(-back.interval.high)
    assert forth.t_p_value == pytest.approx(back.t_p_value)
    assert forth.wilcoxon_p_value == pytest.approx(back.wilcoxon_p_value)


def test_pairs_that_are_not_finite_are_left_out_and_counted():
    x = np.array([2.0, np.nan, 4.0, 6.0, 1.0])
    y = np.array([1.0, 1.0, 2.0, 3.0, np.inf])
    found = comparisons.paired_test(x, y)
    clean = comparisons.paired_test(x[[0, 2, 3]], y[[0, 2, 3]])
    assert (found.num_pairs, found.num_dropped) == (3, 2)
    assert found.interval == clean.interval
    assert found.t_p_value == clean.t_p_value


@pytest.mark.parametrize(("x", "mean"), [([3.0], 2.0), ([], math.nan)])
def test_fewer_than_two_pairs_are_tested_for_nothing(x, mean):
    found = comparisons.paired_test(np.array(x), np.ones(len(x)))
    assert found.mean_difference == pytest.approx(mean, nan_ok=True)
    assert found.interval is None
    assert math.isnan(found.t_p_value)
    assert math.isnan(found.wilcoxon_p_value)


def test_equal_differences_give_a_point_and_the_limit_of_the_p_value():
    same = comparisons.paired_test(np.ones(4), np.ones(4))
    assert same.interval == statistics.Interval(0.0, 0.0, 0.0)
    assert (same.t_p_value, same.wilcoxon_p_value) == (1.0, 1.0)
    # 0.1 + 0.2 differs from 0.3 in its last digit only.
    apart = comparisons.paired_test(np.array([0.3, 0.1 + 0.2, 0.3]), np.zeros(3))
    assert apart.interval is not None
    assert apart.interval.high - apart.interval.low < 1e-12
    assert (apart.t_p_value, apart.wilcoxon_p_value) == (0.0, 0.25)


def test_pairs_of_unequal_number_are_an_error():
    with pytest.raises(ValueError, match="must share a shape"):
        comparisons.paired_test(np.ones(3), np.ones(1))


def test_winning_every_cell_has_the_analytic_lower_end():
    # Clopper and Pearson: low^10 = 0.025.
    found = comparisons.win_rate([1] * 10)
    assert (found.wins, found.ties, found.losses) == (10, 0, 0)
    assert (found.rate, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025**0.1)
    assert found.interval == statistics.Interval(1.0, found.low, 1.0)


def test_two_ties_are_a_win_and_a_loss():
    found = comparisons.win_rate([1, 1, 1, 0, 0, -1])
    assert (found.wins, found.ties, found.losses) == (3, 2, 1)
    assert found.rate == pytest.approx(4 / 6)
    split = comparisons.win_rate([1, 1, 1, 1, -1, -1])
    assert (found.low, found.high) == (split.low, split.high)
    # The ends of 4 successes in 6 are quantiles of beta distributions.
    assert found.low == pytest.approx(scipy.stats.beta.ppf(0.025, 4, 3))
    assert found.high == pytest.approx(scipy.stats.beta.ppf(0.975, 5, 2))


def test_an_odd_tie_widens_the_interval_at_both_ends():
    found = comparisons.win_rate([1, 0, -1])
    assert found.rate == 0.5
    assert found.low == comparisons.win_rate([1, -1, -1]).low
    assert found.high == comparisons.win_rate([1, 1, -1]).high
    assert comparisons.win_rate([0]).interval == statistics.Interval(0.5, 0.0, 1.0)


def test_win_rate_of_the_other_is_the_complement():
    outcomes = [1, 1, 0, -1, 1, 0, 0]
    found = comparisons.win_rate(outcomes, confidence=0.8)
    other = comparisons.win_rate([-o for o in outcomes], confidence=0.8)
    assert other.rate == pytest.approx(1 - found.rate)
    assert other.low == pytest.approx(1 - found.high)
    assert other.high == pytest.approx(1 - found.low)


def test_win_rate_interval_covers_at_least_what_it_claims():
    # Exact: over all counts of 12 cells won with probability 0.6.
    counts = np.arange(13)
    covered = []
    for k in counts:
        found = comparisons.win_rate([1] * k + [-1] * (12 - k))
        covered.append(found.low <= 0.6 <= found.high)
    assert scipy.stats.binom.pmf(counts, 12, 0.6) @ covered >= 0.95


@pytest.mark.parametrize("outcomes", [[], [1, 2], [0.5]])
def test_win_rate_of_nothing_or_of_other_outcomes_is_an_error(outcomes):
    with pytest.raises(ValueError, match="outcomes must be -1, 0 or 1"):
        comparisons.win_rate(outcomes)


def test_a_claim_needs_the_whole_interval():
    found = statistics.Interval(estimate=1.0, low=0.5, high=2.0)
    assert comparisons.is_below(found, 2.1)
    assert not comparisons.is_below(found, 2.0)
    assert not comparisons.is_below(found, 1.5)
    assert comparisons.is_above(found, 0.4)
    assert not comparisons.is_above(found, 0.5)
    unknown = statistics.Interval(math.nan, math.nan, math.nan)
    assert not comparisons.is_below(unknown, 0.0)
    assert not comparisons.is_above(unknown, 0.0)
