"""Runs as users start them: real processes, really killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import mulo
from meta_train import reporting, setup
from meta_train import workdir as workdir_lib

ROOT = pathlib.Path(__file__).parent.parent
COMMAND = [
    sys.executable,
    "-m",
    "meta_train",
    "--config=configs/mulo_digits.py:smoke",
    "--config.run.meta_steps=16",
    "--config.run.checkpoint_steps=3",
]


def start(workdir, *arguments, **environ):
    return subprocess.Popen(
        [*COMMAND, f"--workdir={workdir}", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def lines(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(process, workdir, count):
    """Wait until the run has written ``count`` lines of metrics."""
    deadline = time.monotonic() + 240
    while len(lines(workdir)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def state(workdir):
    """Meta-step and every array of the newest checkpoint, by path."""
    config = json.loads((workdir / "config.json").read_text())
    checkpoints = workdir_lib.Checkpoints(workdir, keep=2)
    try:
        step = checkpoints.latest()
        tree = checkpoints.restore(step, setup.build(config).init())
    finally:
        checkpoints.close()
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return step, {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbs."""
    workdir = tmp_path_factory.mktemp("whole")
    code, out, err = finish(start(workdir))
    assert code == 0, err
    assert f"theta: {workdir / 'theta'}" in out
    return workdir


def metrics_without_timing(workdir):
    parsed = [json.loads(line) for line in lines(workdir)]
    return [
        {k: v for k, v in line.items() if k not in reporting.OF_THE_MACHINE}
        for line in parsed
    ]


def test_a_run_killed_twice_continues_bit_identically(whole, tmp_path):
    for count in (4, 9):
        process = start(tmp_path)
        wait_for(process, tmp_path, count)
        process.send_signal(signal.SIGKILL)
        finish(process)
        assert process.returncode == -signal.SIGKILL
        assert len(lines(tmp_path)) < 16  # It was indeed in the middle.
    code, _, err = finish(start(tmp_path))
    assert code == 0, err
    step, got = state(tmp_path)
    want_step, want = state(whole)
    assert step == want_step == 16
    assert got.keys() == want.keys()
    names = " ".join(got)
    for part in ("theta", "opt_state", "pert_sum", "momentum", "params", "length"):
        assert part in names
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert metrics_without_timing(tmp_path) == metrics_without_timing(whole)
    ours, theirs = mulo.load(tmp_path / "theta"), mulo.load(whole / "theta")
    np.testing.assert_array_equal(ours.theta["nn"]["w0"], theirs.theta["nn"]["w0"])
    assert ours.card["meta_step"] == 16


def test_sigterm_saves_and_stops_and_the_run_goes_on(whole, tmp_path):
    process = start(tmp_path, "--config.run.checkpoint_steps=1000")
    wait_for(process, tmp_path, 5)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 130
    assert "SIGTERM at meta-step" in err
    assert "saved" in err
    done = len(lines(tmp_path))
    assert (tmp_path / "checkpoints" / str(done)).is_dir()
    assert mulo.load(tmp_path / "theta").card["meta_step"] == done


def test_programs_compiled_or_found_on_disk_train_the_same(whole, tmp_path):
    cache, own = tmp_path / "cache", {"JAX_COMPILATION_CACHE_DIR": ""}
    for name in ("cold", "warm"):
        workdir = tmp_path / name
        code, _, err = finish(start(workdir, f"--cache_dir={cache}", **own))
        assert code == 0, err
        assert [*cache.glob("*/*")]
        assert metrics_without_timing(workdir) == metrics_without_timing(whole)
        theta = "theta/model.safetensors"
        assert (workdir / theta).read_bytes() == (whole / theta).read_bytes()


def test_another_config_is_refused_and_the_keys_named(whole):
    before = (whole / "metrics.jsonl").read_bytes()
    code, _, err = finish(start(whole, "--config.estimator.sigma=0.5"))
    assert code == 2
    assert "estimator.sigma: 0.01 there, 0.5 here" in err
    assert "Traceback" not in err
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_started_again_changes_nothing(whole):
    before = (whole / "metrics.jsonl").read_bytes()
    theta = (whole / "theta" / "model.safetensors").read_bytes()
    code, _, err = finish(start(whole))
    assert code == 0, err
    assert (whole / "metrics.jsonl").read_bytes() == before
    assert (whole / "theta" / "model.safetensors").read_bytes() == theta


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.tasks=('mlp-w8-d2-digit',)", "digits"),
        ("--config.rule.hidden_size=0", "hidden_size must be an integer >= 1"),
        ("--config.estimator.sigma=-1.0", "estimator.sigma must be > 0"),
    ],
)
def test_a_bad_value_is_an_error_that_leaves_no_run_behind(tmp_path, argument, message):
    workdir = tmp_path / "run"
    code, _, err = finish(start(workdir, argument))
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not workdir.exists()
