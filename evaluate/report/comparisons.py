"""Which of two optimizers is better, and whether the runs at hand can tell.

Scores are losses: lower is better. ``x`` is the method a claim is about, ``y`` the one
it is compared with; S counts seeds.

References:
  Agarwal et al., `Deep RL at the edge of the statistical precipice
  <https://arxiv.org/abs/2108.13264>`_, 2021, section 4.3.
  Wilcoxon, `Individual comparisons by ranking methods
  <https://doi.org/10.2307/3001968>`_, 1945.
  Pratt, `Remarks on zeros and ties in the Wilcoxon signed rank procedures
  <https://doi.org/10.1080/01621459.1959.10501526>`_, 1959.
  Clopper and Pearson, `The use of confidence or fiducial limits illustrated in the case
  of the binomial <https://doi.org/10.1093/biomet/26.4.404>`_, 1934.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

from evaluate.report import statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Two-sided tests that ``x`` and ``y`` are equal on the same seeds."""

    num_pairs: int  # Used.
    num_dropped: int  # Left out: one of the pair was not finite.
    mean_difference: float  # Of x - y, in their unit; negative favours x. NaN if none.
    interval: statistics.Interval | None  # 95 %, Student's t; None below two pairs.
    t_p_value: float  # NaN below two pairs.
    wilcoxon_p_value: float  # Of the signed ranks; NaN below two pairs.


@dataclasses.dataclass(frozen=True, kw_only=True)
class WinRate:
    """Wins, ties and losses over cells, and the share won."""

    wins: int
    ties: int
    losses: int
    rate: float  # In [0, 1]; a tie counts half.
    low: float
    high: float

    @property
    def interval(self) -> statistics.Interval:
        """The rate with its ends."""
        return statistics.Interval(self.rate, self.low, self.high)


def probability_of_improvement(
    x: np.ndarray, y: np.ndarray, *, num_samples: int, confidence: float, seed: int
) -> statistics.Interval:
    """Estimate how likely a run of ``x`` is to beat one of ``y`` on a random stratum.

    In each stratum this is the Mann-Whitney statistic over the number of pairs of runs,
    the share of them in which ``x`` is lower; ties count half. Strata weigh equally.

    Args:
      x: shape=(strata, m); not finite is worst, and two such tie.
      y: shape=(strata, n).
      num_samples: Bootstrap samples; x and y are drawn independently, in each stratum.
      confidence: Covered fraction, in (0, 1).
      seed: Of the resampling.

    Raises:
      ValueError: If the strata differ, there is no score, or ``confidence`` is outside
        (0, 1).
    """
    x, y = _worst_if_not_finite(x), _worst_if_not_finite(y)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"x and y must have shapes (strata, m) and (strata, n), got {x.shape} and "
            f"{y.shape}."
        )
    rng = np.random.default_rng(seed)
    samples = _share_below(
        statistics.resample(x, num_samples, rng),
        statistics.resample(y, num_samples, rng),
    )
    estimate = float(_share_below(x, y))
    return statistics.percentile_interval(estimate, samples, confidence)


def paired_test(x: np.ndarray, y: np.ndarray) -> PairedTest:
    """Test whether ``x`` and ``y`` differ, over what the pairs share.

    Student's t test asks for the mean difference; Wilcoxon's signed-rank test needs no
    normal differences. The latter is exact, over all sign flips, up to 50 pairs, or up
    to 13 if differences are zero (ranked but without sign, as Pratt does) or tied;
    beyond that it is the normal approximation. Below six pairs it cannot reach 0.05.

    Equal differences leave nothing to estimate the spread from: then the interval is a
    point and the t test's p-value its limit, 0, or 1 if all are zero.

    Args:
      x: shape=(n,), each entry on the same seed and setting as ``y``'s.
      y: shape=(n,).

    Raises:
      ValueError: If the shapes differ or have not one axis.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"x and y must share a shape (n,), got {x.shape}, {y.shape}.")
    kept = np.isfinite(x) & np.isfinite(y)
    x, y = x[kept], y[kept]
    differences = x - y
    mean = float(np.mean(differences)) if len(x) else math.nan
    interval, t_p_value, wilcoxon_p_value = None, math.nan, math.nan
    if len(x) >= 2:
        # Equal but for rounding, which scipy warns of.
        if np.ptp(differences) <= 1e-12 * abs(mean):
            interval = statistics.Interval(mean, mean, mean)
            t_p_value = 0.0 if mean else 1.0
        else:
            student = scipy.stats.ttest_rel(x, y)
            low, high = student.confidence_interval(0.95)
            interval = statistics.Interval(mean, float(low), float(high))
            t_p_value = float(student.pvalue)
        wilcoxon_p_value = 1.0
        if differences.any():
            signed_ranks = scipy.stats.wilcoxon(differences, zero_method="pratt")
            wilcoxon_p_value = float(signed_ranks.pvalue)
    return PairedTest(
        num_pairs=len(x),
        num_dropped=int(np.sum(~kept)),
        mean_difference=mean,
        interval=interval,
        t_p_value=t_p_value,
        wilcoxon_p_value=wilcoxon_p_value,
    )


def win_rate(outcomes: Sequence[int], confidence: float = 0.95) -> WinRate:
    """Count wins and bound the share won.

    The interval is Clopper and Pearson's, of wins plus half the ties out of all cells,
    as if cells were independent. An odd tie counts as lost for the lower end and as won
    for the upper one.

    Args:
      outcomes: Of each cell: 1 a win, 0 a tie, -1 a loss.
      confidence: Covered fraction, in [0, 1].

    Raises:
      ValueError: If there is no outcome, one is none of the three, or ``confidence``
        is outside [0, 1].
    """
    if not len(outcomes) or not set(outcomes) <= {-1, 0, 1}:
        raise ValueError(
            f"outcomes must be -1, 0 or 1 and at least one, got {list(outcomes)}."
        )
    wins, ties, losses = (sum(o == value for o in outcomes) for value in (1, 0, -1))

    def ends(won: int) -> tuple[float, float]:
        test = scipy.stats.binomtest(won, len(outcomes))
        return test.proportion_ci(confidence, method="exact")

    return WinRate(
        wins=wins,
        ties=ties,
        losses=losses,
        rate=(wins + ties / 2) / len(outcomes),
        low=float(ends(wins + ties // 2)[0]),
        high=float(ends(wins + ties - ties // 2)[1]),
    )


def is_below(interval: statistics.Interval, value: float) -> bool:
    """Whether the whole interval lies below ``value``: a claim of it is supported."""
    return interval.high < value


def is_above(interval: statistics.Interval, value: float) -> bool:
    """Whether the whole interval lies above ``value``: a claim of it is supported."""
    return interval.low > value


def _share_below(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the share of pairs with ``x`` lower: (..., strata, S) -> (...)."""
    m, n = x.shape[-1], y.shape[-1]
    ranks = scipy.stats.rankdata(np.concatenate([x, y], axis=-1), axis=-1)
    above = np.sum(ranks[..., :m], axis=-1) - m * (m + 1) / 2  # Mann and Whitney's U.
    return np.mean(1 - above / (m * n), axis=-1)


def _worst_if_not_finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    return np.where(np.isfinite(scores), scores, np.inf)
