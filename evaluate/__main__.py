"""Runs a sweep: ``python -m evaluate --config=… --theta=… --workdir=…``.

    python -m evaluate --config=configs/evaluate/width.py:cpu --workdir=runs/width
    python -m evaluate --config=configs/evaluate/cross.py:cpu --workdir=runs/cross \
        --optimizers=mulo,mu_velo,mu_soap_blocked,adamw \
        --theta=runs/digits/theta --theta=mu_velo=random

The same command continues a sweep that was stopped. ``--list`` names the programs of a
sweep, ``--dry_run`` estimates time and memory; neither runs anything. Exit status 0:
complete; 1: some cells failed; 2: bad input; 130: stopped by Ctrl-C.
"""

import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from evaluate import run
from tasks import command, compile_cache

_CONFIG = config_flags.DEFINE_config_file("config", None, "Sweep.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Holds cells.", required=True)
_OPTIMIZERS = flags.DEFINE_list("optimizers", None, "Instead of config.optimizers.")
_THETA = flags.DEFINE_multi_string(
    "theta",
    [],
    "Folder, file or name of a theta, or random: what mulo stands for. NAME=… is for "
    "the optimizer NAME, or a further one of that name. May be repeated.",
)
_SP_THETA = flags.DEFINE_string("sp_theta", None, "For learned rules under SP.")
_SHARD = flags.DEFINE_string("shard", "1/1", "i/n: run every n-th program only.")
_LIST = flags.DEFINE_bool("list", False, "List the sweep's programs, run nothing.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Estimate time and memory only.")
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir", compile_cache.default(), compile_cache.HELP
)


def main() -> int:
    """Run the sweep; return the exit status."""
    compile_cache.use(_CACHE_DIR.value)
    config = _CONFIG.value
    if _OPTIMIZERS.value is not None:
        config.optimizers = tuple(name.strip() for name in _OPTIMIZERS.value)
    return run.run(
        config,
        pathlib.Path(_WORKDIR.value),
        theta=_THETA.value,
        sp_theta=_SP_THETA.value,
        shard=_SHARD.value,
        command=shlex.join(["python", "-m", "evaluate", *sys.argv[1:]]),
        list_only=_LIST.value,
        dry_run=_DRY_RUN.value,
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    command.run(
        "evaluate", main, "; finished cells are kept, the same command continues"
    )
