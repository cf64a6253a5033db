"""Figures of numbers by name: profiles, speed-ups, costs, ranks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluate.report import charts
from evaluate.report.figures_losses import MOST_PANELS, Looks

_MOST_ROWS = 24
_MOST_PROFILES = 8


def profile(values: Mapping[str, Any], looks: Looks) -> charts.Chart | None:
    """Draw which fraction of runs stays below a multiple of the best loss."""
    found = values["profile"]
    if not found:
        return None
    subjects = values["subjects"]
    order = sorted(
        found["lines"], key=lambda x: (x["key"] not in subjects, -sum(x["values"]))
    )
    lines = tuple(
        charts.Line(
            label=line["key"],
            look=looks[line["key"]],
            x=tuple(found["thresholds"]),
            y=tuple(line["values"]),
            low=tuple(line["low"]),
            high=tuple(line["high"]),
            sparse=True,
        )
        for line in order[:_MOST_PROFILES]
    )
    left = len(order) - len(lines)
    return charts.Chart(
        name="performance_profile",
        title="Performance profile",
        caption=(
            "Fraction of all runs whose final training loss is at most so many times "
            "the best line's in the setting; higher is better, 1 at the left edge is "
            "always best. Bands are pointwise intervals."
            + (f" The best {len(lines)} of {len(order)} lines." if left else "")
        ),
        panels=(
            charts.LinePanel(
                title="all settings",
                xlabel="loss / best loss in the setting",
                ylabel="fraction of runs",
                lines=lines,
                x_scale="log",
                y_scale="linear",
                y_limits=(-0.02, 1.04),
            ),
        ),
        x_name="loss_over_best",
        y_name="fraction",
    )


def improvement(values: Mapping[str, Any], looks: Looks) -> charts.Chart | None:
    """Draw how likely a subject's run is to beat another's."""
    panels = []
    for subject, group in _grouped(values["probability_of_improvement"], "subject"):
        rows = sorted(group, key=lambda x: -x["estimate"])[:_MOST_ROWS]
        panels.append(
            charts.RowPanel(
                title=f"{subject} against …",
                xlabel="probability of the lower loss",
                rows=tuple(
                    _dot(row["against"], row, looks, f"{100 * row['estimate']:.0f} %")
                    for row in rows
                ),
                bars=False,
                origin=0.5,
                limits=(0.0, 1.0),
            )
        )
    return charts.Chart(
        name="probability_of_improvement",
        title="Probability of improvement",
        caption=(
            "How likely a run of the subject has a lower final training loss than one "
            "of the other line, in a setting drawn at random, with intervals; 50 %: "
            "neither is better."
        ),
        panels=panels,
        y_name="probability",
    )


def speedups(values: Mapping[str, Any], looks: Looks) -> charts.Chart | None:
    """Draw how many times sooner subjects reach the others' final losses."""
    groups = list(_grouped(values["speedups"], "subject", "setting"))
    kept = [groups[i] for i in charts.spread(len(groups), MOST_PANELS)]
    panels = []
    for (subject, setting), group in kept:
        rows = []
        for item in group[:_MOST_ROWS]:
            steps, time = item["steps"] or None, item["time"] or None
            words = "never" if steps is None else _times(steps)
            if item["steps"] is None:
                words = "no loss to reach"
            words += "" if time is None else f" / {_times(time)}"
            rows.append(
                charts.Row(
                    label=item["against"],
                    look=looks[item["against"]],
                    value=steps,
                    second=time,
                    text=words,
                )
            )
        label = values["settings"][setting]["label"]
        panels.append(
            charts.RowPanel(
                title=f"{subject}: {label}",
                xlabel="speed-up in steps (bar) / in time (diamond)",
                rows=tuple(rows),
                log=True,
                origin=1.0,
            )
        )
    return charts.Chart(
        name="speedups",
        title="Speed-ups",
        caption=(
            "How many times sooner the subject has the final training loss of each "
            "line: in steps (bar) and in wall-clock time (diamond). Right of 1 the "
            "subject is faster; never: it did not get there; no loss to reach: the "
            "other diverged. Not over thetas that were never meta-trained."
            + charts.part_of(len(kept), len(groups), "pairs of subject and setting")
        ),
        panels=panels,
        y_name="speedup_in_steps",
        second_name="speedup_in_time",
    )


def costs(values: Mapping[str, Any], looks: Looks) -> charts.Chart | None:
    """Draw the time of a step, and how many steps finding the rates took."""
    by_setting = dict(_grouped(values["costs"], "setting"))
    if not by_setting:
        return None
    slowest = {i: max(x["secs_per_step"] for x in g) for i, g in by_setting.items()}
    panels = []
    for i in dict.fromkeys((min(by_setting), max(slowest, key=slowest.__getitem__))):
        rows = sorted(by_setting[i], key=lambda x: x["secs_per_step"])
        panels.append(
            charts.RowPanel(
                title=f"Milliseconds per step: {values['settings'][i]['label']}",
                xlabel="milliseconds",
                rows=tuple(
                    _bar(x["key"], 1e3 * x["secs_per_step"], looks)
                    for x in rows[:_MOST_ROWS]
                ),
            )
        )
    tuning = {
        key: sum(x["tuning_steps"] for x in group)
        for key, group in _grouped(values["costs"], "key")
    }
    order = sorted(tuning, key=tuning.__getitem__)
    panels.append(
        charts.RowPanel(
            title="Training steps that finding rates took, all settings",
            xlabel="steps",
            rows=tuple(_bar(key, tuning[key], looks) for key in order[:_MOST_ROWS]),
        )
    )
    return charts.Chart(
        name="costs",
        title="Cost",
        caption=(
            "Wall-clock time of a step, without compilation, at the base and at the "
            "slowest setting; and the steps of all runs that the choice of learning "
            "rates took, beyond the runs reported. Transferred rates cost nothing but "
            "the search at the base."
        ),
        panels=panels,
        y_name="value",
    )


def ranks(values: Mapping[str, Any], looks: Looks) -> charts.Chart | None:
    """Draw average ranks with intervals, a panel per horizon."""
    panels = []
    for item in values["average_ranks"]:
        rows = sorted(item["ranks"], key=lambda x: x["estimate"])[:_MOST_ROWS]
        panels.append(
            charts.RowPanel(
                title=f"{item['horizon_steps']:,} steps",
                xlabel="average rank (1 is best)",
                rows=tuple(
                    _dot(row["key"], row, looks, f"{row['estimate']:.2f}")
                    for row in rows
                ),
                bars=False,
            )
        )
    return charts.Chart(
        name="average_ranks",
        title="Average ranks",
        caption=(
            "Rank by final training loss, averaged over the settings of each horizon, "
            "with bootstrap intervals over seeds."
        ),
        panels=panels[:MOST_PANELS],
        y_name="rank",
    )


def reference(values: Mapping[str, Any], looks: Looks) -> charts.Chart | None:
    """Draw speed-ups over a published reference, if any."""
    panels = []
    together = sorted(values["reference_iqm"], key=lambda x: -x["estimate"])
    if together:
        panels.append(
            charts.RowPanel(
                title="interquartile mean over tasks",
                xlabel="speed-up over tuned Adam",
                rows=tuple(
                    _dot(x["key"], x, looks, _times(x["estimate"]))
                    for x in together[:_MOST_ROWS]
                ),
                bars=False,
                origin=1.0,
            )
        )
    for setting, group in _grouped(values["reference_speedups"], "setting"):
        rows = sorted(group, key=lambda x: -(x["speedup"] or 0.0))[:_MOST_ROWS]
        panels.append(
            charts.RowPanel(
                title=values["settings"][setting]["label"],
                xlabel="speed-up over tuned Adam",
                rows=tuple(_bar(x["key"], x["speedup"], looks, "×") for x in rows),
            )
        )
    return charts.Chart(
        name="reference_speedups",
        title="Speed-ups over VeLOdrome's tuned Adam",
        caption=(
            "How many times more steps the published envelope of tuned baselines needs "
            "for the same loss; 0: not even its first loss was reached, or the run "
            "diverged."
        ),
        panels=panels[:MOST_PANELS],
        y_name="speedup",
    )


def _grouped(items: Sequence[Mapping[str, Any]], *fields: str):
    """Group items by one field, or several, in order of appearance."""
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for item in items:
        key = tuple(item[field] for field in fields)
        found.setdefault(key if len(fields) > 1 else key[0], []).append(item)
    return found.items()


def _dot(key: str, item: Mapping[str, Any], looks: Looks, text: str) -> charts.Row:
    return charts.Row(
        label=key,
        look=looks[key],
        value=item["estimate"],
        low=item["low"],
        high=item["high"],
        text=text,
    )


def _bar(key: str, value: float | None, looks: Looks, unit: str = "") -> charts.Row:
    text = "–" if value is None else f"{_digits(value)}{unit}"
    return charts.Row(label=key, look=looks[key], value=value, text=text)


def _times(ratio: float) -> str:
    return f"{_digits(ratio)}×"


def _digits(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(abs(value))))}f}"
