"""Figures of learning rates: how wide each basin is, and whether its bottom moves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluate.report import charts, entries, style
from evaluate.report.figures_losses import MOST_PANELS, Looks, capped
from evaluate.sweep import axes

_MOST_RELATIVE_PANELS = 6
_MOST_LINES = 9
_HIGHEST_PERCENT = 25.0
_HIGHEST_MULTIPLE = 1.6  # Of the lowest loss in a panel.


def sensitivity(
    study: entries.Study, values: Mapping[str, Any], looks: Looks
) -> list[charts.Chart]:
    """Draw losses against rates relative to the best, and absolute ones by width."""
    return [_relative(study, values, looks), _by_width(study)]


def _relative(
    study: entries.Study, values: Mapping[str, Any], looks: Looks
) -> charts.Chart:
    with_curves = [
        s for s in study.settings if any(c.setting == s for c in study.rate_curves)
    ]
    shown = capped(with_curves, _MOST_RELATIVE_PANELS)
    panels = []
    for setting in shown:
        lines = _basins(study, values, setting, looks)
        if lines:
            highest = max(y for line in lines for y in line.y if math.isfinite(y))
            panels.append(
                charts.LinePanel(
                    title=setting.label,
                    xlabel="rate / best rate",
                    ylabel="loss above its best (%)",
                    lines=lines,
                    x_scale="log",
                    y_scale="linear",
                    y_limits=(-0.5, min(_HIGHEST_PERCENT, max(4.0, 1.15 * highest))),
                    reference=1.0,
                    own_legend=True,
                )
            )
    return charts.Chart(
        name="rate_sensitivity",
        title="Sensitivity to the learning rate",
        caption=(
            "Final training loss above each line's own best, over the rate relative to "
            "its best; for rules used as meta-trained, the factor λ on their step. The "
            "legend gives the width of the basin within 1 % (thin line) in decades: "
            "wider is easier to tune; ≥: the basin is open, wider than what was tried. "
            "A cross at the top: diverged."
            + charts.part_of(len(shown), len(with_curves), "settings")
        ),
        panels=panels,
        x_name="rate_over_best",
        y_name="percent_above_best",
    )


def _basins(
    study: entries.Study,
    values: Mapping[str, Any],
    setting: axes.Setting,
    looks: Looks,
) -> tuple[charts.Line, ...]:
    own = {entry.label for entry in study.entries if entry.key in values["subjects"]}
    best = _best_by_label(c for c in study.rate_curves if c.setting == setting)
    order = sorted(best.values(), key=lambda c: c.contender.label not in own)
    lines = []
    for curve in order[:_MOST_LINES]:
        label = curve.contender.label
        at = _argmin(curve.losses)
        assert at is not None  # Curves without a finite loss were left out.
        lowest = curve.losses[at]
        if not lowest > 0:
            continue
        width = _decades(values["basins"], study.settings.index(setting), curve)
        lines.append(
            charts.Line(
                label=f"{label}{width}",
                look=looks[label],
                x=tuple(rate / curve.rates[at] for rate in curve.rates),
                y=tuple(
                    100 * (x / lowest - 1) if math.isfinite(x) else math.inf
                    for x in curve.losses
                ),
            )
        )
    return tuple(lines)


def _decades(
    basins: Sequence[Mapping[str, Any]], setting: int, curve: entries.RateCurve
) -> str:
    for basin in basins:
        if (basin["setting"], basin["label"], basin["schedule"]) == (
            setting,
            curve.contender.label,
            curve.schedule,
        ):
            is_open = basin["open_low"] or basin["open_high"]
            return f" · {'≥ ' if is_open else ''}{basin['decades']:.2f} decades"
    return ""


def _by_width(study: entries.Study) -> charts.Chart:
    """Draw a panel per rule and family with a line per width."""
    panels = []
    for contender in study.contenders:
        for family in dict.fromkeys(s.family for s in study.settings):
            base = next(s for s in study.settings if s.family == family)
            here = _best_by_setting(
                c
                for c in study.rate_curves
                if c.contender.label == contender.label
                and c.setting.family == family
                and c.setting.depth == base.depth
                and c.setting.horizon_steps == base.horizon_steps
            )
            widths = sorted({setting.width for setting in here})
            if len(widths) < 2:
                continue
            lines = tuple(
                _absolute(curve, widths)
                for _, curve in sorted(here.items(), key=lambda x: x[0].width)
            )
            lowest = min(y for line in lines for y in line.y)
            panels.append(
                charts.LinePanel(
                    title=f"{contender.label}, {family}",
                    xlabel="λ"
                    if contender.spec.step_size == "lambda"
                    else "learning rate",
                    ylabel="final training loss",
                    lines=lines,
                    x_scale="log",
                    y_limits=(-math.inf, _HIGHEST_MULTIPLE * lowest),
                )
            )
    more = len(panels) - MOST_PANELS
    return charts.Chart(
        name="rates_by_width",
        title="Does the best rate move with width?",
        caption=(
            "Final training loss against the learning rate, a line per width; rings "
            "mark the best. Where rates transfer over width, the minimum stays where "
            "it is. A cross at the top: diverged."
            + (f" {more} more panels are left out." if more > 0 else "")
        ),
        panels=panels[:MOST_PANELS],
        x_name="learning_rate",
        y_name="train_loss",
    )


def _absolute(curve: entries.RateCurve, widths: Sequence[int]) -> charts.Line:
    width = curve.setting.width
    return charts.Line(
        label=f"width {width:,}",
        look=style.size_look(widths.index(width), len(widths)),
        x=curve.rates,
        y=curve.losses,
        ring=_argmin(curve.losses),
    )


def _best_by_label(curves) -> dict[str, entries.RateCurve]:
    """Return the curve with the lowest loss of each contender's schedules."""
    return _best(curves, lambda curve: curve.contender.label)


def _best_by_setting(curves) -> dict[axes.Setting, entries.RateCurve]:
    return _best(curves, lambda curve: curve.setting)


def _best(curves, key) -> dict:
    found: dict[Any, entries.RateCurve] = {}
    for curve in curves:
        at = _argmin(curve.losses)
        if at is None:
            continue
        other = found.get(key(curve))
        if other is None or curve.losses[at] < min(other.losses):
            found[key(curve)] = curve
    return found


def _argmin(losses: Sequence[float]) -> int | None:
    """Return where the lowest finite loss is, or None."""
    finite = [i for i, loss in enumerate(losses) if math.isfinite(loss)]
    return min(finite, key=lambda i: losses[i]) if finite else None
