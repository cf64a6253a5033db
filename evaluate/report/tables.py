"""Tables of a sweep: results.csv and results.parquet, and text for a terminal.

``results.csv`` has one line per run; :data:`SCHEMA` says what its columns hold.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import polars

from evaluate.sweep import readings as readings_lib

# Column, type, meaning. Losses are the task's own: nats per example or token, or
# squared error per pixel; empty (null) where a run was not finite.
SCHEMA: tuple[tuple[str, Any, str], ...] = (
    ("task", polars.String, "full name of the task; sp- is the standard twin"),
    ("width", polars.Int64, "units or channels"),
    ("depth", polars.Int64, "layers before the readout"),
    ("horizon_steps", polars.Int64, "steps of the run"),
    ("optimizer", polars.String, "name in evaluate/optimizers/names.py"),
    ("schedule", polars.String, "of the learning rate"),
    ("learning_rate", polars.Float64, "or λ, for rules used as meta-trained"),
    ("seed", polars.Int64, "of initial parameters and batches"),
    ("batch_size", polars.Int64, "examples per step"),
    ("hyper", polars.String, "other hyper-parameters, name=value"),
    ("theta_sha256", polars.String, "of a learned rule and its theta; else empty"),
    ("initial_train_loss", polars.Float64, "minibatch loss before the first update"),
    ("final_train_loss", polars.Float64, "mean minibatch loss of the last 5 %"),
    ("area_under_curve", polars.Float64, "mean minibatch loss of all steps"),
    ("final_valid_loss", polars.Float64, "whole validation split, at the end"),
    ("best_valid_loss", polars.Float64, "lowest of the validations on the way"),
    ("final_valid_accuracy", polars.Float64, "fraction right; null without labels"),
    ("diverged", polars.Boolean, "see the report's rule"),
    ("first_nonfinite_step", polars.Int64, "null if there is none"),
    ("secs_per_step", polars.Float64, "wall clock without compilation"),
    ("lanes", polars.Int64, "runs side by side when it was timed"),
    ("definition_sha256", polars.String, "begins the end of the cell's file name"),
)


def results(readings: Sequence[readings_lib.Reading]) -> polars.DataFrame:
    """Return one row per run, sorted."""
    rows = [_row(reading) for reading in readings]
    types = {name: kind for name, kind, _ in SCHEMA}
    table = polars.DataFrame(rows, schema=types, orient="row", nan_to_null=True)
    keys = ["task", "horizon_steps", "optimizer", "schedule", "learning_rate", "seed"]
    return table.with_columns(polars.col(polars.Float64).fill_nan(None)).sort(
        ["width", "depth", *keys]
    )


def csv(table: polars.DataFrame) -> bytes:
    """Return a table as CSV with a header; null is empty."""
    return table.write_csv().encode()


def parquet(table: polars.DataFrame) -> bytes:
    """Return a table as a parquet file."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def _row(reading: readings_lib.Reading) -> dict[str, Any]:
    cell, program = reading.result.cell, reading.result.cell.program
    values: dict[str, Any] = {
        "task": str(program.task),
        "width": program.task.width,
        "depth": program.task.depth,
        "learning_rate": cell.learning_rate,
        "seed": cell.seed,
        "hyper": " ".join(f"{k}={v:g}" for k, v in program.hyper),
        "lanes": reading.result.lanes,
        "definition_sha256": cell.digest(),
    }
    for column, _, _ in SCHEMA:
        for source in (reading, program):
            if column not in values and hasattr(source, column):
                values[column] = getattr(source, column)
    return {column: values[column] for column, _, _ in SCHEMA}


def entries(values: Mapping[str, Any]) -> list[list[str]]:
    """Return a terminal's table of a summary's entries: a header, then rows.

    Args:
      values: As :func:`evaluate.report.summary.summarize` returns them.
    """
    rows = [["setting", "optimizer", "rate", "train loss", "interval", "valid loss"]]
    rows[0] += ["diverged", "ms/step"]
    for entry in values["entries"]:
        train, valid = entry["train_loss"], entry["valid_loss"]
        rate = f"{entry['learning_rate']:.3g}"
        if entry["schedule"] != "constant":
            rate = f"{entry['schedule']} {rate}"
        rows.append(
            [
                short(values["settings"][entry["setting"]]),
                entry["key"],
                f"{rate}{'*' if entry['interior'] is False else ''}",
                "–" if train is None else format_loss(train["estimate"]),
                "–"
                if train is None
                else f"{format_loss(train['low'])} … {format_loss(train['high'])}",
                "–" if valid is None else format_loss(valid["estimate"]),
                f"{entry['num_diverged']}/{entry['num_seeds']}",
                f"{1e3 * entry['secs_per_step']:.2f}",
            ]
        )
    order = sorted(
        range(1, len(rows)), key=lambda i: values["entries"][i - 1]["setting"]
    )
    return [rows[0], *(rows[i] for i in order)]


def short(setting: Mapping[str, Any]) -> str:
    """Write a setting's name for a narrow column."""
    return f"{setting['task']} ×{setting['horizon_steps']:,}"


def format_loss(loss: float) -> str:
    """Write a loss with four decimals, or with three digits where it is tiny."""
    return f"{loss:.4f}" if loss == 0 or abs(loss) >= 0.01 else f"{loss:.2e}"


def format_table(rows: Sequence[Sequence[str]], *, rule: bool = False) -> str:
    """Lay a table out for a terminal.

    Args:
      rows: The header, then the rows; all of one length.
      rule: Whether to draw a line where the first column changes, and to write what
        is in it only there.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines, previous = [], None
    for row in rows:
        if len(lines) == 1 or (rule and lines and row[0] != previous):
            lines.append("  ".join("─" * width for width in widths))
        cells = [
            text.ljust(width) if i == 1 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
        previous = row[0]
    return "\n".join(lines)
