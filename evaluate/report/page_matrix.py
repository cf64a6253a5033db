"""The matrices of a report: where a line wins and loses, against whom, by how much.

Readable without colour (a sign and a symbol say the same) and without scripts: the
measure is switched by radio buttons and style alone.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from evaluate.report import markup

_MEASURES = {
    "train": "Training",
    "valid": "Validation",
    "best_valid": "Early-stopped validation",
}
_LONG = {
    "train": "final training loss",
    "valid": "final validation loss",
    "best_valid": "lowest validation loss on the way",
}
_SYMBOLS = {1: "▲", -1: "▼", 0: "≈"}
_WORDS = {1: "won", -1: "lost", 0: "undecided"}
_KINDS = {"learned": "learned", "null": "null model"}  # The others go without saying.
_SHADES = (0.02, 0.1)  # Margins from which a cell is darker.


def section(values: Mapping[str, Any]) -> str:
    """Return the matrices of all subjects.

    Args:
      values: As :func:`evaluate.report.summary.summarize` returns them.
    """
    parts = [_legend(values)]
    subjects = dict.fromkeys(m["subject"] for m in values["matrices"])
    for number, subject in enumerate(subjects):
        found = [m for m in values["matrices"] if m["subject"] == subject]
        body = _switch(values, found, f"m{number}")
        if len(subjects) <= 2:
            parts.append(f"<h3>{markup.text(subject)}</h3>{body}")
        else:
            parts.append(markup.folded(subject, body, is_open=number == 0))
    if not subjects:
        parts.append("<p>There is no other line to compare with.</p>")
    return "".join(parts)


def _legend(values: Mapping[str, Any]) -> str:
    known = any(s["in_range"] for s in values["settings"])
    inside = " A dot over a column: within the sizes of meta-training." if known else ""
    return (
        '<p class="note">Each cell: by how much the subject’s loss is below (−) or '
        "above (+) the other’s. "
        '<span class="chip win2">▲ subject wins</span> '
        '<span class="chip loss2">▼ loses</span> '
        '<span class="chip tie">≈ undecided</span> '
        f"Deeper colours from 2 and 10 %.{inside}</p>"
    )


def _switch(
    values: Mapping[str, Any], matrices: Sequence[Mapping[str, Any]], name: str
) -> str:
    """Return the matrices of a subject, one per measure, of which one is seen."""
    buttons, tables = [], []
    for i, matrix in enumerate(matrices):
        measure = matrix["measure"]
        title = _MEASURES.get(measure, measure)
        buttons.append(
            f'<input type="radio" name="{name}" id="{name}-{i}"'
            f"{' checked' * (i == 0)}>"
            f'<label for="{name}-{i}">{markup.text(title)}</label>'
        )
        caption = f"{_LONG.get(measure, measure)} of {matrix['subject']}"
        tables.append(
            f'<div class="pane"><p class="pane-title">{markup.text(caption)}</p>'
            f"{_table(values, matrix, caption)}</div>"
        )
    return f'<div class="switch">{"".join(buttons)}{"".join(tables)}</div>'


def _table(values: Mapping[str, Any], matrix: Mapping[str, Any], caption: str) -> str:
    if not matrix["rows"]:
        return "<p>There is no other line to compare with.</p>"
    used = {cell["setting"] for row in matrix["rows"] for cell in row["cells"]}
    settings = [s for s in values["settings"] if s["index"] in used]
    # Stable: families side by side, each in the order of the sweep.
    families = list(dict.fromkeys(s["family"] for s in settings))
    settings.sort(key=lambda s: families.index(s["family"]))
    rows = "".join(
        _row(row, settings, values["kinds"].get(row["opponent"], ""))
        for row in matrix["rows"]
    )
    table = (
        f'<table class="matrix"><thead>{_head(settings, matrix["subject"])}</thead>'
        f"<tbody>{rows}</tbody></table>"
    )
    return markup.scrolled(table, caption)


def _head(settings: Sequence[Mapping[str, Any]], subject: str) -> str:
    groups = [
        (family, list(group))
        for family, group in itertools.groupby(settings, key=lambda s: s["family"])
    ]
    fields = markup.varying(settings)
    first = '<th class="name" rowspan="2">against</th><th rowspan="2">won</th>'
    spans = "".join(
        f'<th class="family" colspan="{len(group)}">{markup.text(family)}</th>'
        for family, group in groups
    )
    columns = []
    for setting in settings:
        sizes = markup.compact(setting, fields) or markup.compact(
            setting, ("width", "depth", "horizon_steps")
        )
        dot = '<span class="dot" title="within the sizes of meta-training">●</span>'
        inside = dot if setting["in_range"].get(subject) else ""
        label = markup.text(setting["label"])
        columns.append(
            f'<th class="size" title="{label}">{inside}'
            f"{''.join(f'<span>{markup.text(size)}</span>' for size in sizes)}</th>"
        )
    return f"<tr>{first}{spans}</tr><tr>{''.join(columns)}</tr>"


def _row(
    row: Mapping[str, Any], settings: Sequence[Mapping[str, Any]], kind: str
) -> str:
    by_setting = {cell["setting"]: cell for cell in row["cells"]}
    cells = "".join(_cell(by_setting.get(s["index"])) for s in settings)
    name = markup.line_name(row["opponent"], _KINDS.get(kind, ""))
    return (
        f'<tr><th class="name" scope="row">{name}</th>'
        f"{_win_rate(row['win_rate'])}{cells}</tr>"
    )


def _win_rate(rate: Mapping[str, Any] | None) -> str:
    if rate is None:
        return '<td class="rate">–</td>'
    counts = f"{rate['wins']}–{rate['ties']}–{rate['losses']}"
    title = (
        f"{rate['wins']} won, {rate['ties']} undecided, {rate['losses']} lost; win "
        f"rate {100 * rate['rate']:.0f} % "
        f"({100 * rate['low']:.0f} … {100 * rate['high']:.0f} %)"
    )
    return (
        f'<td class="rate" title="{markup.text(title)}">{100 * rate["rate"]:.0f} %'
        f"<small>{counts}</small></td>"
    )


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["outcome"] is None:
        return '<td class="none">–</td>'
    outcome, margin = cell["outcome"], cell["margin_frac"]
    name = {1: "win", -1: "loss"}.get(outcome)
    shade = "tie"
    if name:
        size = 1.0 if margin is None else abs(margin)
        shade = f"{name}{1 + sum(size >= limit for limit in _SHADES)}"
    written = "diverged"
    if margin is not None:
        written = markup.percent(margin, 0 if abs(margin) >= 0.995 else 1)
    title = _WORDS[outcome]
    if cell["p_value"] is not None:
        title += f", p = {cell['p_value']:.2g}"
    return (
        f'<td class="{shade}" title="{markup.text(title)}">'
        f"<b>{_SYMBOLS[outcome]}</b>{written}</td>"
    )
