"""Interquartile means, ranks and profiles with stratified bootstrap intervals.

Scores are arrays (strata, S): a stratum is one task, a column one seed. Lower scores
are better wherever better matters.

References:
  Agarwal et al., `Deep RL at the edge of the statistical precipice
  <https://arxiv.org/abs/2108.13264>`_, 2021, sections 4.1 to 4.3.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.stats


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its percentile interval."""

    estimate: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Profile:
    """Fractions of runs that reach thresholds, with pointwise percentile bands."""

    thresholds: np.ndarray  # (T,), in the unit of the scores.
    fraction: np.ndarray  # (T,), in [0, 1].
    low: np.ndarray  # (T,)
    high: np.ndarray  # (T,)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Average the middle half of the scores.

    Drops floor(n / 4) scores at each end, so with fewer than four this is the mean.

    Args:
      scores: shape=(..., n).

    Returns:
      The means, shape=(...); NaN where a score is NaN.

    Raises:
      ValueError: If there is no score.
    """
    scores = np.asarray(scores, np.float64)
    if scores.shape[-1] == 0:
        raise ValueError("interquartile_mean needs at least one score, got none.")
    return scipy.stats.trim_mean(scores, 0.25, axis=-1)


def bootstrap_interval(
    scores: np.ndarray, *, num_samples: int, confidence: float, seed: int
) -> Interval:
    """Estimate the interquartile mean over all strata and seeds.

    Args:
      scores: shape=(strata, S) or (S,) for one stratum. Seeds are drawn with
        replacement within each stratum.
      num_samples: Bootstrap samples.
      confidence: Covered fraction, in (0, 1).
      seed: Of the resampling; equal seeds give equal intervals.

    Returns:
      The interquartile mean of all scores and its percentile interval. With one seed
      per stratum the interval has no width: one run says nothing about its spread.

    Raises:
      ValueError: If there is no score, one is not finite, or ``confidence`` is outside
        (0, 1).
    """
    scores = np.atleast_2d(np.asarray(scores, np.float64))
    if scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite and at least one, got {scores}.")
    drawn = resample(scores, num_samples, np.random.default_rng(seed))
    samples = interquartile_mean(drawn.reshape(len(drawn), -1))
    estimate = float(interquartile_mean(np.ravel(scores)))
    return percentile_interval(estimate, samples, confidence)


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """Rank methods per task, 1 for the lowest score, and average over tasks.

    Args:
      scores: shape=(tasks, methods); lower is better, not finite is worst. Ties share
        the mean of their ranks.

    Returns:
      shape=(methods,), mean rank.
    """
    scores = np.where(np.isfinite(scores), scores, np.inf)
    return np.mean(scipy.stats.rankdata(scores, axis=1), axis=0)


def rank_intervals(
    scores: np.ndarray, *, num_samples: int, confidence: float, seed: int
) -> list[Interval]:
    """Rank methods by their interquartile mean per task, averaged over tasks.

    Tasks are drawn with replacement, then seeds within every drawn task and method, so
    that the intervals speak of other tasks of the same kind too.

    Args:
      scores: shape=(tasks, methods, S); lower is better, not finite is worst.
      num_samples: As the other two, as :func:`bootstrap_interval`'s.
      confidence: Same.
      seed: Same.

    Returns:
      The mean rank of each method, 1 the best, with its percentile interval.

    Raises:
      ValueError: If ``scores`` is empty or has not three axes, or as there.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 3 or scores.size == 0:
        raise ValueError(
            f"scores must be (tasks, methods, S), none of them 0, got {scores.shape}."
        )
    scores = np.where(np.isfinite(scores), scores, np.inf)
    rng = np.random.default_rng(seed)
    tasks, _, count = scores.shape
    samples = []
    for _ in range(num_samples):
        drawn = scores[rng.integers(tasks, size=tasks)]
        drawn = np.take_along_axis(drawn, rng.integers(count, size=drawn.shape), -1)
        samples.append(average_ranks(interquartile_mean(drawn)))
    estimates = average_ranks(interquartile_mean(scores))
    return [
        percentile_interval(float(estimate), of_method, confidence)
        for estimate, of_method in zip(estimates, np.transpose(samples), strict=True)
    ]


def performance_profile(
    scores: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    *,
    num_samples: int,
    confidence: float,
    seed: int,
) -> Profile:
    """Return the fraction of runs with a score at or below each threshold.

    Differs from Agarwal et al., section 4.1: their scores are to be high, and the
    profile counts those above.

    Args:
      scores: shape=(strata, S), normalized so that strata can be pooled; lower is
        better. One that is not finite reaches no threshold.
      thresholds: shape=(T,), finite.
      num_samples: As the other two, as :func:`bootstrap_interval`'s.
      confidence: Same, at each threshold by itself.
      seed: Same.

    Raises:
      ValueError: If there is no score, a threshold is not finite, or as there.
    """
    scores, thresholds = np.asarray(scores, np.float64), np.asarray(thresholds, float)
    if not np.isfinite(thresholds).all():
        raise ValueError(f"thresholds must be finite, got {thresholds}.")
    scores = np.where(np.isfinite(scores), scores, np.nan)  # At or below nothing.
    drawn = resample(scores, num_samples, np.random.default_rng(seed))
    points = []
    for threshold in thresholds:
        samples = np.mean(drawn <= threshold, axis=(1, 2))
        estimate = float(np.mean(scores <= threshold))
        points.append(percentile_interval(estimate, samples, confidence))
    return Profile(
        thresholds=thresholds,
        fraction=np.array([point.estimate for point in points]),
        low=np.array([point.low for point in points]),
        high=np.array([point.high for point in points]),
    )


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the least-squares slope of ``y`` over ``x``, both shape=(n,), n >= 2.

    Raises:
      ValueError: If ``x`` has fewer than two different values.
    """
    if len(set(x)) < 2:
        raise ValueError(f"slope needs two different x, got {list(x)}.")
    from_mean = np.asarray(x, np.float64) - np.mean(x)
    return float(from_mean @ np.asarray(y, np.float64) / (from_mean @ from_mean))


def resample(
    scores: np.ndarray, num_samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw seeds with replacement within strata: (strata, S) -> (samples, strata, S).

    Raises:
      ValueError: If there is no score, or ``scores`` has not two axes.
    """
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"scores must be (strata, S), neither 0, got {scores.shape}.")
    strata, count = scores.shape
    picks = rng.integers(count, size=(num_samples, strata, count))
    return scores[np.arange(strata)[:, None], picks]


def percentile_interval(
    estimate: float, samples: np.ndarray, confidence: float
) -> Interval:
    """Return the estimate with the middle ``confidence`` of its (num_samples,) samples.

    Raises:
      ValueError: If ``confidence`` is outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}.")
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(estimate=estimate, low=float(low), high=float(high))
