"""What a curve of training losses says: its end, its area, and how fast it got there.

Losses are minibatch losses in nats, one a step: ``losses[i]`` is taken after ``i``
updates, so the first ``n`` of them belong to a run of ``n`` steps. A loss that is not
finite means that the run has diverged.

References:
  Metz et al., `VeLO: training versatile learned optimizers by scaling up
  <https://arxiv.org/abs/2211.09760>`_, 2022 (``reference_steps``).
"""

import math

import numpy as np

_WINDOW_FRAC = 0.05  # Of the horizon, averaged over at its end.
_MIN_WINDOW_STEPS = 10
_BASIN_TOLERANCE = 0.01  # Of the best loss's size.


def trailing_mean(losses: np.ndarray, window: int) -> np.ndarray:
    """Average the last ``window`` losses so far.

    Differs from a difference of cumulative sums: a spike of 1e20 leaves no rounding
    error behind once it has left the window.

    Args:
      losses: shape=(..., T).
      window: Steps, at least 1; the first means are over the fewer steps so far.

    Returns:
      shape=(..., T); NaN from the first loss on that is not finite.

    Raises:
      ValueError: If ``window`` is below 1.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}.")
    losses = np.asarray(losses, np.float64)
    diverged = np.logical_or.accumulate(~np.isfinite(losses), axis=-1)
    finite = np.where(diverged, 0.0, losses)
    head = min(window - 1, losses.shape[-1])
    means = np.cumsum(finite, axis=-1)
    means[..., :head] /= np.arange(1, head + 1)
    if head < losses.shape[-1]:
        windows = np.lib.stride_tricks.sliding_window_view(finite, window, axis=-1)
        means[..., head:] = np.mean(windows, axis=-1)
    return np.where(diverged, np.nan, means)


def final_loss(losses: np.ndarray, horizon: int) -> float:
    """Average the last 5 % of the first ``horizon`` losses, at least 10 of them.

    Args:
      losses: shape=(T,).
      horizon: Steps, in [1, T]; below 10 all are averaged.

    Returns:
      Nats; NaN if a loss up to the horizon is not finite.

    Raises:
      ValueError: If ``horizon`` is outside [1, T].
    """
    return _mean(losses, horizon, last=_window(horizon))


def area_under_curve(losses: np.ndarray, horizon: int) -> float:
    """Average the first ``horizon`` losses; arguments and result as `final_loss`'s."""
    return _mean(losses, horizon, last=horizon)


def steps_to_loss(
    losses: np.ndarray,
    target: float,
    *,
    horizon: int | None = None,
) -> float:
    """Return after how many steps the trailing mean is at or below ``target``.

    The mean trails: on a falling curve it reaches a loss about half a window later than
    the curve does. A target from :func:`final_loss` trails as much, so that a falling
    curve needs its whole horizon to reach its own final loss.

    Args:
      losses: shape=(T,). A run may reach the target and diverge later.
      target: Nats.
      horizon: Steps of which 5 %, at least 10, are averaged, or all so far; T by
        default.

    Returns:
      Steps, interpolated linearly between two steps of the smoothed curve; infinite if
      never.
    """
    losses = np.asarray(losses, np.float64)
    window = _window(len(losses) if horizon is None else horizon)
    # Two means of the same losses may round apart.
    target += 1e-12 * abs(target)
    steps = np.arange(1, len(losses) + 1)
    return _first_reached(steps, trailing_mean(losses, window), target)


def speedup(losses: np.ndarray, target: float, horizon: int) -> float:
    """Return how many times faster than ``horizon`` steps ``target`` was reached.

    Args:
      losses: shape=(T,). T may exceed the horizon: the speed-up is then below 1 if the
        target is reached after it.
      target: Nats, usually another's :func:`final_loss` at the horizon.
      horizon: Steps the other took; also sets the smoothing.

    Returns:
      The horizon over :func:`steps_to_loss`; 0 if never.
    """
    return horizon / steps_to_loss(losses, target, horizon=horizon)


def basin_decades(rates: np.ndarray, losses: np.ndarray) -> tuple[float, bool, bool]:
    """Measure how wide a range of learning rates is about as good as the best.

    The basin is the connected set around the best rate in which the loss, linear in
    log10(rate) between the rates tried, exceeds the best by at most 1 % of its size. It
    ends where the neighbour diverged.

    Args:
      rates: shape=(R,), positive, rising.
      losses: shape=(R,), in any unit; not finite is diverged.

    Returns:
      The width in decades, and whether the basin reaches the lowest and the highest
      rate tried. If either, the width is a lower bound. If all diverged, no rate is
      known to be good nor any beyond to be bad: ``(0.0, True, True)``.

    Raises:
      ValueError: If the shapes differ or are empty, or the rates are not positive and
        rising.
    """
    rates, losses = np.asarray(rates, np.float64), np.asarray(losses, np.float64)
    if rates.ndim != 1 or rates.shape != losses.shape or not len(rates):
        raise ValueError(
            "rates and losses must share a shape (R,), R >= 1, got "
            f"{rates.shape} and {losses.shape}."
        )
    if not (np.all(rates > 0) and np.all(np.diff(rates) > 0)):
        raise ValueError(f"rates must be positive and rising, got {rates}.")
    losses = np.where(np.isfinite(losses), losses, np.inf)
    best = int(np.argmin(losses))
    if np.isinf(losses[best]):
        return 0.0, True, True
    limit = losses[best] + _BASIN_TOLERANCE * abs(losses[best])
    decades = np.log10(rates)
    # Downwards the decades change sign, for both ways to rise.
    down = _first_above(-decades[best::-1], losses[best::-1], limit)
    up = _first_above(decades[best:], losses[best:], limit)
    low = decades[0] if down is None else -down
    high = decades[-1] if up is None else up
    return float(high - low), down is None, up is None


def reference_steps(steps: np.ndarray, losses: np.ndarray, loss: float) -> float:
    """Return the step at which a falling reference curve first reaches ``loss``.

    Over the steps a run took to get to ``loss``, this is VeLO's speed-up.

    Args:
      steps: shape=(N,), rising.
      losses: shape=(N,), finite and not rising, in the unit of ``loss``.
      loss: The reference is asked for; not finite counts as above every loss.

    Returns:
      Steps, interpolated linearly; 0 if the curve starts below ``loss``, infinite if it
      ends above.

    Raises:
      ValueError: If the shapes differ or are empty, the steps do not rise, or the
        losses rise or are not finite.
    """
    steps, losses = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    if steps.ndim != 1 or steps.shape != losses.shape or not len(steps):
        raise ValueError(
            "steps and losses must share a shape (N,), N >= 1, got "
            f"{steps.shape} and {losses.shape}."
        )
    if not np.all(np.diff(steps) > 0):
        raise ValueError(f"steps must rise, got {steps}.")
    if not np.isfinite(losses).all() or np.any(np.diff(losses) > 0):
        raise ValueError(f"losses must be finite and must not rise, got {losses}.")
    if not math.isfinite(loss) or losses[0] < loss:
        return 0.0
    return _first_reached(steps, losses, loss)


def _window(horizon: int) -> int:
    return max(_MIN_WINDOW_STEPS, math.ceil(_WINDOW_FRAC * horizon))


def _mean(losses: np.ndarray, horizon: int, last: int) -> float:
    """Average the ``last`` of the first ``horizon`` losses if all those are finite."""
    losses = np.asarray(losses, np.float64)
    if not 1 <= horizon <= len(losses):
        raise ValueError(
            f"horizon must lie in [1, {len(losses)}], the steps there are, got "
            f"{horizon}."
        )
    losses = losses[:horizon]
    return float(np.mean(losses[-last:])) if np.isfinite(losses).all() else math.nan


def _first_reached(steps: np.ndarray, losses: np.ndarray, target: float) -> float:
    """Return where ``losses`` first is at or below ``target``, or infinity."""
    reached = np.flatnonzero(losses <= target)
    if not len(reached):
        return math.inf
    i = reached[0]
    if i == 0:
        return float(steps[0])
    frac = (losses[i - 1] - target) / (losses[i - 1] - losses[i])
    return float(steps[i - 1] + frac * (steps[i] - steps[i - 1]))


def _first_above(x: np.ndarray, losses: np.ndarray, limit: float) -> float | None:
    """Return where ``losses``, linear in ``x``, first exceed ``limit``, or None."""
    above = np.flatnonzero(losses > limit)
    if not len(above):
        return None
    i = above[0]  # At least 1: the first is the best.
    frac = (limit - losses[i - 1]) / (losses[i] - losses[i - 1])
    return float(x[i - 1] + frac * (x[i] - x[i - 1]))
