"""Who wins a setting, beyond doubt: the rule that reports and comparisons share."""

import numpy as np

from evaluate.report import comparisons

_SINGLE_SEED_MARGIN = 0.005  # Of the other's loss; less counts as no difference.

OUTCOME_RULE = (
    "a setting is won (lost) when the 95 % interval of the mean difference over shared "
    "seeds, by Student's paired t, lies below (above) zero, or when one of the two "
    "diverged at fewer seeds; with one seed, when the losses differ by more than 0.5 "
    "%; otherwise it is undecided and counts half"
)


def decide(mine: np.ndarray, theirs: np.ndarray) -> tuple[int, float | None]:
    """Decide a setting by ``OUTCOME_RULE``.

    Args:
      mine: shape=(m,), losses by seed, infinite (or NaN) where a run diverged.
      theirs: shape=(n,), of the same seeds, as far as both go.

    Returns:
      1 if ``mine`` is lower, -1 if higher, 0 if undecided; and the p-value of the t
      test, if there was one.
    """
    shared = min(len(mine), len(theirs))
    x, y = (np.asarray(scores[:shared], np.float64) for scores in (mine, theirs))
    bad = [int(np.sum(~np.isfinite(scores))) for scores in (x, y)]
    if bad != [0, 0]:
        return (bad[0] < bad[1]) - (bad[0] > bad[1]), None
    if shared > 1:
        test = comparisons.paired_test(x, y)
        assert test.interval is not None
        won = comparisons.is_below(test.interval, 0.0)
        lost = comparisons.is_above(test.interval, 0.0)
        return int(won) - int(lost), test.t_p_value
    margin = _SINGLE_SEED_MARGIN * abs(y[0])
    return int(x[0] < y[0] - margin) - int(x[0] > y[0] + margin), None
