"""Versions and hardware that a result was made with."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

from mulo import _provenance as provenance

_PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "scipy", "matplotlib")


def describe() -> dict[str, Any]:
    """Return versions and hardware, as JSON-ready values."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": provenance.processor(),
        "cpu_cores": os.cpu_count(),
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
    }
