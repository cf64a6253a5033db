"""One call of ``python -m evaluate``: load, plan, compute what is missing, report."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections

from evaluate.report import entries, reference, summary, tables, writing
from evaluate.sweep import (
    axes,
    contenders,
    costs,
    engine,
    environment,
    failures,
    plan,
    worker,
)
from evaluate.sweep import cells as cells_lib
from mulo import _files as files


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    theta: Sequence[str] = (),
    sp_theta: str | None = None,
    shard: str = "1/1",
    command: str = "",
    list_only: bool = False,
    dry_run: bool = False,
) -> int:
    """Run a sweep, or its shard, and report when every cell is there.

    Args:
      config: As ``configs/evaluate/base.py`` makes it.
      workdir: Gets ``cells/`` and, at the end, the report.
      theta: Thetas of learned optimizers, as in :mod:`evaluate.optimizers.thetas`.
      sp_theta: A theta for those under the standard parametrization.
      shard: ``i/n``; other shards may run at the same time in the same workdir.
      command: For the report.
      list_only: List the programs of the sweep and what there is of them, run nothing.
      dry_run: Estimate time and memory, run nothing.

    Returns:
      Exit status: 0; 1 when cells failed. A shard that ends before the others is
      complete too.

    Raises:
      ValueError: If the configuration, a theta or the shard is wrong.
      OSError: If the workdir cannot be written.
    """
    sweep = axes.SweepConfig.from_dict(config.to_dict())
    curves = reference.load(sweep.reference_curves)
    entered, not_run = contenders.enter(sweep, theta, sp_theta)
    units = plan.units(sweep, entered, plan.data_sizes(sweep))
    mine = cells_lib.shard(units, shard)
    folder = workdir / "cells"
    for missing in not_run:
        print(f"not run: {missing.optimizer}: {missing.reason}")
    if list_only or dry_run:
        print(_overview(sweep, units, mine, folder, estimate=dry_run))
        return 0
    config_json = _of_the_sweep(config).to_json(indent=1)
    for line in _changes(workdir / "config.json", config_json):
        print(line)
    # Says so now, not after an hour, when the workdir cannot be written.
    files.write(workdir / "config.json", config_json + "\n")
    outcome = engine.run(sweep, units, mine, folder)
    print(f"{outcome.num_cells_run} cells run.")
    for failure in outcome.failures:
        print(f"FAILED: {failure.what}: {failure.reason}")
    if outcome.num_waiting:
        print(
            f"{outcome.num_waiting} programs wait for rates that another shard finds: "
            "run the command once more when the others are done."
        )
    rates = engine.transferred(sweep, units, folder)
    if _is_incomplete(sweep, units, folder, rates):
        print(
            "Some cells belong to shards that are not done; the last one to finish, or "
            "the command without --shard, writes the report."
        )
        return 1 if outcome.failures else 0
    found, rate_curves, readings = entries.collect(sweep, entered, units, folder, rates)
    study = entries.Study(
        config=sweep,
        settings=sweep.settings,
        contenders=tuple(entered),
        not_run=tuple(not_run),
        failures=tuple(
            f"{f.what}: {f.reason}" for f in failures.recorded(folder, units)
        ),
        entries=tuple(found),
        rate_curves=tuple(rate_curves),
        num_cells=len(readings),
        num_diverged_cells=sum(r.diverged for r in readings),
        about={
            "command": command,
            "environment": environment.describe(),
            "config": json.loads(config_json),
            "theta_sha256": {c.label: c.theta_sha256 for c in entered if c.theta},
            "thetas": {c.label: c.theta.source for c in entered if c.theta is not None},
        },
    )
    if not study.entries:
        print("No entry is complete, so that there is nothing to report.")
        return 1
    values = summary.summarize(study)
    values |= reference.speedups(study, curves)
    values["warnings"] += reference.warnings(study, curves)
    table = tables.results(readings)
    files.write(workdir / "results.csv", tables.csv(table))
    files.write(workdir / "results.parquet", tables.parquet(table))
    text = json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False)
    files.write(workdir / "summary.json", text + "\n")
    path = writing.write(workdir, study, values)
    print(tables.format_table(tables.entries(values), rule=True))
    print(*values["verdict"], sep="\n")
    print(f"report: {path}")
    return 1 if study.failures else 0


def _is_incomplete(sweep, units, folder, rates) -> bool:
    """Whether a cell is missing that the sweep needs and that has not failed."""
    broken = failures.recorded(folder, units)
    for unit in units:
        if failures.whole(broken, unit):
            continue
        failed = failures.pairs(broken, unit)
        moved = plan.rates_for(sweep, unit, rates)
        if worker.present(sweep, unit, folder, moved, failed)[1]:
            return True
    return False


def _overview(sweep, units, mine, folder, *, estimate: bool) -> str:
    rows = [["program", "settings", "cells there", "to run"]]
    if estimate:
        rows[0] += ["time on a core", "memory of a run"]
    secs, memory = 0.0, 0.0
    for unit, there, left, cost, size in engine.estimate(sweep, units, mine, folder):
        rows.append(
            [
                unit.label,
                str(len(unit.settings)),
                str(there),
                f"about {left}" if left else "none",
            ]
        )
        if estimate:
            rows[-1] += [costs.span(cost), costs.size(size)]
        secs, memory = secs + cost, max(memory, size)
    lines = [tables.format_table([[row[1], row[0], *row[2:]] for row in rows])]
    if estimate:
        jobs = engine.jobs(sweep)
        lines.append(
            f"about {costs.span(secs / jobs)} with {jobs} "
            f"job{'s' * (jobs > 1)} (guessed, good to a factor of two or three), "
            f"{costs.size(jobs * memory)} for the runs beside the data."
        )
    return "\n".join(lines)


def _changes(path: pathlib.Path, config_json: str) -> list[str]:
    """Say how a workdir's earlier configuration differs, if there is one."""
    try:
        earlier = json.loads(path.read_text())
        if not isinstance(earlier, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        return [f"{path} is unusable ({error}); it is written anew."]
    differing = _differing(earlier, json.loads(config_json))
    if not differing:
        return []
    return [
        f"{path.parent} was made with another configuration, which differs in "
        f"{', '.join(differing)}: finished cells that both have are found again, the "
        "others stay where they are."
    ]


def _differing(first: Any, second: Any, prefix: str = "") -> list[str]:
    if not isinstance(first, dict) or not isinstance(second, dict):
        return [prefix] if first != second else []
    found: list[str] = []
    for key in sorted({*first, *second}):
        path = f"{prefix}.{key}" if prefix else str(key)
        if key in first and key in second:
            found += _differing(first[key], second[key], path)
        else:
            found.append(path)
    return found


def _of_the_sweep(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Copy a configuration without what it says of other optimizers."""
    copy = ml_collections.ConfigDict(config.to_dict())
    for field in ("learning_rates", "hyper"):
        for name in set(copy[field]) - set(copy.optimizers):
            del copy[field][name]
    return copy
