"""Tables of a sweep: results.csv, the report's main table, text for a terminal."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from evaluate import cells as cells_lib
from evaluate import summary, sweep


def results_csv(results: Sequence[cells_lib.CellResult]) -> str:
    """Return one line per cell, with a header."""
    columns: Sequence[str] = (
        "task,width,optimizer,learning_rate,seed,horizon_steps,batch_size,"
        "initial_train_loss,final_train_loss,final_valid_loss,final_valid_accuracy,"
        "diverged,first_nonfinite_step,secs_per_step,lanes,hyper,theta_sha256,"
        "definition_sha256"
    ).split(",")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for result in sorted(results, key=lambda r: (summary.width_of(r), r.cell)):
        cell, program = result.cell, result.cell.program
        fields: dict[str, Any] = {
            c: getattr(result, c) for c in columns if hasattr(result, c)
        }
        fields |= {c: getattr(program, c) for c in columns if hasattr(program, c)}
        fields |= {
            "width": summary.width_of(result),
            "learning_rate": cell.learning_rate,
            "seed": cell.seed,
            "hyper": " ".join(f"{k}={v:g}" for k, v in program.hyper),
            "definition_sha256": cell.digest(),
        }
        writer.writerow(fields)
    return text.getvalue()


def table(
    config: sweep.SweepConfig, chosen: Sequence[summary.Entry]
) -> list[list[str]]:
    """Return the report's main table: a header row, then one row per entry."""
    interval = f"{100 * config.confidence_frac:g} % interval"
    header = f"width|optimizer|lr|train loss|{interval}|valid loss|valid acc."
    rows = [[*header.split("|"), "diverged", "ms/step"]]
    for entry in chosen:
        train = summary.interval(config, entry, "final_train_loss")
        valid = summary.interval(config, entry, "final_valid_loss")
        accuracy = summary.interval(config, entry, "final_valid_accuracy")
        edge = {"lowest": " ↓edge", "highest": " ↑edge"}.get(entry.lr_at_edge or "", "")
        rows.append(
            [
                str(entry.width),
                entry.label,
                f"{entry.learning_rate:g}{edge}",
                "–" if train is None else format_loss(train.estimate),
                "–"
                if train is None
                else f"{format_loss(train.low)} … {format_loss(train.high)}",
                "–" if valid is None else format_loss(valid.estimate),
                "–" if accuracy is None else f"{100 * accuracy.estimate:.1f} %",
                f"{entry.num_diverged}/{len(entry.results)}",
                f"{1e3 * entry.secs_per_step():.2f}",
            ]
        )
    return rows


def format_loss(loss: float) -> str:
    """Write a loss with four decimals, or with three digits where it is tiny."""
    return f"{loss:.4f}" if loss == 0 or abs(loss) >= 0.01 else f"{loss:.2e}"


def format_table(rows: Sequence[Sequence[str]], *, rule: bool = False) -> str:
    """Lay a table out for a terminal.

    Args:
      rows: The header, then the rows; all of one length.
      rule: Whether to draw a line where the first column changes.
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
