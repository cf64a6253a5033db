"""How lines stand over all settings: ranks, profiles, speed-ups, basins."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluate.report import comparisons, entries, matrices, statistics
from evaluate.sweep import axes, curves

SPEEDUP_RULE = (
    "speed-up = horizon / first step at which the mean training loss of the last 5 % "
    "of steps is at or below the other's final training loss, interpolated, 0 when "
    "never, the mean over seeds; in time, multiplied by the ratio of wall-clock "
    "seconds per step, without compilation"
)
_PROFILE_THRESHOLDS = np.geomspace(1.0, 4.0, 61)


def average_ranks(study: entries.Study) -> list[dict[str, Any]]:
    """Rank the lines that are there at every setting of a horizon."""
    found = []
    for horizon in dict.fromkeys(s.horizon_steps for s in study.settings):
        where = [s for s in study.settings if s.horizon_steps == horizon]
        keys = [k for k in study.keys if all(study.find(s, k) for s in where)]
        if len(keys) < 2:
            continue
        scores, _ = _scores(study, keys, where)
        settings = matrices.bootstrap(study.config)
        settings["num_samples"] = min(500, settings["num_samples"])
        ranks = statistics.rank_intervals(scores, **settings)
        found.append(
            {
                "horizon_steps": horizon,
                "num_settings": len(where),
                "ranks": [
                    {
                        "key": key,
                        "estimate": rank.estimate,
                        "low": rank.low,
                        "high": rank.high,
                    }
                    for key, rank in zip(keys, ranks, strict=True)
                ],
            }
        )
    return found


def improvements(study: entries.Study, chosen: Sequence[str]) -> list[dict[str, Any]]:
    """Return how likely a run of a subject is to beat one of each other line."""
    found = []
    for subject, against in itertools.product(chosen, study.keys):
        scores, used = _scores(study, (subject, against), study.settings)
        if subject == against or not used:
            continue
        value = comparisons.probability_of_improvement(
            scores[:, 0], scores[:, 1], **matrices.bootstrap(study.config)
        )
        found.append(
            {
                "subject": subject,
                "against": against,
                "estimate": value.estimate,
                "low": value.low,
                "high": value.high,
            }
        )
    return found


def profile(study: entries.Study) -> dict[str, Any] | None:
    """Profile of losses as multiples of the best line's, over settings with all."""
    keys = [k for k in study.keys if all(study.find(s, k) for s in study.settings)]
    if len(keys) < 2:
        return None
    scores, _ = _scores(study, keys, study.settings)
    means = np.where(np.isfinite(scores), scores, np.inf).mean(axis=2)
    best = means.min(axis=1)
    if not (np.isfinite(best) & (best > 0)).all():
        return None
    lines = []
    for i, key in enumerate(keys):
        profile = statistics.performance_profile(
            scores[:, i] / best[:, None],
            _PROFILE_THRESHOLDS,
            **matrices.bootstrap(study.config),
        )
        lines.append(
            {
                "key": key,
                "values": profile.fraction,
                "low": profile.low,
                "high": profile.high,
            }
        )
    return {"thresholds": _PROFILE_THRESHOLDS, "lines": lines}


def speedups(
    study: entries.Study, chosen: Sequence[str], index: Mapping[axes.Setting, int]
) -> list[dict[str, Any]]:
    """How much sooner a subject has the final loss of every other line.

    Lines whose theta was never meta-trained are left out: how much sooner than those
    says nothing.
    """
    found = []
    for subject, setting in itertools.product(chosen, study.settings):
        mine = study.find(setting, subject)
        for against in study.keys:
            theirs = study.find(setting, against)
            if mine is None or theirs is None or against == subject:
                continue
            if theirs.contender.untrained:
                continue
            target = matrices.interval(study, theirs, "final_train_loss")
            steps = None
            if target is not None:
                ratios = [
                    curves.speedup(r.losses, target.estimate, setting.horizon_steps)
                    for r in mine.readings
                ]
                steps = float(np.mean(ratios))
            ratio = theirs.secs_per_step() / mine.secs_per_step()
            found.append(
                {
                    "subject": subject,
                    "against": against,
                    "setting": index[setting],
                    "steps": steps,
                    "time": None if steps is None else steps * ratio,
                }
            )
    return found


def basins(
    study: entries.Study, index: Mapping[axes.Setting, int]
) -> list[dict[str, Any]]:
    """Return how wide the best of every rate curve is, in decades."""
    found = []
    for curve in study.rate_curves:
        if not np.isfinite(curve.losses).any():
            continue
        decades, low, high = curves.basin_decades(
            np.array(curve.rates), np.array(curve.losses)
        )
        found.append(
            {
                "setting": index[curve.setting],
                "label": curve.contender.label,
                "schedule": curve.schedule,
                "decades": decades,
                "open_low": low,
                "open_high": high,
            }
        )
    return found


def _scores(study: entries.Study, keys: Sequence[str], where: Sequence[axes.Setting]):
    """Return final training losses (settings, keys, S), and the settings with all."""
    rows, used = [], []
    for setting in where:
        found = [study.find(setting, key) for key in keys]
        there = [entry for entry in found if entry is not None]
        if len(there) == len(keys):
            rows.append([entry.scores() for entry in there])
            used.append(setting)
    return np.array(rows, np.float64), used
