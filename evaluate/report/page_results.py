"""The tables of results of a report: every line, setting by setting."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluate.report import markup, style

_OPEN_SETTINGS = 6
_MEASURES = (
    ("train_loss", "training"),
    ("valid_loss", "validation"),
    ("best_valid_loss", "early-stopped"),
)


def section(values: Mapping[str, Any], looks: Mapping[str, style.Look]) -> str:
    """Return a table per setting, folded where there are many.

    Args:
      values: As :func:`evaluate.report.summary.summarize` returns them.
      looks: Of the lines, as figures show them.
    """
    parts = []
    for setting in values["settings"]:
        found = [e for e in values["entries"] if e["setting"] == setting["index"]]
        if not found:
            continue
        table = _table(found, values["subjects"], looks, setting["label"])
        if len(values["settings"]) > _OPEN_SETTINGS:
            parts.append(markup.folded(setting["label"], table, is_open=not parts))
        else:
            parts.append(f"<h3>{markup.text(setting['label'])}</h3>{table}")
    note = (
        '<p class="note">Sorted by final training loss; small: the interval over '
        "seeds. Bold: the lowest of its column. A rate with * may not be the best: "
        "its search ended at an open side. "
        f"{markup.data_link(_csv(values), 'results_by_line.csv', 'As CSV')}</p>"
    )
    return note + "".join(parts)


def _table(
    found: Sequence[Mapping[str, Any]],
    subjects: Sequence[str],
    looks: Mapping[str, style.Look],
    caption: str,
) -> str:
    order = sorted(found, key=lambda e: (_estimate(e, "train_loss"), e["num_diverged"]))
    with_accuracy = any(e["valid_accuracy"] for e in found)
    best = {m: min(_estimate(e, m) for e in found) for m, _ in _MEASURES}
    # Losses first: on a phone they are what is seen without scrolling.
    heads = [word for _, word in _MEASURES]
    heads += ["accuracy"] * with_accuracy
    heads += ["diverged", "rate", "ms/step", "tuning steps"]
    rows = []
    for entry in order:
        cells = [_interval(entry, m, best[m]) for m, _ in _MEASURES]
        if with_accuracy:
            accuracy = entry["valid_accuracy"]
            cells.append(f"{100 * accuracy['estimate']:.1f} %" if accuracy else "–")
        bad = entry["num_diverged"]
        seeds = f"{bad} of {entry['num_seeds']}"
        cells.append(f'<strong class="alarm">✕ {seeds}</strong>' if bad else seeds)
        cells.append(_rate(entry))
        cells.append(f"{1e3 * entry['secs_per_step']:.2f}")
        cells.append(f"{entry['tuning_steps']:,}" if entry["tuning_steps"] else "0")
        look = looks.get(entry["key"])
        name = (markup.swatch(look) if look else "") + (
            f"<span>{markup.line_name(entry['key'])}</span>"
        )
        row_class = ' class="subject"' if entry["key"] in subjects else ""
        rows.append(
            f'<tr{row_class}><th class="name" scope="row">{name}</th>'
            f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    head = "".join(f'<th scope="col">{word}</th>' for word in heads)
    table = (
        f'<table class="results"><thead><tr><th class="name">line</th>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
    )
    return markup.scrolled(table, f"Results: {caption}")


def _rate(entry: Mapping[str, Any]) -> str:
    rate = f"{entry['learning_rate']:.3g}"
    if entry["tuning"] == "untouched":
        return f"λ = {rate}"
    star = "*" if entry["interior"] is False else ""
    return f"{rate}{star}<small>{markup.text(entry['schedule'])}</small>"


def _interval(entry: Mapping[str, Any], measure: str, best: float) -> str:
    found = entry[measure]
    if found is None:
        all_bad = entry["num_diverged"] == entry["num_seeds"]
        return '<span class="alarm">diverged</span>' if all_bad else "–"
    written = markup.loss(found["estimate"])
    if found["estimate"] == best:
        written = f"<b>{written}</b>"
    if found["low"] == found["high"]:
        return written
    ends = f"{markup.loss(found['low'])} … {markup.loss(found['high'])}"
    return f"{written}<small>{ends}</small>"


def _estimate(entry: Mapping[str, Any], measure: str) -> float:
    found = entry[measure]
    return math.inf if found is None else found["estimate"]


def _field(value: object) -> object:
    if value is None:
        return ""
    return f"{value:.7g}" if isinstance(value, float) else value


def _csv(values: Mapping[str, Any]) -> str:
    measures = [*(m for m, _ in _MEASURES), "valid_accuracy", "area_under_curve"]
    plain = ("key", "tuning", "schedule", "learning_rate", "interior")
    counts = ("num_seeds", "num_diverged", "secs_per_step")
    costs = ("tuning_runs", "tuning_steps")
    ends = [f"{m}{end}" for m in measures for end in ("", "_low", "_high")]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["setting", *plain, *ends, *counts, *costs])
    labels = {s["index"]: s["label"] for s in values["settings"]}
    for entry in values["entries"]:
        row = [labels[entry["setting"]], *(entry[field] for field in plain)]
        for measure in measures:
            found = entry[measure] or {}
            row += [found.get(end) for end in ("estimate", "low", "high")]
        row += [entry[field] for field in (*counts, *costs)]
        writer.writerow([_field(value) for value in row])
    return buffer.getvalue()
