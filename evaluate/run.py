"""One call of ``python -m evaluate``: load, plan, compute what is missing, report."""

import pathlib

import ml_collections

import mulo
from evaluate import cells as cells_lib
from evaluate import files, report, sweep


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    theta: str | None,
    sp_theta: str | None,
    shard: str = "1/1",
    command: str = "",
) -> int:
    """Run a sweep, or its shard, and report when every cell is there.

    Args:
      config: As ``configs/evaluate_width.py`` makes it.
      workdir: Gets ``cells/`` and, at the end, the report.
      theta: Theta of ``mulo``: a released name, folder or file.
      sp_theta: Theta of ``small_fc``, likewise.
      shard: ``i/n``; other shards may run at the same time in the same workdir.
      command: For the report.

    Returns:
      Exit status 0; a shard that ends before the others is complete too.

    Raises:
      ValueError: If the configuration, a theta or the shard is wrong.
      OSError: If the workdir cannot be written.
    """
    settings = sweep.SweepConfig.from_dict(config.to_dict())
    thetas = {
        name: mulo.load(path)
        for name, path in (("mulo", theta), ("small_fc", sp_theta))
        if path and name in settings.optimizers
    }
    cells = sweep.plan(settings, thetas)
    mine = cells_lib.shard(cells, shard)
    folder = workdir / "cells"
    # Says so now, not after an hour, when the workdir cannot be written.
    files.write_text(workdir / "config.json", config.to_json(indent=1) + "\n")
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
        config_json=config.to_json(indent=1),
    )
    print(table)
    print(f"report: {path}")
    return 0
