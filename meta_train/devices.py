"""Which device runs how many of the inner training runs at once."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, Sharding

# On a CPU, runs that together exceed its caches are faster one after the other.
_CPU_PARTICLE_BUDGET = 9_000  # Parameters of all runs that go side by side.


def make_mesh(
    num_pairs: int, *, axis_type: AxisType = AxisType.Auto, local: bool = False
) -> Mesh:
    """Mesh over as many of the devices as share ``num_pairs`` equally.

    Of several processes each has as many devices in it as the others.

    Args:
      num_pairs: What is shared out, on axis "pairs".
      axis_type: Of that axis.
      local: Over the devices of this process only.

    Raises:
      ValueError: If ``num_pairs`` cannot be shared equally by the processes.
    """
    owners = [jax.process_index()] if local else range(jax.process_count())
    by_owner = [[d for d in jax.devices() if d.process_index == o] for o in owners]
    if num_pairs % len(by_owner):
        raise ValueError(
            "estimator.num_pairs must be a multiple of the number of processes, "
            f"{len(by_owner)}, got {num_pairs}."
        )
    own_share = num_pairs // len(by_owner)
    most = min(len(own) for own in by_owner)
    count = max(n for n in range(1, most + 1) if own_share % n == 0)
    devices = [device for own in by_owner for device in own[:count]]
    return Mesh(np.asarray(devices), ("pairs",), axis_types=(axis_type,))


def say_idle(mesh: Mesh, num_pairs: Sequence[int]) -> None:
    """Name on stderr the devices outside a mesh, and pairs that would use them all.

    Args:
      mesh: From `make_mesh`, of the greatest common divisor of ``num_pairs``.
      num_pairs: Of every family.
    """
    used = {device.id for device in mesh.devices.flat}
    idle = [device.id for device in jax.devices() if device.id not in used]
    if not idle:
        return
    total = jax.device_count()
    wanted = [total * math.ceil(count / total) for count in num_pairs]
    told = wanted[0] if len(set(wanted)) == 1 else tuple(wanted)
    print(
        f"{len(idle)} of {total} devices stay idle ({jax.devices()[0].platform} "
        f"{', '.join(map(str, idle))}): they do not divide estimator.num_pairs; "
        f"estimator.num_pairs={told} would use all.",
        file=sys.stderr,
    )


def place(tree: Any, sharding: Sharding) -> Any:
    """Put arrays on the devices of a sharding, those of other processes included.

    Args:
      tree: Arrays that every process has whole, alike in all of them.
      sharding: Of every leaf.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def one(array):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(one, tree)


def side_by_side(
    count: int, num_params: int, *, most: int = 0, runs_each: int = 1
) -> int | None:
    """How many of ``count`` runs a device does at once; None: one after the other.

    Args:
      count: Runs of the device, or pairs of them.
      num_params: Parameters of each.
      most: Runs at once, at most; 0: all, on a CPU as many as its caches hold.
      runs_each: Runs in one of ``count``: 2 if they are pairs.
    """
    if most:
        fitting = most // runs_each
        # A divisor: the program of a remainder would be compiled as well.
        return max((n for n in range(1, fitting + 1) if count % n == 0), default=None)
    if jax.default_backend() != "cpu":
        return count
    fitting = _CPU_PARTICLE_BUDGET // num_params
    least = 1 if runs_each > 1 else 2
    return max((n for n in range(least, fitting + 1) if count % n == 0), default=None)
