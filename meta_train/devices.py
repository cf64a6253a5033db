"""Which device runs how many of the inner training runs at once."""

import jax
import numpy as np
from jax.sharding import Mesh

# On a CPU, runs that together exceed its caches are faster one after the other.
_CPU_PARTICLE_BUDGET = 40_000  # Parameters of all runs that go side by side.


def make_mesh(num_pairs: int) -> Mesh:
    """Mesh over as many of the devices as share ``num_pairs`` equally."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if num_pairs % n == 0)
    return Mesh(np.asarray(devices[:count]), ("pairs",))


def side_by_side(count: int, num_params: int) -> int | None:
    """How many of ``count`` runs a device does at once; None: one after the other.

    Args:
      count: Runs of the device, or pairs of them.
      num_params: Parameters of each.
    """
    if jax.default_backend() != "cpu":
        return count
    fitting = _CPU_PARTICLE_BUDGET // num_params
    # A divisor: the program of a remainder would be compiled as well.
    return max((n for n in range(2, fitting + 1) if count % n == 0), default=None)
