"""Commands: bad input is one line on standard error and exit status 2."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/mulo_s.py", "--config.pes.sigmaa=1"],
            """meta_train: 'sigmaa' Did you mean "sigma" instead of""",
        ),
        (
            ["--config=configs/mulo_s.py", "--config.run.meta_steps=many"],
            "meta_train: flag --config.run.meta_steps=many: invalid literal for int()",
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
