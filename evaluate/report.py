"""Writes what a sweep found: results.csv, summary.json, PNGs and report.html."""

import base64
import html
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from evaluate import cells as cells_lib
from evaluate import files, optimizers, plots, summary, sweep, tables, thetas

_PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "matplotlib")
_CAPTIONS = {
    "final_loss": "Final loss against width. Bands: {interval}; dashed: not tuned; a "
    "cross at the top edge: seeds diverged there.",
    "curves": "Training loss at the learning rates of the table. Bands: all seeds; a "
    "line ends where a seed is not finite any more.",
    "tuning": "How the baselines were tuned. Rings mark the chosen rate; rates at "
    "which a seed diverged are left out. Under μP the minimum should not move.",
}
_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 70rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.lead { color: #555; margin-top: .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .92rem; }
th { text-align: right; border-bottom: 2px solid #bbb; padding: .3rem .8rem; }
td { text-align: right; border-bottom: 1px solid #eee; padding: .25rem .8rem;
  white-space: nowrap; }
td.left, th.left { text-align: left; } tr.first td { border-top: 2px solid #ddd; }
tr.best td { background: #eef6fb; }
.warnings { background: #fff8e6; border-left: 4px solid #e69f00;
  padding: .6rem 1rem .6rem 2rem; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: .9rem; }
pre { background: #f6f6f6; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; }
"""


def write(
    workdir: pathlib.Path,
    config: sweep.SweepConfig,
    results: Sequence[cells_lib.CellResult],
    *,
    command: str,
    config_json: str,
    theta_sources: Mapping[str, str],
) -> tuple[pathlib.Path, str]:
    """Write every output of a sweep, each atomically.

    Args:
      workdir: Gets results.csv, summary.json, report.html and plots/.
      config: The sweep.
      results: Of its cells, at least one.
      command: What the user ran, for the report.
      config_json: The whole configuration, for the report.
      theta_sources: Where each learned optimizer's theta came from.

    Returns:
      The path of report.html, and the main table laid out for a terminal.

    Raises:
      OSError: If the workdir cannot be written.
    """
    chosen = summary.entries(config, results)
    images = plots.all_plots(config, results, chosen)
    about = environment() | {"command": command, "thetas": dict(theta_sources)}
    values = summary.summarize(config, results, chosen) | {"environment": about}
    values["warnings"] += [
        f"{name}: its theta is random, never meta-trained; its losses say nothing of "
        "the rule."
        for name, source in theta_sources.items()
        if source == thetas.RANDOM
    ]
    table = tables.table(config, chosen)
    files.write_text(workdir / "results.csv", tables.results_csv(results))
    files.write_text(
        workdir / "summary.json",
        json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False) + "\n",
    )
    for name, image in images.items():
        files.write_bytes(workdir / "plots" / f"{name}.png", image)
    path = files.write_text(
        workdir / "report.html",
        page(config, values, chosen, table, images, config_json),
    )
    return path, tables.format_table(table, rule=True)


def environment() -> dict[str, Any]:
    """Return versions and hardware, as JSON-ready values."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_cores": os.cpu_count(),
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
    }


def page(
    config: sweep.SweepConfig,
    values: Mapping[str, Any],
    chosen: Sequence[summary.Entry],
    table: Sequence[Sequence[str]],
    images: Mapping[str, bytes],
    config_json: str,
) -> str:
    """Return report.html, which needs nothing beside itself."""
    interval = f"{100 * config.confidence_frac:g} % bootstrap interval over seeds"
    legend = "; ".join(
        f"<b>{name}</b>: {html.escape(optimizers.get(name).summary)}"
        for name in config.optimizers
    )
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>Widths: {html.escape(config.task)}</title>",
        f"<style>{_CSS}</style></head>",
        f"<body><h1>Generalization over width: {html.escape(config.task)}</h1>",
        f"<p class='lead'>{config.horizon_steps:,} steps, batches of "
        f"{config.batch_examples}, {config.num_seeds} seed"
        f"{'s' * (config.num_seeds > 1)}, {len(chosen)} entries from "
        f"{values['num_cells']} runs ({values['num_diverged_cells']} diverged, over "
        f"all learning rates).<br>{legend}.</p>",
    ]
    if values["warnings"]:
        items = "".join(f"<li>{html.escape(text)}</li>" for text in values["warnings"])
        parts.append(f"<ul class='warnings'>{items}</ul>")
    parts += [_figure("final_loss", images, interval)]
    parts += ["<h2>Results</h2>", _main_table(table, chosen)]
    if values["average_rank"]:
        ranks = sorted(values["average_rank"].items(), key=lambda item: item[1])
        text = ", ".join(f"{html.escape(k)} {v:.2f}" for k, v in ranks)
        parts.append(f"<p>Average rank of the training loss over widths: {text}.</p>")
    if values["comparisons"]:
        parts += ["<h2>Comparisons</h2>", _comparison_table(values["comparisons"])]
    parts += ["<h2>Loss curves</h2>", _figure("curves", images, interval)]
    if "tuning" in images:
        parts += ["<h2>Tuning</h2>", _figure("tuning", images, interval)]
    rules = "".join(
        f"<li>{html.escape(rule)}.</li>" for rule in values["rules"].values()
    )
    about = json.dumps(values["environment"], indent=1, ensure_ascii=False)
    parts += [
        f"<h2>Rules</h2><ul>{rules}</ul>",
        f"<h2>Command</h2><pre>{html.escape(values['environment']['command'])}</pre>",
        f"<h2>Versions and hardware</h2><pre>{html.escape(about)}</pre>",
        f"<h2>Configuration</h2><pre>{html.escape(config_json)}</pre>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _figure(name: str, images: Mapping[str, bytes], interval: str) -> str:
    caption = _CAPTIONS[name].format(interval=interval)
    data = base64.b64encode(images[name]).decode()
    return (
        f"<figure><img alt='{html.escape(caption, quote=True)}' "
        f"src='data:image/png;base64,{data}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _main_table(table: Sequence[Sequence[str]], chosen: Sequence[summary.Entry]) -> str:
    """Return the table as HTML, the lowest training loss of each width shaded."""
    best: dict[int, tuple[float, int]] = {}
    for i, entry in enumerate(chosen):
        scores = entry.scores("final_train_loss")
        if len(scores):
            best[entry.width] = min(
                best.get(entry.width, (float("inf"), -1)), (float(scores.mean()), i)
            )
    shaded = {i for _, i in best.values()}
    lines = [_row(table[0], "th")]
    previous = ""
    for i, row in enumerate(table[1:]):
        classes = ["first"] * (row[0] != previous) + ["best"] * (i in shaded)
        lines.append(_row(row, "td", " ".join(classes)))
        previous = row[0]
    return f"<div class='scroll'><table>{''.join(lines)}</table></div>"


def _comparison_table(comparisons: Sequence[Mapping[str, Any]]) -> str:
    header = ["width", "against", "optimizer", "train difference", "valid difference"]
    lines = [_row([*header, "speed-up, steps", "speed-up, time"], "th")]
    previous = None
    for item in comparisons:
        cells = [str(item["width"]), item["against"], item["label"]]
        for field in ("train_difference", "valid_difference"):
            found = item[field]
            cells.append(
                "–"
                if found is None
                else f"{found['estimate']:+.4f} "
                f"({found['low']:+.4f} … {found['high']:+.4f})"
            )
        for field in ("speedup_steps", "speedup_time"):
            cells.append("–" if item[field] is None else f"{item[field]:.2f}×")
        lines.append(_row(cells, "td", "first" if cells[0] != previous else ""))
        previous = cells[0]
    note = (
        "<p>Differences of final losses, optimizer minus the one it is compared with: "
        "negative is better. A dash: not reached, or all seeds diverged.</p>"
    )
    return f"{note}<div class='scroll'><table>{''.join(lines)}</table></div>"


def _row(cells: Sequence[str], tag: str, row_class: str = "") -> str:
    body = "".join(
        f"<{tag}{' class=left' if i == 1 else ''}>{html.escape(cell)}</{tag}>"
        for i, cell in enumerate(cells)
    )
    return f"<tr class='{row_class}'>{body}</tr>"


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":")[1] for line in lines if "model name" in line
        ).strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
