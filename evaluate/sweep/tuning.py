"""How a learning rate is found: a grid, then refinement by a factor of two.

The grid is run first. Then the best rate's neighbours, twice and half of it, are run
until neither is better: the optimum is then interior, known to a factor of two. What
that costs is bounded by the number of refinements.
"""

import math
from collections.abc import Mapping, Sequence

FACTOR = 2.0
# Rates closer than this, as a ratio, count as the same: 0.003 · 2 · 2 and 0.01, say.
_SAME = 1.3

TUNING_RULE = (
    "tuned per cell = a grid, then the best rate's neighbours at twice and half of it "
    "until neither is better or the budget is spent, by the mean final training loss "
    "of the first tuning seeds, a diverged seed counting as infinite; transferred = "
    "the rate found so at the base setting, everywhere; published = what others found; "
    "untouched = a learned rule as it was meta-trained (λ = 1); fixed = one rate that "
    "was never tuned"
)


def next_rates(
    losses: Mapping[float, float], grid: Sequence[float], refinements: int
) -> list[float]:
    """Return the rates to run next; none when the search is over.

    Args:
      losses: Tuning loss by rate, of all rates run; infinite where a run diverged.
      grid: Rates to begin with, rising.
      refinements: Most rates beyond the grid that may be run.

    Returns:
      Rates that ``losses`` does not hold.
    """
    missing = [rate for rate in grid if rate not in losses]
    if missing:
        return missing
    left = refinements - sum(rate not in grid for rate in losses)
    best = best_rate(losses)
    if left < 1 or best is None:
        # Where every rate diverged, smaller ones may not.
        lowest = min(losses)
        return [lowest / FACTOR**3] if best is None and left > 0 else []
    wanted = [best / FACTOR, best * FACTOR]
    return [rate for rate in wanted if not _known(rate, best, losses)][:left]


def best_rate(losses: Mapping[float, float]) -> float | None:
    """Return the rate with the lowest finite loss, the lowest of equals, or None."""
    finite = {rate: loss for rate, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        return None
    return min(finite, key=lambda rate: (finite[rate], rate))


def is_interior(losses: Mapping[float, float]) -> bool:
    """Whether rates within a factor of two on both sides of the best were worse."""
    best = best_rate(losses)
    return best is not None and all(
        _known(rate, best, losses) for rate in (best / FACTOR, best * FACTOR)
    )


def _known(rate: float, best: float, losses: Mapping[float, float]) -> bool:
    """Whether a rate was run, or one between it and the best that is near it."""
    if rate < best:
        return any(rate / _SAME <= other < best for other in losses)
    return any(best < other <= rate * _SAME for other in losses)
