"""Draw a run: ``python -m meta_train.plot runs/x``; several runs side by side.

Reads ``metrics.jsonl`` and writes ``progress.png`` into the (first) run's directory, or
where ``--output`` says. A run may go on meanwhile.
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from meta_train import workdir as workdir_lib

_COLUMNS = 3
_COLOURS = ("#3b6fb6", "#d1751f", "#3f8f4f", "#b03a3a", "#7a58a6", "#7c6a55")
_DASHES = ("-", "--", ":", "-.")  # Of the runs.
_OF_A_FAMILY = {  # By the end of a metric's name: title, whether logarithmic.
    "meta_loss": ("training loss by task (nats)", False),
    "grad_snr": ("signal to noise of the gradient", True),
    "grad_norm": ("norm of the gradient by task", True),
    "finished_frac": ("share of pairs that began anew", False),
    "diverged_frac": ("share of pairs that diverged", False),
    "clipped_frac": ("share of pairs whose difference was clipped", False),
    "loss_diff_rms": ("root mean square of L+ − L− by task", True),
    "objective": ("objective by task", False),
}
_OF_A_RUN = {
    "meta_loss": ("training loss (nats)", False),
    "objective": ("objective", False),
    "grad_norm": ("norm of the gradient", True),
    "probe/score": ("probes: log of the loss over the start's", False),
    "update_norm": ("norm of theta's update", True),
    "theta_norm": ("norm of theta", False),
    "inner_steps_per_s": ("inner steps per second", False),
    "seconds_left": ("seconds left", False),
    "memory_bytes": ("memory (bytes)", False),
}
_BY_PREFIX = {
    "learned/": ("what theta says by itself", True),
    "population/": ("objective of the members", False),
    "probe/": ("probes: final loss (nats)", False),
}

Rows = Sequence[Mapping[str, Any]]
Panel = tuple[str, bool, dict[str, tuple[list[int], list[float]]]]


def read(workdir: pathlib.Path) -> Rows:
    """Lines of a run's metrics; one that is being written is left out.

    Raises:
      ValueError: If there are none.
    """
    path = workdir / workdir_lib.METRICS
    if not path.is_file():
        raise ValueError(f"{workdir} holds no {path.name}: is it a run's workdir?")
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    if not rows:
        raise ValueError(f"{path} has no line yet: the first meta-step is not done.")
    return rows


def panels(rows: Rows) -> list[Panel]:
    """What there is to draw: title, whether logarithmic, lines by label."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    found: list[Panel] = []

    def add(title, log, labels):
        lines = {label: _line(rows, key) for label, key in labels.items()}
        lines = {label: line for label, line in lines.items() if line[0]}
        if lines:
            found.append((title, log, lines))

    for name, (title, log) in _OF_A_FAMILY.items():
        own = [k for k in keys if k.endswith(f"/{name}")]
        add(title, log, {key.removesuffix(f"/{name}"): key for key in own})
    lengths = [k for k in keys if "/meta_loss_" in k]
    short = {k: k.replace("/meta_loss_", ", ") for k in lengths}
    add("training loss by length of run", False, {short[k]: k for k in lengths})
    for name, (title, log) in _OF_A_RUN.items():
        if name in keys:
            add(title, log, {"": name})
    for prefix, (title, log) in _BY_PREFIX.items():
        own = [k for k in keys if k.startswith(prefix) and k not in _OF_A_RUN]
        add(title, log, {key.removeprefix(prefix): key for key in own})
    return found


def draw(runs: Mapping[str, Rows], path: pathlib.Path) -> None:
    """Draw runs, by their names, into an image; titles are shared panels."""
    from matplotlib.figure import Figure

    of_runs = {name: panels(rows) for name, rows in runs.items()}
    titles = list(dict.fromkeys(p[0] for found in of_runs.values() for p in found))
    count = -(-len(titles) // _COLUMNS)
    figure = Figure(figsize=(4.6 * _COLUMNS, 3.0 * count), layout="constrained")
    grid = figure.subplots(count, _COLUMNS, squeeze=False)
    flat = [axes for row in grid for axes in row]
    for axes in flat[len(titles) :]:
        axes.set_visible(False)
    for axes, title in zip(flat, titles, strict=False):
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        for r, (run, found) in enumerate(of_runs.items()):
            own = [panel for panel in found if panel[0] == title]
            for _, log, lines in own:
                axes.set_yscale("log" if log else "linear")
                for i, (label, (x, y)) in enumerate(lines.items()):
                    name = label if len(runs) == 1 else f"{run}: {label}".rstrip(": ")
                    axes.plot(
                        x,
                        y,
                        _DASHES[r % len(_DASHES)],
                        color=_COLOURS[i % len(_COLOURS)],
                        label=name or None,
                        linewidth=1.2,
                        marker="." if len(x) == 1 else None,
                    )
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=6)
    figure.supxlabel("meta-step", fontsize=9)
    figure.savefig(path, dpi=120)


def _line(rows, key):
    pairs = [(row["meta_step"], row[key]) for row in rows if key in row]
    pairs = [(x, y) for x, y in pairs if y is not None and math.isfinite(y)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the image and say where; an error is one line and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m meta_train.plot", description="Draw meta-training runs."
    )
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path, help="of the runs")
    parser.add_argument("--output", type=pathlib.Path, help="image; png, svg or pdf")
    given = parser.parse_args(argv)
    path = given.output or given.workdirs[0] / "progress.png"
    try:
        draw({str(workdir): read(workdir) for workdir in given.workdirs}, path)
    except (ValueError, OSError) as error:
        print(f"meta_train.plot: {error}", file=sys.stderr)
        sys.exit(2)
    print(path)


if __name__ == "__main__":
    main()
