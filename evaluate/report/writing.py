"""Writes the report of a study: report.html, and its figures as files beside it."""

import pathlib
from collections.abc import Mapping
from typing import Any

from evaluate.report import entries, figures, page, plots, style
from mulo import _files as files


def write(
    workdir: pathlib.Path, study: entries.Study, values: Mapping[str, Any]
) -> pathlib.Path:
    """Write report.html, and each figure as PNG, SVG and CSV; each file atomically.

    Args:
      workdir: Gets report.html and ``plots/``.
      study: What was run.
      values: As :func:`evaluate.report.summary.summarize` returns them.

    Returns:
      The path of report.html.

    Raises:
      OSError: If the workdir cannot be written.
    """
    made = figures.make(study, values)
    for chart in made:
        base = workdir / "plots" / chart.name
        drawn = plots.draw(chart)
        files.write(base.with_suffix(".png"), style.png(drawn))
        files.write(base.with_suffix(".svg"), style.svg(drawn, chart.name))
        files.write(base.with_suffix(".csv"), chart.csv())
    text = page.page(study, values, made, figures.looks_of(study, values))
    return files.write(workdir / "report.html", text)
