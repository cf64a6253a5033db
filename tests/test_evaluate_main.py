"""The command ``python -m evaluate``, as a process."""

import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import polars
import pytest

from evaluate.report import tables

ROOT = pathlib.Path(__file__).parent.parent


def arguments(workdir, *more, suite="width:smoke"):
    flags = [f"--config=configs/evaluate/{suite.replace(':', '.py:')}"]
    return [*(sys.executable, "-m", "evaluate"), *flags, f"--workdir={workdir}", *more]


SMALL = (
    "--config.tasks=('mlp-d1-synthetic:4x4x1:3',)",
    "--config.widths=(4,)",
    "--optimizers=mu_sgd",
    "--config.learning_rates.mu_sgd=(0.1,)",
)


def environment(cache):
    """Without public weights."""
    return os.environ | {"JAX_PLATFORMS": "cpu", "MULO_CACHE": str(cache)}


def run(workdir, *more, suite="width:smoke"):
    return subprocess.run(
        arguments(workdir, *more, suite=suite),
        cwd=ROOT,
        env=environment(workdir / "cache"),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_smoke_suite_of_widths_runs_to_the_report(tmp_path):
    done = run(tmp_path, "--optimizers=mulo,celo,adamw,null_muon")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # No progress bar: this is no terminal.
    lines = done.stdout.splitlines()
    assert lines[0].startswith("not run: celo: weights missing, get them with python")
    assert lines[-1] == f"report: {tmp_path / 'report.html'}"
    page = (tmp_path / "report.html").read_text()
    assert "mulo-s" in page
    text = (tmp_path / "results.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert list(rows[0]) == [name for name, _, _ in tables.SCHEMA]
    schema = {name: kind for name, kind, _ in tables.SCHEMA}
    table = polars.read_parquet(tmp_path / "results.parquet")
    assert table.equals(polars.read_csv(tmp_path / "results.csv", schema=schema))
    values = json.loads((tmp_path / "summary.json").read_text())
    assert values["subjects"] == ["mulo-s"]
    assert {s["width"] for s in values["settings"]} == {8, 16}
    keys = {"mulo-s", "adamw (per cell)", "adamw (transferred)", "null_muon"}
    assert set(values["keys"]) == keys
    assert len(values["entries"]) == 8
    # Nothing of what is not swept.
    config = json.loads((tmp_path / "config.json").read_text())
    assert list(config["learning_rates"]) == ["adamw"]


def test_ctrl_c_keeps_finished_cells_and_the_same_command_completes(tmp_path):
    # Long enough for the signal to come while the next of the cells is trained.
    more = (*SMALL, "--config.horizons=(30000,)", "--config.num_seeds=4")
    # What a shell runs in the background starts with SIGINT ignored.
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    heed += "os.execv(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", heed, *arguments(tmp_path, *more)],
        cwd=ROOT,
        env=environment(tmp_path / "cache"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("cells/*.npz")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == (
        "evaluate: stopped; finished cells are kept, the same command continues."
    )
    survivors = {path: path.read_bytes() for path in tmp_path.glob("cells/*.npz")}
    assert survivors
    assert not (tmp_path / "report.html").exists()
    done = run(tmp_path, *more)
    assert done.returncode == 0, done.stderr
    assert all(path.read_bytes() == content for path, content in survivors.items())
    total = len(list(tmp_path.glob("cells/*.npz")))
    assert len(survivors) < total
    assert f"{total - len(survivors)} cells run." in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--theta=runs/nowhere/theta", "--optimizers=mulo"],
            "No theta called 'runs/n",
        ),
        (["--optimizers=mu_adm"], "did you mean 'mu_adam'"),
        (["--config.optimizer=('adamw',)"], "optimizer"),
        (["--shard=3/2", *SMALL], "shard must be i/n"),
        (["--workdir=/proc/nothing", *SMALL], "/proc/nothing"),
    ],
)
def test_bad_input_is_one_line_and_status_2(flags, message, tmp_path):
    done = run(tmp_path, *flags)
    assert done.returncode == 2
    assert re.fullmatch(r"evaluate: [^\n]+\n", done.stderr), done.stderr
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_variant_is_one_line_and_status_2(tmp_path):
    done = run(tmp_path, suite="width:smok")
    assert done.returncode == 2
    assert "did you mean 'smoke'" in done.stderr
    assert done.stderr.count("\n") == 1
