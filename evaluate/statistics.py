"""Interquartile means with stratified bootstrap intervals, and ranks. Numpy only.

Scores are arrays (strata, S): a stratum is one task, a column one seed.

References:
  Agarwal et al., `Deep RL at the edge of the statistical precipice
  <https://arxiv.org/abs/2108.13264>`_, 2021, sections 4.2 and 4.3.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its percentile interval."""

    estimate: float
    low: float
    high: float


def interquartile_mean(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """Average the middle half of the scores.

    Drops floor(n / 4) scores at each end, so with fewer than four this is the mean.

    Args:
      scores: Any shape; n scores along ``axis``.
      axis: Reduced.

    Returns:
      The means, without that axis.

    Raises:
      ValueError: If there is no score.
    """
    scores = np.sort(np.asarray(scores, np.float64), axis=axis)
    count = scores.shape[axis]
    if count == 0:
        raise ValueError("interquartile_mean needs at least one score, got none.")
    cut = count // 4
    return np.mean(np.take(scores, np.arange(cut, count - cut), axis=axis), axis=axis)


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
    samples = _resample(scores, num_samples, confidence, seed)
    estimate = float(interquartile_mean(np.ravel(scores)))
    return _percentiles(estimate, samples, confidence)


def bootstrap_difference(
    scores: np.ndarray,
    others: np.ndarray,
    *,
    num_samples: int,
    confidence: float,
    seed: int,
) -> Interval:
    """Estimate how much the interquartile mean of ``scores`` exceeds ``others``'s.

    The two are resampled independently; other arguments, shapes and errors are as
    :func:`bootstrap_interval`'s.
    """
    first = _resample(scores, num_samples, confidence, seed)
    second = _resample(others, num_samples, confidence, seed + 1)
    estimate = interquartile_mean(np.ravel(scores)) - interquartile_mean(
        np.ravel(others)
    )
    return _percentiles(float(estimate), first - second, confidence)


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """Rank methods per task, 1 for the lowest score, and average over tasks.

    Args:
      scores: shape=(tasks, methods); lower is better, not finite is worst. Ties share
        the mean of their ranks.

    Returns:
      shape=(methods,), mean rank.
    """
    scores = np.where(np.isfinite(scores), scores, np.inf)
    below = np.sum(scores[:, None, :] < scores[:, :, None], axis=-1)
    equal = np.sum(scores[:, None, :] == scores[:, :, None], axis=-1)
    return np.mean(below + (equal + 1) / 2, axis=0)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the least-squares slope of ``y`` over ``x``, both shape=(n,), n >= 2.

    Raises:
      ValueError: If ``x`` has fewer than two different values.
    """
    if len(set(x)) < 2:
        raise ValueError(f"slope needs two different x, got {list(x)}.")
    from_mean = np.asarray(x, np.float64) - np.mean(x)
    return float(from_mean @ np.asarray(y, np.float64) / (from_mean @ from_mean))


def _resample(
    scores: np.ndarray, num_samples: int, confidence: float, seed: int
) -> np.ndarray:
    """Return ``num_samples`` interquartile means of resampled scores."""
    scores = np.atleast_2d(np.asarray(scores, np.float64))
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}.")
    if scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite and at least one, got {scores}.")
    strata, count = scores.shape
    picks = np.random.default_rng(seed).integers(
        count, size=(num_samples, strata, count)
    )
    drawn = np.take_along_axis(
        np.broadcast_to(scores, (num_samples, strata, count)), picks, axis=-1
    )
    return interquartile_mean(drawn.reshape(num_samples, strata * count))


def _percentiles(estimate: float, samples: np.ndarray, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(estimate=estimate, low=float(low), high=float(high))
