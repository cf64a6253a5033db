"""Meta-training on four simulated devices, laid out in several ways.

``python -m helpers.particle_parts ESTIMATOR …`` (in ``tests/``) prints as JSON what
some meta-steps end with, by estimator and layout. It is a process of its own: the
number of devices cannot change once there are any.
"""

import json
import sys
from unittest import mock

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from configs import mulo_digits
from meta_train import devices, setup

# Devices, kind of axis, run.particles_at_once.
LAYOUTS = {
    "one": (1, AxisType.Auto, 0),
    "four": (4, AxisType.Auto, 0),
    "explicit": (4, AxisType.Explicit, 0),
    "one, a pair at once": (1, AxisType.Auto, 2),
    "two, a run at once": (2, AxisType.Auto, 1),
}
NUM_PAIRS = 8
META_STEPS = 3


def trainer(estimator, layout):
    count, kind, at_once = LAYOUTS[layout]
    mesh = Mesh(np.asarray(jax.devices()[:count]), ("pairs",), axis_types=(kind,))
    config = mulo_digits.get_config("smoke").to_dict()
    config["tasks"] = ("mlp-w4-d1-synthetic:4x4x1:3",)
    config["estimator"] |= {"name": estimator, "num_pairs": NUM_PAIRS}
    config["rule"]["name"] = "small_fc"
    config["rule_defaults"] = {"small_fc": {"hidden_size": 2}}
    config["run"] |= {"particles_at_once": at_once}
    with mock.patch.object(devices, "make_mesh", return_value=mesh):
        return setup.build(config)


def ends_with(estimator, layout):
    """Losses of the meta-steps, and theta after them, as lists."""
    trained = trainer(estimator, layout)
    state, losses = trained.init(), []
    for _ in range(META_STEPS):
        state, metrics = trained.step(state)
        losses.append(float(metrics["meta_loss"]))
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(state.theta))]
    return {"losses": losses, "theta": np.concatenate(leaves).tolist()}


def main(names):
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    layouts = {name: ("four", "explicit") for name in names} | {"pes": tuple(LAYOUTS)}
    found = {
        name: {layout: ends_with(name, layout) for layout in own}
        for name, own in layouts.items()
    }
    devices.say_idle(devices.make_mesh(3), [3])
    devices.say_idle(devices.make_mesh(2), [6, 2])
    devices.say_idle(devices.make_mesh(8), [8, 16])
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
