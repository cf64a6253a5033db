"""One call of ``python -m evaluate``: load, plan, compute what is missing, report."""

import pathlib
from collections.abc import Sequence

import ml_collections

from evaluate import cells as cells_lib
from evaluate import files, report, sweep
from evaluate import thetas as thetas_lib


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    theta: Sequence[str] = (),
    sp_theta: str | None = None,
    shard: str = "1/1",
    command: str = "",
) -> int:
    """Run a sweep, or its shard, and report when every cell is there.

    Args:
      config: As ``configs/evaluate_width.py`` makes it.
      workdir: Gets ``cells/`` and, at the end, the report.
      theta: Thetas of learned optimizers, as in :mod:`evaluate.thetas`.
      sp_theta: A theta for those under the standard parametrization.
      shard: ``i/n``; other shards may run at the same time in the same workdir.
      command: For the report.

    Returns:
      Exit status 0; a shard that ends before the others is complete too.

    Raises:
      ValueError: If the configuration, a theta or the shard is wrong.
      OSError: If the workdir cannot be written.
    """
    settings = sweep.SweepConfig.from_dict(config.to_dict())
    config_json = _of_the_sweep(config).to_json(indent=1)
    found_thetas = thetas_lib.assign(settings.optimizers, theta, sp_theta)
    thetas = {name: found.pretrained for name, found in found_thetas.items()}
    cells = sweep.plan(settings, thetas)
    mine = cells_lib.shard(cells, shard)
    folder = workdir / "cells"
    # Says so now, not after an hour, when the workdir cannot be written.
    files.write_text(workdir / "config.json", config_json + "\n")
    computed = sweep.run(settings, mine, thetas, folder)
    print(f"{computed} cells run, {len(mine) - computed} were there already.")
    found = [(cell, cells_lib.read(folder, cell)) for cell in cells]
    results = [result for _, result in found if result is not None]
    if len(results) < len(cells):
        print(
            f"{len(cells) - len(results)} of {len(cells)} cells belong to shards that "
            "are not done; the last shard to finish writes the report."
        )
        return 0
    path, table = report.write(
        workdir,
        settings,
        results,
        command=command,
        config_json=config_json,
        theta_sources={name: found.source for name, found in found_thetas.items()},
    )
    print(table)
    print(f"report: {path}")
    return 0


def _of_the_sweep(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Copy a configuration without what it says of other optimizers."""
    copy = ml_collections.ConfigDict(config.to_dict())
    for field in ("learning_rates", "untuned_learning_rates", "hyper"):
        for name in set(copy[field]) - set(copy.optimizers):
            del copy[field][name]
    return copy
