"""Commands: bad input is one line on standard error and exit status 2."""

import errno
import logging as python_logging
import os
import pathlib
import subprocess
import sys

import orbax.checkpoint
import pytest

from tasks import command

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/mulo_s.py", "--config.estimator.sigmaa=1"],
            "meta_train: there is no config.estimator.sigmaa; did you mean config."
            "estimator.sigma?",
        ),
        (
            ["--config=configs/mulo_s.py", "--config.run.meta_steps=many"],
            "meta_train: config.run.meta_steps must be a whole number, like 2000; got",
        ),
        (
            ["--config=configs/mulo_ss.py"],
            "no configuration configs/mulo_ss.py. Did you mean 'mulo_s'? In configs: ",
        ),
        (
            ["--config=configs/mulo_s.py:smoke", "--config.tasks=('mlp-w4-d1-digit',)"],
            "got 'digit'. Did you mean 'digits'?",
        ),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path):
    workdir = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "meta_train", f"--workdir={workdir}", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("code", "start"),
    [
        (errno.ENOSPC, "x: the disk is full: cannot write a/b. Make room"),
        (errno.EDQUOT, "x: the disk quota is used up: cannot write a/b. Make room"),
        (errno.EACCES, "x: [Errno 13] Permission denied: 'a/b'"),
    ],
)
def test_a_full_disk_says_so_first_and_where(code, start, monkeypatch, capsys):
    def main():
        raise OSError(code, os.strerror(code), "a/b")

    monkeypatch.setattr(
        command.app, "run", lambda guarded, flags_parser: sys.exit(guarded(["x"]))
    )
    with pytest.raises(SystemExit, match="2"):
        command.run("x", main)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(start)


def test_orbax_and_tensorflow_datasets_log_nothing():
    def record(path):
        return python_logging.LogRecord("absl", 40, path, 1, "text", None, None)

    assert orbax.checkpoint.__file__ is not None
    assert not command.shows(record(orbax.checkpoint.__file__))
    assert not command.shows(record("/lib/tensorflow_datasets/core/feature.py"))
    assert command.shows(record(__file__))
