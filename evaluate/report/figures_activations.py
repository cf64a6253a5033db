"""Figures of stability: how far pre-activations move in training, by width.

Under a parametrization that transfers, the change of a layer's pre-activations is the
same at every width; where it grows with width, wide networks will blow up.
"""

import math
from collections.abc import Sequence

import numpy as np

from evaluate.report import charts, entries, style

_MOST_PANELS = 24
_PREFERRED = ("untouched", "fixed", "transferred", "per_cell", "published")


def changes(study: entries.Study) -> list[charts.Chart]:
    """Draw change against step, a panel per contender and layer, a line per width."""
    found = []
    for number, family in enumerate(dict.fromkeys(s.family for s in study.settings)):
        base = next(s for s in study.settings if s.family == family)
        groups: dict[str, list[entries.Entry]] = {}
        for entry in study.entries:
            if (
                entry.setting.family == family
                and entry.setting.depth == base.depth
                and entry.setting.horizon_steps == base.horizon_steps
                and entry.readings[0].result.activation_changes
            ):
                groups.setdefault(entry.label, []).append(entry)
        if groups:
            found.append(_chart(family, groups, number))
    return found


def _chart(
    family: str, groups: dict[str, list[entries.Entry]], number: int
) -> charts.Chart:
    panels, most = [], max(2, _MOST_PANELS // len(groups))
    for label, group in groups.items():
        chosen = _one_tuning(group)
        layers = list(chosen[0].readings[0].result.activation_changes)
        for i in charts.spread(len(layers), most):
            lines = _lines(chosen, layers[i])
            if lines:
                panels.append(
                    charts.LinePanel(
                        title=f"{label}: {layers[i]}",
                        xlabel="step",
                        ylabel="change of pre-activations",
                        lines=lines,
                        y_scale="log",
                    )
                )
    return charts.Chart(
        name="activation_changes" + (f"_{number + 1}" if number else ""),
        title=f"Change of pre-activations: {family}",
        caption=(
            "How far a layer's pre-activations are from their values at initialization "
            "(standard deviation over examples and units, mean over seeds), a line per "
            "width. Lines that lie on each other are stable; a fan that opens upwards "
            "with width is not. At most two dozen panels."
        ),
        panels=panels[:_MOST_PANELS],
        x_name="step",
        y_name="change",
    )


def _one_tuning(group: Sequence[entries.Entry]) -> list[entries.Entry]:
    for tuning in _PREFERRED:
        chosen = [entry for entry in group if entry.tuning == tuning]
        if chosen:
            return sorted(chosen, key=lambda entry: entry.setting.width)
    return list(group)


def _lines(chosen: Sequence[entries.Entry], layer: str) -> tuple[charts.Line, ...]:
    lines = []
    for i, entry in enumerate(chosen):
        results = [
            reading.result
            for reading in entry.readings
            if layer in reading.result.activation_changes
        ]
        if not results:
            continue
        steps = results[0].valid_steps
        within = steps <= entry.setting.horizon_steps
        # Runs that were stopped early have fewer; seeds share their steps otherwise.
        alike = [r for r in results if len(r.valid_steps) == len(steps)]
        values = np.mean([r.activation_changes[layer] for r in alike], axis=0)
        shown = np.where(np.isfinite(values) & (values > 0), values, math.nan)[within]
        if np.isnan(shown).all():
            continue
        lines.append(
            charts.Line(
                label=f"width {entry.setting.width:,}",
                look=style.size_look(i, len(chosen)),
                x=tuple(float(step) for step in steps[within]),
                y=tuple(shown.tolist()),
            )
        )
    return tuple(lines)
