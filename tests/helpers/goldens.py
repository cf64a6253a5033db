"""Golden trajectories, as they lie in tests/golden."""

import json
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def golden(case):
    """Arrays of a trajectory, grouped by kind, and its description."""
    return read(GOLDEN / case)


def read(path):
    """Arrays of a trajectory, grouped by kind, and its description."""
    groups = {}
    with np.load(path.with_suffix(".npz")) as arrays:
        for name in arrays:
            kind, _, leaf = name.partition("/")
            groups.setdefault(kind, {})[leaf] = arrays[name]
    return groups, json.loads(path.with_suffix(".json").read_text())
