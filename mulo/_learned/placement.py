"""Where arrays may lie."""

import jax
from jax.sharding import AxisType


def is_on_one_cpu() -> bool:
    """Whether arrays that are traced now lie whole on a CPU.

    Some rewritings that pay there merge or split axes; of an axis that is shared out
    among devices they would gather the whole.
    """
    axes = jax.sharding.get_abstract_mesh().axis_types
    manual = bool(axes) and all(axis == AxisType.Manual for axis in axes)
    return jax.default_backend() == "cpu" and (manual or jax.device_count() == 1)
