"""The page of a report: one HTML file that needs nothing beside itself."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from evaluate.report import (
    charts,
    entries,
    markup,
    page_matrix,
    page_results,
    plots,
    style,
)

_FOLDED_FROM = 6  # So many warnings or more are folded.
_CSS = pathlib.Path(__file__).with_name("page.css")


def page(
    study: entries.Study,
    values: Mapping[str, Any],
    figures: Sequence[charts.Chart],
    looks: Mapping[str, style.Look],
) -> str:
    """Return report.html.

    Args:
      study: What was run.
      values: As :func:`evaluate.report.summary.summarize` returns them.
      figures: Whose files lie in ``plots/`` beside the page.
      looks: Of the lines.
    """
    sections = [
        ("wins", "Wins and losses", page_matrix.section(values)),
        ("results", "Results", page_results.section(values, looks)),
        *((chart.name, chart.title, _figure(chart)) for chart in figures),
        ("rules", "Rules", _rules(values["rules"])),
        ("about", "How this was made", _about(values)),
    ]
    links = "".join(
        f'<a href="#{name}">{markup.text(title)}</a>' for name, title, _ in sections
    )
    body = "".join(
        f'<section id="{name}"><h2>{markup.text(title)}</h2>{content}</section>'
        for name, title, content in sections
    )
    title = markup.text(values["title"])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,">'
        f"<title>{title}</title>\n<style>{style_sheet()}</style></head>\n"
        f"<body><main><header><h1>{title}</h1>{_lead(study, values)}"
        f"{_verdict(values['verdict'])}</header>{_alerts(values)}"
        f'<nav aria-label="Contents">{links}</nav>\n{body}</main></body></html>\n'
    )


def style_sheet() -> str:
    """Return the style of the page with the colours of plots, light and dark."""
    light, dark = (
        "".join(f"--{name}:{pair[i]};" for name, pair in style.COLOURS.items())
        for i in (0, 1)
    )
    sheet = _CSS.read_text(encoding="utf-8")
    return sheet.replace("/* light */", light).replace("/* dark */", dark)


def _lead(study: entries.Study, values: Mapping[str, Any]) -> str:
    def count(number: int, word: str) -> str:
        return f"{number:,} {word}{'' if number == 1 else 's'}"

    config = study.config
    words = [
        count(len(values["settings"]), "setting"),
        count(len(values["keys"]), "line"),
        count(config.num_seeds, "seed"),
        count(study.num_cells, "run"),
        f"{study.num_diverged_cells:,} of them diverged, over all rates",
    ]
    return f'<p class="lead">{markup.text(" · ".join(words))}</p>'


def _verdict(sentences: Sequence[str]) -> str:
    paragraphs = "".join(f"<p>{markup.text(sentence)}</p>" for sentence in sentences)
    return f'<div class="verdict" role="note">{paragraphs}</div>'


def _alerts(values: Mapping[str, Any]) -> str:
    """Say what is missing, what failed and what to be careful with."""
    parts = []
    if values["not_run"]:
        lines = [f"{x['optimizer']}: {x['reason']}" for x in values["not_run"]]
        parts.append(
            f'<div class="alert"><h2>Not run</h2>{markup.bullets(lines)}</div>'
        )
    if values["failures"]:
        parts.append(
            '<div class="alert bad"><h2>Failed</h2>'
            f"{markup.bullets(values['failures'])}</div>"
        )
    warnings = values["warnings"]
    if len(warnings) >= _FOLDED_FROM:
        inner = markup.folded(f"{len(warnings)} warnings", markup.bullets(warnings))
        parts.append(f'<div class="alert">{inner}</div>')
    elif warnings:
        parts.append(
            f'<div class="alert"><h2>Warnings</h2>{markup.bullets(warnings)}</div>'
        )
    return "".join(parts)


def _figure(chart: charts.Chart) -> str:
    panels = []
    for i, panel in enumerate(chart.panels):
        alt = markup.text(f"{chart.title}. {panel.title}.")
        drawn = plots.inline(panel, f"{chart.name}-{i}", alt)
        own = ""
        if isinstance(panel, charts.LinePanel) and panel.own_legend:
            own = markup.legend({line.label: line.look for line in panel.lines})
        panels.append(
            f'<div class="panel"><h3>{markup.text(panel.title)}</h3>{drawn}{own}</div>'
        )
    name = chart.name
    legend = markup.legend(chart.legend) if chart.legend else ""
    table = markup.data_link(chart.csv(), f"{name}.csv", "data, in this page")
    files = "".join(
        f'<a href="plots/{name}.{kind}">{kind.upper()}</a>'
        for kind in ("png", "svg", "csv")
    )
    wide = " one" if len(panels) == 1 else ""
    return (
        f'<figure aria-label="{markup.text(chart.title)}">{legend}'
        f'<div class="panels{wide}">{"".join(panels)}</div>'
        f"<figcaption>{markup.text(chart.caption)}"
        f'<span class="files">{table}{files}</span></figcaption></figure>'
    )


def _rules(rules: Mapping[str, str]) -> str:
    items = "".join(
        f"<dt>{markup.text(name.replace('_', ' '))}</dt><dd>{markup.text(rule)}</dd>"
        for name, rule in rules.items()
    )
    return f"<dl>{items}</dl>"


def _by_flag(command: str) -> str:
    """Break a command before each of its flags, as a shell takes it."""
    return re.sub(r" (?='?--)", " \\\\\n    ", command)


def _about(values: Mapping[str, Any]) -> str:
    def block(content: object) -> str:
        if not isinstance(content, str):
            content = json.dumps(content, indent=1, ensure_ascii=False)
        return f'<pre tabindex="0">{markup.text(content)}</pre>'

    return (
        f"<h3>Command</h3>{block(_by_flag(values.get('command', '')))}"
        f"<h3>Versions and hardware</h3>{block(values.get('environment', {}))}"
        f"{markup.folded('Configuration', block(values.get('config', {})))}"
    )
