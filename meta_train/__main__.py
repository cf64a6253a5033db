"""Meta-train: ``python -m meta_train --config=configs/x.py --workdir=runs/x``."""

import os
import pathlib
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from meta_train import loop, reporting, setup, workdir

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


def main(argv) -> None:
    """Run, or go on with the run in --workdir."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}.")
    logging.set_verbosity(logging.WARNING)
    # One virtual device per core we may use: particles are shared out as on a cluster.
    jax.config.update("jax_num_cpu_devices", _num_cores())
    config = _CONFIG.value.to_dict()
    if not _WORKDIR.value:
        sys.exit("error: --workdir must name a directory, got nothing.")
    directory = pathlib.Path(_WORKDIR.value)
    try:
        run_config = setup.run_config(config)
        config = setup.resolve(config)
        trainer = setup.build(config)
        workdir.claim(directory, config)
        writers: list[reporting.Writer] = []
        if config["report"]["tensorboard"]:
            writers.append(reporting.TensorBoard(directory))
        if config["report"]["wandb"]:
            writers.append(reporting.WandB(directory, config))
        theta = loop.run(
            trainer, run_config, directory, card=setup.card(config), writers=writers
        )
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; the last checkpoint stands.", file=sys.stderr)
        sys.exit(130)
    except loop.Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)
    print(f"theta: {theta}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
