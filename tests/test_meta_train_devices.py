"""Inner training runs shared out over devices: the same runs, wherever they are."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from meta_train import devices

ROOT = pathlib.Path(__file__).parents[1]
EXPLICIT = ("full_es",)


@pytest.fixture(scope="module")
def done():
    process = subprocess.run(
        [sys.executable, "-m", "helpers.particle_parts", *EXPLICIT],
        cwd=ROOT / "tests",
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process


@pytest.fixture(scope="module")
def found(done):
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("estimator", ["pes", *EXPLICIT])
def test_explicit_and_automatic_axes_give_the_same_bits(found, estimator):
    assert found[estimator]["explicit"] == found[estimator]["four"]


def test_one_device_and_four_give_the_same_run_up_to_rounding(found):
    one, four = found["pes"]["one"], found["pes"]["four"]
    np.testing.assert_allclose(four["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_allclose(four["theta"], one["theta"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("layout", ["one, a pair at once", "two, a run at once"])
def test_fewer_runs_at_once_change_no_more_than_rounding(found, layout):
    few, all_ = found["pes"][layout], found["pes"]["one"]
    np.testing.assert_allclose(few["losses"], all_["losses"], rtol=1e-5)
    np.testing.assert_allclose(few["theta"], all_["theta"], rtol=1e-3, atol=1e-6)


def test_idle_devices_are_named_and_what_would_use_them(done):
    told = [x for x in done.stderr.splitlines() if "stay idle" in x]
    assert told == [
        "1 of 4 devices stay idle (cpu 3): they do not divide estimator.num_pairs; "
        "estimator.num_pairs=4 would use all.",
        "2 of 4 devices stay idle (cpu 2, 3): they do not divide estimator.num_pairs; "
        "estimator.num_pairs=(8, 4) would use all.",
    ]


@pytest.mark.parametrize(
    ("most", "pairs_at_once"),
    [(1, None), (2, 1), (3, 1), (4, 2), (10, 4), (16, 8), (1000, 8)],
)
def test_runs_at_once_are_pairs_that_divide_what_there_is(most, pairs_at_once):
    assert devices.side_by_side(8, 10**9, most=most, runs_each=2) == pairs_at_once


def test_of_themselves_a_cpus_runs_go_side_by_side_as_far_as_caches_hold_them():
    assert devices.side_by_side(8, 2_000) == 4
    assert devices.side_by_side(8, 4_501) is None
    assert devices.side_by_side(8, 4_501, runs_each=2) == 1
    assert devices.side_by_side(8, 9_001, runs_each=2) is None
