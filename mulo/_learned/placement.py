"""Where arrays may lie, and who works on them."""

import jax
from jax.sharding import AxisType

from mulo import _cores


def is_on_one_device() -> bool:
    """Whether arrays that are traced now lie whole on a device.

    Some rewritings merge, split or cut axes; of an axis that is shared out among
    devices they would gather the whole.
    """
    axes = jax.sharding.get_abstract_mesh().axis_types
    manual = bool(axes) and all(axis == AxisType.Manual for axis in axes)
    return manual or jax.device_count() == 1


def is_on_one_cpu() -> bool:
    """As `is_on_one_device`, and it is a CPU."""
    return jax.default_backend() == "cpu" and is_on_one_device()


def shares_cores() -> bool:
    """Whether one CPU device has several cores, among which XLA shares operations.

    Several devices are taken to have a core each, as meta-training makes them.
    """
    on_cpu = jax.default_backend() == "cpu"
    return on_cpu and jax.device_count() == 1 and len(_cores.usable()) > 1
