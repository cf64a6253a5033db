"""What a study comes to, as the plain values of summary.json.

Entries with intervals, win and loss per setting, ranks, profiles, speed-ups, basins,
costs and warnings; :mod:`evaluate.report.verdict` puts the main points into sentences.
NaN and infinity become None. A study's *subjects* are the learned rules used as they
were meta-trained; without any, the first line.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluate.optimizers import thetas
from evaluate.report import entries, matrices, outcomes, ranges, rankings, verdict
from evaluate.sweep import axes, contenders, tuning
from evaluate.sweep import readings as readings_lib

STATISTICS_RULE = (
    "interquartile mean over the seeds that did not diverge, with a stratified "
    "bootstrap percentile interval; divergences are counted beside it"
)


def summarize(study: entries.Study) -> dict[str, Any]:
    """Return the content of summary.json."""
    chosen = subjects(study)
    index = {setting: i for i, setting in enumerate(study.settings)}
    values: dict[str, Any] = {
        "title": _title(study),
        "settings": [_setting(study, i, s) for s, i in index.items()],
        "subjects": list(chosen),
        "keys": list(study.keys),
        "kinds": {entry.key: entry.contender.spec.kind for entry in study.entries},
        "entries": [_entry(study, index, entry) for entry in study.entries],
        "matrices": [
            matrices.matrix(study, subject, measure)
            for subject in chosen
            for measure in matrices.MEASURES
        ],
        "average_ranks": rankings.average_ranks(study),
        "probability_of_improvement": rankings.improvements(study, chosen),
        "profile": rankings.profile(study),
        "speedups": rankings.speedups(study, chosen, index),
        "basins": rankings.basins(study, index),
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
            "win_rate": matrices.WIN_RATE_RULE,
            "margin": matrices.MARGIN_RULE,
            "speedup": rankings.SPEEDUP_RULE,
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
        if group[0].contender.spec.kind == "learned"
        and group[0].tuning in ("untouched", "transferred")
    )
    return learned or study.keys[:1]


def warnings(study: entries.Study) -> list[str]:
    """Return what a reader must know before trusting the numbers."""
    found = []
    for entry in study.entries:
        where = f"{entry.key} at {entry.setting.label}"
        lost = entry.num_diverged == len(entry.readings)
        if entry.failed_seeds:
            found.append(
                f"{where}: seeds {', '.join(map(str, entry.failed_seeds))} could not "
                "be run; they count as diverged in comparisons."
            )
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
    invited = any(c.spec.kind == "hand-designed" for c in study.contenders)
    for setting in study.settings:
        here = [e for e in study.entries if e.setting == setting]
        hand = [e for e in here if e.contender.spec.kind == "hand-designed"]
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
        if contender.theta is not None and contender.theta.source == thetas.RANDOM:
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
    # By subject, where its card tells: whether within the sizes of meta-training.
    inside = {
        entry.key: ranges.inside(
            setting, contenders.meta_training_sizes(entry.contender.theta)
        )
        for entry in study.entries
        if entry.setting == setting and entry.contender.spec.kind == "learned"
    }
    return {
        "index": index,
        "label": setting.label,
        "task": str(setting.task),
        "family": setting.family,
        "width": setting.width,
        "depth": setting.depth,
        "horizon_steps": setting.horizon_steps,
        "batch_examples": setting.batch_examples,
        "in_range": {k: known for k, known in inside.items() if known is not None},
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
        found = matrices.interval(study, entry, field)
        if found is None:
            return None
        return {"estimate": found.estimate, "low": found.low, "high": found.high}

    return {
        "setting": index[entry.setting],
        "key": entry.key,
        "label": entry.label,
        "kind": entry.contender.spec.kind,
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
        "scores": {
            name: entry.scores(field) for name, field in matrices.MEASURES.items()
        },
        "num_seeds": len(entry.readings),
        "num_diverged": entry.num_diverged,
        "secs_per_step": entry.secs_per_step(),
        "tuning_runs": entry.tuning_runs,
        "tuning_steps": entry.tuning_steps,
    }
