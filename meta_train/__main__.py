"""Meta-train: ``python -m meta_train --config=configs/x.py --workdir=runs/x``.

The same command goes on with a run that was stopped. Exit status 0: done; 1: the run
left the finite numbers; 2: bad input; 130: stopped by a signal, everything saved.
"""

import os
import pathlib
import sys

import jax
from absl import flags
from ml_collections import config_flags

from meta_train import loop, reporting, setup, workdir
from tasks import command

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="File in configs/, e.g. configs/mulo_digits.py:demo.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run, made if absent.")


def _num_cores() -> int:
    """Cores that ``taskset`` or a batch system leaves us."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main() -> int:
    """Run, or go on with the run in --workdir; return the exit status."""
    # One virtual device per core we may use: particles are shared out as on a cluster.
    jax.config.update("jax_num_cpu_devices", _num_cores())
    config = _CONFIG.value.to_dict()
    if not _WORKDIR.value:
        raise ValueError("--workdir must name a directory, got nothing.")
    directory = pathlib.Path(_WORKDIR.value)
    run_config = setup.run_config(config)
    config = setup.resolve(config)
    trainer = setup.build(config)
    workdir.claim(directory, config)
    card = setup.continued(setup.card(config), directory)
    writers: list[reporting.Writer] = []
    if config["report"]["tensorboard"]:
        writers.append(reporting.TensorBoard(directory))
    if config["report"]["wandb"]:
        writers.append(reporting.WandB(directory, config))
    try:
        theta = loop.run(trainer, run_config, directory, card=card, writers=writers)
    except FloatingPointError as error:
        print(f"meta_train: {error}", file=sys.stderr)
        return 1
    except loop.Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    print(f"theta: {theta}")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    command.run("meta_train", main, "; the last checkpoint stands")
