"""Compiled programs, kept on disk for the next time the same command runs."""

import hashlib
import os
import pathlib
import platform
import sys

import jax

from mulo import _files as files

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
HELP = (
    "Folder of compiled programs, kept for the next time; empty: none are kept. "
    f"${VARIABLE} goes before."
)


def default() -> str:
    """``mulo/jax`` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return str(pathlib.Path(root, "mulo", "jax"))


def use(folder: str) -> None:
    """Keep compiled programs in a folder, also those of processes started from here.

    Every kind of CPU has a folder of its own in it: a home that machines share would
    hand one the programs of another. One that cannot be written is said on stderr, and
    the command goes on without.

    Args:
      folder: Empty: keep none.
    """
    if not folder or os.environ.get(VARIABLE):
        return
    try:
        path = pathlib.Path(folder).expanduser() / _kind_of_cpu()
        files.check_writable(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home.
        print(f"Compiled programs are not kept: {error}", file=sys.stderr)
        return
    os.environ[VARIABLE] = str(path)
    jax.config.update("jax_compilation_cache_dir", str(path))


def _kind_of_cpu():
    """Architecture and a hash of what instructions there are."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = platform.processor()
    told = sorted({x for x in text.splitlines() if x.startswith(("flags", "Features"))})
    told = told or [platform.processor()]
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:8]}"
