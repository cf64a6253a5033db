"""What a study comes to, as the plain values of summary.json.

Entries with intervals, win and loss per setting, ranks, profiles, speed-ups, basins,
costs and warnings; :mod:`evaluate.verdict` puts the main points into sentences. NaN and
infinity become None. A study's *subjects* are the learned rules used as they were
meta-trained; without any, the first line.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluate import (
    axes,
    comparisons,
    contenders,
    curves,
    entries,
    outcomes,
    ranges,
    statistics,
    tuning,
    verdict,
)
from evaluate import readings as readings_lib

MEASURES = {
    "train": "final_train_loss",
    "valid": "final_valid_loss",
    "best_valid": "best_valid_loss",
}
STATISTICS_RULE = (
    "interquartile mean over the seeds that did not diverge, with a stratified "
    "bootstrap percentile interval; divergences are counted beside it"
)
WIN_RATE_RULE = (
    "win rate = settings won plus half of the undecided, with Clopper and Pearson's "
    "interval, as if settings were independent: what it says of other settings"
)
MARGIN_RULE = (
    "margin = geometric mean over settings and shared seeds of the ratio of losses, "
    "less one, with Student's interval over the seeds (these settings, not others); "
    "runs that diverged are left out of it and counted: who diverged more often cannot "
    "win"
)
SPEEDUP_RULE = (
    "speed-up = horizon / first step at which the mean training loss of the last 5 % "
    "of steps is at or below the other's final training loss, interpolated, 0 when "
    "never, the mean over seeds; in time, multiplied by the ratio of wall-clock "
    "seconds per step, without compilation"
)
_PROFILE_THRESHOLDS = np.geomspace(1.0, 4.0, 61)


def summarize(study: entries.Study) -> dict[str, Any]:
    """Return the content of summary.json."""
    chosen = subjects(study)
    index = {setting: i for i, setting in enumerate(study.settings)}
    values: dict[str, Any] = {
        "title": _title(study),
        "settings": [_setting(study, i, s) for s, i in index.items()],
        "subjects": list(chosen),
        "keys": list(study.keys),
        "kinds": {entry.key: entry.contender.kind for entry in study.entries},
        "entries": [_entry(study, index, entry) for entry in study.entries],
        "matrices": [
            matrix(study, subject, measure)
            for subject in chosen
            for measure in MEASURES
        ],
        "average_ranks": _average_ranks(study),
        "probability_of_improvement": _improvements(study, chosen),
        "profile": _profile(study),
        "speedups": _speedups(study, chosen, index),
        "basins": _basins(study, index),
        "costs": [
            {
                "key": entry.key,
                "setting": index[entry.setting],
                "secs_per_step": entry.secs_per_step(),
                "tuning_runs": entry.tuning_runs,
                "tuning_steps": entry.tuning_steps,
            }
            for entry in study.entries
        ],
        "ranges": {
            c.label: found
            for c in study.contenders
            if (found := contenders.meta_training_sizes(c.theta))
        },
        "not_run": [
            {"optimizer": x.optimizer, "reason": x.reason} for x in study.not_run
        ],
        "failures": list(study.failures),
        "warnings": warnings(study),
        "num_cells": study.num_cells,
        "num_diverged_cells": study.num_diverged_cells,
        "rules": {
            "divergence": readings_lib.DIVERGENCE_RULE,
            "final_loss": readings_lib.FINAL_LOSS_RULE,
            "tuning": tuning.TUNING_RULE,
            "statistics": STATISTICS_RULE,
            "outcome": outcomes.OUTCOME_RULE,
            "win_rate": WIN_RATE_RULE,
            "margin": MARGIN_RULE,
            "speedup": SPEEDUP_RULE,
        },
        "reference_speedups": [],
        "reference_iqm": [],
        **study.about,
    }
    values["verdict"] = verdict.sentences(values)
    return plain(values)


def subjects(study: entries.Study) -> tuple[str, ...]:
    """Return the keys of the lines that a study is about."""
    learned = tuple(
        key
        for key, group in _by_key(study).items()
        if group[0].contender.kind == "learned"
        and group[0].tuning in ("untouched", "transferred")
    )
    return learned or study.keys[:1]


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


def warnings(study: entries.Study) -> list[str]:
    """Return what a reader must know before trusting the numbers."""
    found = []
    for entry in study.entries:
        where = f"{entry.key} at {entry.setting.label}"
        lost = entry.num_diverged == len(entry.readings)
        if entry.interior is False and not lost:
            found.append(
                f"{where}: the tuned rate {entry.learning_rate:g} is not known to be "
                "the best: the budget of the search ended at an open side."
            )
        if lost:
            found.append(
                f"{where}: every seed diverged (rate {entry.learning_rate:g})."
            )
        elif entry.num_diverged:
            found.append(
                f"{where}: {entry.num_diverged} of {len(entry.readings)} seeds "
                f"diverged at rate {entry.learning_rate:g}; they are left out of means."
            )
    invited = any(c.kind == "hand-designed" for c in study.contenders)
    for setting in study.settings:
        here = [e for e in study.entries if e.setting == setting]
        hand = [e for e in here if e.contender.kind == "hand-designed"]
        if not invited:
            found.append(f"{setting.label}: no hand-designed baseline was run.")
        elif all(e.num_diverged == len(e.readings) for e in hand):
            found.append(f"{setting.label}: no baseline succeeded.")
    seeds = study.config.num_seeds
    if seeds < 3:
        found.append(
            f"{seeds} seed{'s' * (seeds > 1)} per entry: the intervals say little "
            "about the spread."
        )
    for contender in study.contenders:
        if contender.theta is not None and contender.theta.source == "random":
            found.append(
                f"{contender.label}: its theta is random, never meta-trained; its "
                "losses say nothing of the rule."
            )
    return found


def plain(value: Any) -> Any:
    """Turn a value into JSON-ready ones; not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _title(study: entries.Study) -> str:
    families = dict.fromkeys(setting.family for setting in study.settings)
    varied = [
        word
        for word, field in (
            ("width", "width"),
            ("depth", "depth"),
            ("horizon", "horizon_steps"),
        )
        if len({getattr(s, field) for s in study.settings}) > 1
    ]
    over = f" over {' and '.join(varied)}" if varied else ""
    names = ", ".join(itertools.islice(families, 3))
    more = f" and {len(families) - 3} more" if len(families) > 3 else ""
    return f"Generalization{over}: {names}{more}"


def _setting(study: entries.Study, index: int, setting: axes.Setting) -> dict[str, Any]:
    learned = [c for c in study.contenders if c.kind == "learned" and c.theta]
    known = contenders.meta_training_sizes(learned[0].theta) if learned else {}
    return {
        "index": index,
        "label": setting.label,
        "task": setting.task,
        "family": setting.family,
        "width": setting.width,
        "depth": setting.depth,
        "horizon_steps": setting.horizon_steps,
        "batch_examples": setting.batch_examples,
        "in_range": ranges.inside(setting, known),
    }


def _by_key(study: entries.Study) -> dict[str, list[entries.Entry]]:
    found: dict[str, list[entries.Entry]] = {}
    for entry in study.entries:
        found.setdefault(entry.key, []).append(entry)
    return found


def _entry(
    study: entries.Study, index: Mapping[axes.Setting, int], entry: entries.Entry
) -> dict[str, Any]:
    def values(field: str) -> dict[str, Any] | None:
        found = interval(study, entry, field)
        if found is None:
            return None
        return {"estimate": found.estimate, "low": found.low, "high": found.high}

    return {
        "setting": index[entry.setting],
        "key": entry.key,
        "label": entry.label,
        "kind": entry.contender.kind,
        "tuning": entry.tuning,
        "schedule": entry.schedule,
        "learning_rate": entry.learning_rate,
        "interior": entry.interior,
        "train_loss": values("final_train_loss"),
        "valid_loss": values("final_valid_loss"),
        "best_valid_loss": values("best_valid_loss"),
        "valid_accuracy": values("final_valid_accuracy"),
        "area_under_curve": values("area_under_curve"),
        # By seed, null where it diverged.
        "scores": {name: entry.scores(field) for name, field in MEASURES.items()},
        "num_seeds": len(entry.readings),
        "num_diverged": entry.num_diverged,
        "secs_per_step": entry.secs_per_step(),
        "tuning_runs": entry.tuning_runs,
        "tuning_steps": entry.tuning_steps,
    }


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
    logarithms, diverged = [], [0, 0]
    for setting in study.settings:
        pair = [study.find(setting, key) for key in (subject, opponent)]
        if pair[0] is None or pair[1] is None:
            continue
        mine, theirs = (e.scores(MEASURES[measure]) for e in pair if e is not None)
        diverged[0] += int(np.sum(~np.isfinite(mine)))
        diverged[1] += int(np.sum(~np.isfinite(theirs)))
        shared = min(len(mine), len(theirs))
        mine, theirs = mine[:shared], theirs[:shared]
        kept = np.isfinite(mine) & np.isfinite(theirs) & (mine > 0) & (theirs > 0)
        if kept.any():
            logarithms.append(np.log(mine[kept] / theirs[kept]))
    if not logarithms:
        return None
    found = comparisons.mean_over_strata(logarithms, study.config.confidence_frac)
    return {
        "estimate": math.expm1(found.estimate),
        "low": math.expm1(found.low),
        "high": math.expm1(found.high),
        "diverged": diverged[0],
        "opponent_diverged": diverged[1],
    }


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


def _average_ranks(study: entries.Study) -> list[dict[str, Any]]:
    """Rank the lines that are there at every setting of a horizon."""
    found = []
    for horizon in dict.fromkeys(s.horizon_steps for s in study.settings):
        where = [s for s in study.settings if s.horizon_steps == horizon]
        keys = [k for k in study.keys if all(study.find(s, k) for s in where)]
        if len(keys) < 2:
            continue
        scores, _ = _scores(study, keys, where)
        settings = bootstrap(study.config)
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


def _improvements(study: entries.Study, chosen: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for subject, against in itertools.product(chosen, study.keys):
        scores, used = _scores(study, (subject, against), study.settings)
        if subject == against or not used:
            continue
        value = comparisons.probability_of_improvement(
            scores[:, 0], scores[:, 1], **bootstrap(study.config)
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


def _profile(study: entries.Study) -> dict[str, Any] | None:
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
            **bootstrap(study.config),
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


def _speedups(
    study: entries.Study, chosen: Sequence[str], index: Mapping[axes.Setting, int]
) -> list[dict[str, Any]]:
    """How much sooner a subject has the final loss of every tuned line."""
    found = []
    for subject, setting in itertools.product(chosen, study.settings):
        mine = study.find(setting, subject)
        for against in study.keys:
            theirs = study.find(setting, against)
            if mine is None or theirs is None or against == subject:
                continue
            target = interval(study, theirs, "final_train_loss")
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


def _basins(
    study: entries.Study, index: Mapping[axes.Setting, int]
) -> list[dict[str, Any]]:
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
