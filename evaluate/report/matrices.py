"""Wins, losses and margins of a line against the others, setting by setting."""

import math
from typing import Any

import numpy as np

from evaluate.report import comparisons, entries, outcomes, statistics
from evaluate.sweep import axes

MEASURES = {
    "train": "final_train_loss",
    "valid": "final_valid_loss",
    "best_valid": "best_valid_loss",
}
WIN_RATE_RULE = (
    "win rate = settings won plus half of the undecided, with Clopper and Pearson's "
    "interval, as if settings were independent: what it says of other settings"
)
MARGIN_RULE = (
    "margin = geometric mean over settings and shared seeds of the ratio of losses, "
    "less one, with Student's 95 % interval over the seeds' means (these settings, not "
    "others; none with one seed); settings where a run of either diverged are left out "
    "of it and counted: who diverged more often cannot win"
)


def matrix(study: entries.Study, subject: str, measure: str) -> dict[str, Any]:
    """Compare a line with all others, setting by setting.

    Args:
      study: Holds the entries.
      subject: Key of a line.
      measure: One of :data:`MEASURES`.
    """
    rows = []
    for opponent in study.keys:
        if opponent == subject:
            continue
        cells = []
        for i, setting in enumerate(study.settings):
            mine, theirs = (study.find(setting, key) for key in (subject, opponent))
            if mine is None or theirs is None:
                continue
            cells.append({"setting": i, **_compared(study, mine, theirs, measure)})
        outcomes = [c["outcome"] for c in cells if c["outcome"] is not None]
        rate = None
        if outcomes:
            found = comparisons.win_rate(outcomes, study.config.confidence_frac)
            rate = {
                "wins": found.wins,
                "ties": found.ties,
                "losses": found.losses,
                "rate": found.rate,
                "low": found.low,
                "high": found.high,
            }
        rows.append(
            {
                "opponent": opponent,
                "cells": cells,
                "win_rate": rate,
                "margin": _margin(study, subject, opponent, measure),
            }
        )
    return {"subject": subject, "measure": measure, "rows": rows}


def bootstrap(config: axes.SweepConfig) -> dict[str, Any]:
    """Return the arguments that every bootstrap of a study shares."""
    return {
        "num_samples": config.bootstrap_samples,
        "confidence": config.confidence_frac,
        "seed": config.bootstrap_seed,
    }


def interval(
    study: entries.Study, entry: entries.Entry, field: str
) -> statistics.Interval | None:
    """Return the statistic of a reading's field; None where there is no number."""
    scores = np.array(
        [getattr(r, field) for r in entry.readings if not r.diverged], np.float64
    )
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return None
    return statistics.bootstrap_interval(scores, **bootstrap(study.config))


def _compared(
    study: entries.Study, mine: entries.Entry, theirs: entries.Entry, measure: str
) -> dict[str, Any]:
    field = MEASURES[measure]
    found, p_value = outcomes.decide(mine.scores(field), theirs.scores(field))
    ours, other = (interval(study, entry, field) for entry in (mine, theirs))
    margin = None
    if ours is not None and other is not None and other.estimate > 0:
        margin = ours.estimate / other.estimate - 1
    return {"outcome": found, "margin_frac": margin, "p_value": p_value}


def _margin(
    study: entries.Study, subject: str, opponent: str, measure: str
) -> dict[str, Any] | None:
    """Geometric mean of the ratio of losses, less one, by ``MARGIN_RULE``."""
    rows, diverged = [], [0, 0]
    for setting in study.settings:
        pair = [study.find(setting, key) for key in (subject, opponent)]
        if pair[0] is None or pair[1] is None:
            continue
        mine, theirs = (e.scores(MEASURES[measure]) for e in pair if e is not None)
        diverged[0] += int(np.sum(~np.isfinite(mine)))
        diverged[1] += int(np.sum(~np.isfinite(theirs)))
        both = np.array([mine, theirs])
        if np.isfinite(both).all() and (both > 0).all():
            rows.append(np.log(both[0] / both[1]))
    if not rows or len({len(row) for row in rows}) > 1:
        return None
    # Settings share their seeds, so that only seeds are independent.
    by_seed = np.mean(rows, axis=0)
    test = comparisons.paired_test(by_seed, np.zeros_like(by_seed))
    ends = (None, None)
    if test.interval is not None:
        ends = math.expm1(test.interval.low), math.expm1(test.interval.high)
    return {
        "estimate": math.expm1(float(np.mean(by_seed))),
        "low": ends[0],
        "high": ends[1],
        "num_settings": len(rows),
        "diverged": diverged[0],
        "opponent_diverged": diverged[1],
    }
