"""Figures of losses: along the steps of a run, and against width, depth and horizon."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from evaluate.report import charts, entries, style
from evaluate.sweep import axes
from evaluate.sweep import curves as curves_lib

MOST_PANELS = 12
_MOST_CURVES = 6
_MOST_LINES = 8
_POINTS = 90
_AXES = {"width": "widths", "depth": "depths", "horizon_steps": "horizon_steps"}
_WORDS = {"width": "width", "depth": "depth", "horizon_steps": "horizon (steps)"}

Looks = Mapping[str, style.Look]


def curves(
    study: entries.Study, values: Mapping[str, Any], looks: Looks
) -> charts.Chart | None:
    """Draw training loss over steps, a panel per setting."""
    with_runs = [
        s for s in study.settings if any(e.setting == s for e in study.entries)
    ]
    shown = capped(with_runs)
    panels = []
    for setting in shown:
        chosen = _leading(study, setting, values["subjects"])
        if not chosen:
            continue
        lines = tuple(_curve(entry, looks[entry.key]) for entry in chosen)
        panels.append(
            charts.LinePanel(
                title=setting.label,
                xlabel="step",
                ylabel="training loss",
                lines=lines,
                y_limits=(-math.inf, _top(lines, setting.horizon_steps)),
            )
        )
    left = len(with_runs) - len(shown)
    return charts.Chart(
        name="loss_curves",
        title="Loss curves",
        caption=(
            "Training loss, the mean of the last 2 % of the steps so far; bands hold "
            f"all seeds. Per setting the subjects and the best of the others, "
            f"{_MOST_CURVES} lines at most, each rule at its best rate. A line ends "
            "where a seed is not finite any more."
            + (
                f" Shown: the base and the extremes; {left} more settings are in the "
                "tables."
                if left
                else ""
            )
        ),
        panels=panels,
        x_name="step",
        y_name="train_loss",
    )


def final_losses(
    study: entries.Study, values: Mapping[str, Any], looks: Looks
) -> list[charts.Chart]:
    """Draw final losses against each axis that has several values."""
    found = []
    keys = _best_keys(study, values["subjects"])
    for field, word in _WORDS.items():
        label, shade = _known_range(study, values, _AXES[field])
        panels = []
        for name, group in _along(study.settings, field):
            for measure, title in (
                ("train_loss", "training loss"),
                ("valid_loss", "validation loss"),
            ):
                lines = _against(study, values, group, field, measure, keys, looks)
                if lines:
                    panels.append(
                        charts.LinePanel(
                            title=f"{name}: {title}",
                            xlabel=word,
                            ylabel=f"final {title}",
                            lines=lines,
                            x_scale="sizes",
                            shade=shade,
                        )
                    )
        left = len(study.keys) - len(keys)
        caption = (
            f"Final loss against {word.split(' ')[0]}, the other axes fixed; bands are "
            "intervals over seeds. Dashed: rates transferred from the base setting, "
            "dotted: published ones; a cross at the top: every seed diverged."
        )
        if shade:
            caption += f" Shaded: sizes that {label} was meta-trained at."
        if left:
            caption += f" The best {len(keys)} of {len(study.keys)} lines."
        found.append(
            charts.Chart(
                name=f"final_loss_{field.removesuffix('_steps')}",
                title=f"Final loss against {word.split(' ')[0]}",
                caption=caption,
                panels=panels[:MOST_PANELS],
                x_name=field,
                y_name="final_loss",
            )
        )
    return found


def capped(
    settings: Sequence[axes.Setting], most: int = MOST_PANELS
) -> list[axes.Setting]:
    """Return the base and the extremes of a list of settings that is too long."""
    if len(settings) <= most:
        return list(settings)
    families: dict[str, list[axes.Setting]] = {}
    for setting in settings:
        families.setdefault(setting.family, []).append(setting)
    chosen = {settings[0]: None}
    for group in families.values():
        chosen[group[0]] = None
    for group in families.values():
        for field in _AXES:
            for pick in (min, max):
                chosen[pick(group, key=lambda s, f=field: getattr(s, f))] = None
    kept = set(list(chosen)[:most])
    return [setting for setting in settings if setting in kept]


def _along(
    settings: Iterable[axes.Setting], field: str
) -> list[tuple[str, list[axes.Setting]]]:
    """Return lines through the settings along an axis: at the base, and farthest off.

    Each with a name that says what is fixed.
    """
    families: dict[str, list[axes.Setting]] = {}
    for setting in settings:
        families.setdefault(setting.family, []).append(setting)
    found = []
    others = [name for name in _AXES if name != field]
    for family, group in families.items():
        fixed = [tuple(getattr(s, name) for name in others) for s in group]
        for at in dict.fromkeys((fixed[0], max(fixed))):
            line = [s for s, f in zip(group, fixed, strict=True) if f == at]
            if len({getattr(s, field) for s in line}) > 1:
                line.sort(key=lambda s: getattr(s, field))
                words = dict(zip(others, at, strict=True))
                parts = [
                    f"w{words['width']}" if "width" in words else "",
                    f"d{words['depth']}" if "depth" in words else "",
                    f"{words['horizon_steps']:,} steps"
                    if "horizon_steps" in words
                    else "",
                ]
                name = ", ".join([family, *(part for part in parts if part)])
                found.append((name, line))
    return found


def _against(
    study: entries.Study,
    values: Mapping[str, Any],
    group: Sequence[axes.Setting],
    field: str,
    measure: str,
    keys: Sequence[str],
    looks: Looks,
) -> tuple[charts.Line, ...]:
    numbers = {s: i for i, s in enumerate(study.settings)}
    by_place = {(e["setting"], e["key"]): e for e in values["entries"]}
    lines = []
    for key in keys:
        points = []
        for setting in group:
            entry = by_place.get((numbers[setting], key))
            if entry is None:
                continue
            found = entry[measure]
            size = float(getattr(setting, field))
            if found is not None:
                points.append((size, found["estimate"], found["low"], found["high"]))
            elif entry["num_diverged"]:
                points.append((size, math.inf, math.nan, math.nan))
        if points:
            x, y, low, high = zip(*points, strict=True)
            lines.append(
                charts.Line(label=key, look=looks[key], x=x, y=y, low=low, high=high)
            )
    return tuple(lines)


def _known_range(
    study: entries.Study, values: Mapping[str, Any], axis: str
) -> tuple[str, tuple[float, float] | None]:
    """Return the first subject whose sizes of meta-training are known, and those."""
    labels = {entry.key: entry.label for entry in study.entries}
    for key in values["subjects"]:
        sizes = values["ranges"].get(labels.get(key, key), {}).get(axis)
        if sizes:
            return labels.get(key, key), (min(sizes), max(sizes))
    return "", None


def _best_keys(study: entries.Study, subjects: Sequence[str]) -> list[str]:
    """Return the subjects, then the lines that are best over all settings."""
    places: dict[str, list[float]] = {}
    for setting in study.settings:
        here = sorted(
            (e for e in study.entries if e.setting == setting), key=_mean_loss
        )
        for place, entry in enumerate(here):
            places.setdefault(entry.key, []).append(place / len(here))
    order = sorted(
        places, key=lambda key: (key not in subjects, float(np.mean(places[key])))
    )
    kept = set(order[:_MOST_LINES])
    return [key for key in study.keys if key in kept]


def _leading(
    study: entries.Study, setting: axes.Setting, subjects: Sequence[str]
) -> list[entries.Entry]:
    here = [entry for entry in study.entries if entry.setting == setting]
    here.sort(key=lambda e: (e.key not in subjects, _mean_loss(e)))
    by_label: dict[str, entries.Entry] = {}
    for entry in here:
        by_label.setdefault(entry.label, entry)
    return list(by_label.values())[:_MOST_CURVES]


def _mean_loss(entry: entries.Entry) -> float:
    return float(np.mean(entry.scores()))


def _curve(entry: entries.Entry, look: style.Look) -> charts.Line:
    losses = np.stack([reading.losses for reading in entry.readings])
    count = losses.shape[1]
    smooth = curves_lib.trailing_mean(losses, max(1, count // 50))
    at = np.array(charts.spread(count, _POINTS))
    middle = smooth.mean(axis=0)[at]
    low, high = smooth.min(axis=0)[at], smooth.max(axis=0)[at]
    one = len(losses) == 1
    return charts.Line(
        label=entry.key,
        look=look,
        x=tuple(float(step) for step in at),
        y=tuple(middle.tolist()),
        low=() if one else tuple(low.tolist()),
        high=() if one else tuple(high.tolist()),
        sparse=True,
    )


def _top(lines: Sequence[charts.Line], horizon: int) -> float:
    """Return a loss that hides the first steps and what blew up."""
    after = [
        max(
            (y for x, y in zip(line.x, line.y, strict=True) if _late(x, y, horizon)),
            default=math.inf,
        )
        for line in lines
    ]
    finite = sorted(value for value in after if math.isfinite(value))
    if not finite:
        return math.inf
    # A line far above the middle one runs out of the panel.
    return min(finite[-1], 3 * finite[len(finite) // 2])


def _late(x: float, y: float, horizon: int) -> bool:
    return x >= 0.05 * horizon and math.isfinite(y)
