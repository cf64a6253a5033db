"""Every figure of a report, in order, and how its lines look."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluate.report import (
    charts,
    entries,
    figures_activations,
    figures_losses,
    figures_rates,
    figures_rows,
    style,
)

# How a rate was found; a rule's other lines share its colour.
_DASHES = {"transferred": "--", "published": ":"}


def make(study: entries.Study, values: Mapping[str, Any]) -> list[charts.Chart]:
    """Return the figures that a study has data for.

    Args:
      study: What was run.
      values: As :func:`evaluate.report.summary.summarize` returns them.
    """
    looks = looks_of(study, values)
    found = [
        figures_losses.curves(study, values, looks),
        *figures_losses.final_losses(study, values, looks),
        *figures_rates.sensitivity(study, values, looks),
        figures_rows.profile(values, looks),
        figures_rows.improvement(values, looks),
        figures_rows.speedups(values, looks),
        figures_rows.costs(values, looks),
        figures_rows.ranks(values, looks),
        *figures_activations.changes(study),
        figures_rows.reference(values, looks),
    ]
    return [chart for chart in found if chart is not None and chart.panels]


def looks_of(study: entries.Study, values: Mapping[str, Any]) -> dict[str, style.Look]:
    """Return the look of each line and, under its label, of each contender.

    Subjects come first, then what has the lowest losses: figures that show only the
    best lines then have no two colours alike.
    """
    subjects = set(values["subjects"])
    places: dict[str, list[float]] = {}
    for setting in study.settings:
        here = [entry for entry in study.entries if entry.setting == setting]
        here.sort(key=lambda entry: _badness(entry))
        for place, entry in enumerate(here):
            places.setdefault(entry.label, []).append(place)
    own = {entry.label for entry in study.entries if entry.key in subjects}
    order = sorted(
        dict.fromkeys([*places, *(c.label for c in study.contenders)]),
        key=lambda x: (x not in own, float(np.mean(places.get(x, [math.inf])))),
    )
    found = style.looks(order)
    for entry in study.entries:
        dash = _DASHES.get(entry.tuning, "-")
        found[entry.key] = found[entry.label]._replace(dash=dash)
    return found


def _badness(entry: entries.Entry) -> float:
    mean = float(np.mean(entry.scores()))
    return mean if math.isfinite(mean) else math.inf
