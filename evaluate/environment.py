"""Versions and hardware that a result was made with."""

import importlib.metadata
import os
import pathlib
import platform
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "scipy", "matplotlib")


def describe() -> dict[str, Any]:
    """Return versions and hardware, as JSON-ready values."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_cores": os.cpu_count(),
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
    }


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":")[1] for line in lines if "model name" in line
        ).strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
