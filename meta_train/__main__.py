"""Meta-train: ``python -m meta_train --config=configs/x.py --workdir=runs/x``.

The same command goes on with a run that was stopped. Several processes make one run:
docs/clusters.md. Exit status 0: done; 1: the run left the finite numbers; 2: bad input;
130: stopped by a signal, everything saved.
"""

import os
import pathlib
import sys

import jax
from absl import flags
from ml_collections import config_flags

from meta_train import distributed, loop, reporting, setup, workdir
from mulo import _cores
from tasks import command, compile_cache

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="File in configs/, e.g. configs/mulo_digits.py:demo.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run, made if absent.")
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir", compile_cache.default(), compile_cache.HELP
)
_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, if there are several."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_LOCAL_DEVICES = flags.DEFINE_list(
    "local_device_ids", None, "GPUs of this node that are this process's, e.g. 0,1."
)
_ALONE = flags.DEFINE_bool("alone", False, "One process, whatever a batch system says.")
_TIMEOUT = flags.DEFINE_integer(
    "connect_timeout_secs",
    300,
    "How long processes wait for each other.",
    lower_bound=1,
)


def _connect() -> None:
    if _ALONE.value:
        return
    own = _LOCAL_DEVICES.value
    cluster = distributed.find(
        os.environ,
        address=_ADDRESS.value,
        num_processes=_NUM_PROCESSES.value,
        process_id=_PROCESS_ID.value,
        local_device_ids=None if own is None else [int(x) for x in own],
    )
    distributed.connect(cluster, timeout_secs=_TIMEOUT.value)


def main() -> int:
    """Run, or go on with the run in --workdir; return the exit status."""
    compile_cache.use(_CACHE_DIR.value)
    # One virtual device per core we may use: particles are shared out as on a cluster.
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", len(_cores.usable()))
    config = _CONFIG.value.to_dict()
    if not _WORKDIR.value:
        raise ValueError("--workdir must name a directory, got nothing.")
    directory = pathlib.Path(_WORKDIR.value)
    run_config = setup.run_config(config)
    config = setup.resolve(config)
    _connect()
    distributed.check_same(config)
    trainer = setup.build(config)
    distributed.first(lambda: workdir.claim(directory, config))
    card = setup.continued(setup.card(config), directory)
    writers: list[reporting.Writer] = []
    if config["report"]["tensorboard"] and distributed.is_first():
        writers.append(reporting.TensorBoard(directory))
    if config["report"]["wandb"] and distributed.is_first():
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
