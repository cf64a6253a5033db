import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import pytest

import mulo
from configs import evaluate_width
from evaluate import cells, plots, run, summary, sweep, training

ROOT = pathlib.Path(__file__).parent.parent
# Small, because compiling it is what these tests spend their time on.
RULE = mulo.SmallFC(
    hidden_size=2,
    hidden_layers=1,
    initial_momentum_decays=(0.9,),
    initial_adafactor_decays=(0.9,),
)


def small_config():
    config = evaluate_width.get_config("smoke")
    config.task = "mlp-d1-synthetic:4x4x1:3"
    config.widths = (4, 8)
    config.optimizers = ("mulo", "mu_adam")
    config.horizon_steps = 12
    config.batch_examples = 8
    return config


def cell_files(workdir):
    return sorted((workdir / "cells").iterdir())


@pytest.fixture(scope="module")
def theta(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theta")
    mulo.save(folder, RULE, RULE.init(jax.random.key(0)))
    return folder


@pytest.fixture(scope="module")
def finished(theta, tmp_path_factory):
    """Run a small shard of a sweep, then all; return what each of them left."""
    workdir = tmp_path_factory.mktemp("sweep")
    arguments = {"theta": [str(theta)], "command": "the <command>"}
    assert run.run(small_config(), workdir, shard="16/16", **arguments) == 0
    between = [path.name for path in cell_files(workdir)]
    reported_early = (workdir / "report.html").exists()
    assert run.run(small_config(), workdir, **arguments) == 0
    return workdir, between, reported_early


def rerun(finished, theta, config=None):
    return run.run(config or small_config(), finished[0], theta=[str(theta)])


def test_the_report_waits_for_every_shard(finished):
    workdir, between, reported_early = finished
    # 2 widths x (1 + 3 rates of mu_adam, one of them the untuned) x 2 seeds.
    assert len(cell_files(workdir)) == 16
    assert len(between) == 1
    assert not reported_early
    assert (workdir / "report.html").exists()


def test_the_outputs_agree_and_hold_every_entry(finished):
    workdir, _, _ = finished
    values = json.loads((workdir / "summary.json").read_text())
    text = (workdir / "results.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 16
    labels = [(entry["width"], entry["label"]) for entry in values["entries"]]
    names = ["mulo", "mu_adam", "mu_adam (untuned)"]
    assert labels == [(width, name) for width in (4, 8) for name in names]
    for entry in values["entries"]:
        mine = [
            float(row["final_train_loss"])
            for row in rows
            if (row["task"], row["optimizer"]) == (entry["task"], entry["optimizer"])
            and float(row["learning_rate"]) == entry["learning_rate"]
        ]
        assert entry["train_loss"]["seeds"] == pytest.approx(mine)
        assert entry["train_loss"]["estimate"] == pytest.approx(sum(mine) / 2)
    tuned = values["entries"][1]
    by_rate = {
        rate: sum(
            float(row["final_train_loss"])
            for row in rows
            if (row["task"], row["optimizer"]) == (tuned["task"], "mu_adam")
            and float(row["learning_rate"]) == rate
        )
        for rate in tuned["grid"]
    }
    assert tuned["learning_rate"] == min(by_rate, key=by_rate.__getitem__)
    assert len({row["theta_sha256"] for row in rows}) == 2  # One, and none.


def test_the_report_needs_no_other_file(finished):
    workdir, _, _ = finished
    page = (workdir / "report.html").read_text()
    sources = re.findall(r"""(?:src|href)=['"]([^'"]{0,30})""", page)
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "the &lt;command&gt;" in page
    assert "edge" in page or "of its grid" in page
    for name in ("final_loss", "curves", "tuning"):
        assert (workdir / "plots" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_training_improves_on_chance(finished):
    workdir, _, _ = finished
    values = json.loads((workdir / "summary.json").read_text())
    tuned = [e for e in values["entries"] if e["label"] == "mu_adam"]
    assert all(e["train_loss"]["estimate"] < 0.9 * 1.0986 for e in tuned)
    assert all(e["valid_accuracy"]["estimate"] > 0.4 for e in tuned)


def test_only_a_missing_cell_is_run_again(finished, theta, monkeypatch):
    workdir, _, _ = finished
    before = {path: path.read_bytes() for path in cell_files(workdir)}
    victim = cell_files(workdir)[3]
    victim.unlink()
    ran = []
    original = training.TrainingProgram.run

    def spy(self, rates, seeds, on_chunk):
        ran.append((self.task.name, rates, seeds))
        return original(self, rates, seeds, on_chunk)

    monkeypatch.setattr(training.TrainingProgram, "run", spy)
    assert rerun(finished, theta) == 0
    old = json.loads(before[victim])
    cell = old["cell"]
    assert ran == [(cell["task"], [cell["learning_rate"]], [cell["seed"]])]
    new = json.loads(victim.read_bytes())
    assert new.pop("secs_per_step") > 0
    del old["secs_per_step"]
    assert new == old
    untouched = [path for path in before if path != victim]
    assert all(path.read_bytes() == before[path] for path in untouched)


def test_a_complete_sweep_compiles_nothing(finished, theta, monkeypatch):
    monkeypatch.setattr(training, "TrainingProgram", None)
    monkeypatch.setattr(training, "TaskPrograms", None)
    assert rerun(finished, theta) == 0


def test_another_theta_or_horizon_does_not_reuse_results(finished, theta):
    config = sweep.SweepConfig.from_dict(small_config().to_dict())
    other = mulo.Pretrained(RULE, RULE.init(jax.random.key(1)), {})
    missing = [
        cell.program.optimizer
        for cell in sweep.plan(config, {"mulo": other})
        if cells.read(finished[0] / "cells", cell) is None
    ]
    assert missing == ["mulo"] * 4
    longer = small_config()
    longer.horizon_steps = 13
    config = sweep.SweepConfig.from_dict(longer.to_dict())
    plan = sweep.plan(config, {"mulo": mulo.load(theta)})
    assert all(cells.read(finished[0] / "cells", cell) is None for cell in plan)


def test_a_learned_optimizer_without_theta_says_which_flag():
    with pytest.raises(ValueError, match="give --theta=<folder>, or leave it out"):
        run.run(small_config(), pathlib.Path("unused"))


def test_a_workdir_that_cannot_be_written_stops_before_training(theta, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run.run(small_config(), tmp_path / "file", theta=[str(theta)])


@pytest.mark.parametrize("variant", ["smoke", "demo", "full"])
def test_every_variant_is_a_valid_sweep(variant):
    config = evaluate_width.get_config(variant)
    sweep.SweepConfig.from_dict(config.to_dict())


@pytest.mark.parametrize(
    ("task", "unit", "has_accuracy"),
    [
        ("transformer-d1-h1-s4-synthetic_text:4", "nats per token", True),
        ("mlpae-d3-synthetic:4x4x1:3", "squared error per pixel", False),
    ],
)
def test_text_and_tasks_without_accuracy_run_to_the_report(
    task, unit, has_accuracy, tmp_path, capsys
):
    config = small_config()
    config.task = task
    config.optimizers = ("mu_adam",)
    config.learning_rates.mu_adam = (0.03,)
    config.untuned_learning_rates = {}
    assert run.run(config, tmp_path) == 0
    values = json.loads((tmp_path / "summary.json").read_text())
    assert [entry["width"] for entry in values["entries"]] == [4, 8]
    assert values["num_diverged_cells"] == 0
    for entry in values["entries"]:
        assert (entry["valid_accuracy"] is not None) == has_accuracy
    results = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert len(results) == 4
    for row in results:
        assert float(row["final_train_loss"]) < float(row["initial_train_loss"])
    line = capsys.readouterr().out.splitlines()[-2]
    assert ("%" in line) == has_accuracy
    settings = sweep.SweepConfig.from_dict(config.to_dict())
    found = [cells.read(tmp_path / "cells", c) for c in sweep.plan(settings, {})]
    whole = [result for result in found if result is not None]
    figure = plots.final_loss(settings, summary.entries(settings, whole))
    assert figure.axes[0].get_ylabel() == f"loss ({unit})"


def command_line(workdir, *more):
    flags = [
        "--config=configs/evaluate_width.py:smoke",
        "--config.task=mlp-d1-synthetic:4x4x1:3",
        "--config.widths=(4,)",
        "--config.optimizers=('adamw',)",
        f"--workdir={workdir}",
    ]
    return [sys.executable, "-m", "evaluate", *flags, *more]


def test_a_killed_sweep_leaves_whole_cells_and_continues(tmp_path):
    # Long enough for the kill to come while the next of the four is trained.
    command = command_line(tmp_path, "--config.horizon_steps=20000")
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("cells/*.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    survivors = {path: path.read_bytes() for path in tmp_path.glob("cells/*.json")}
    assert 1 <= len(survivors) < 4
    for content in survivors.values():
        json.loads(content)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # No progress bar: this is no terminal.
    assert f"{4 - len(survivors)} cells run, {len(survivors)} were there" in done.stdout
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path / 'report.html'}"
    assert all(path.read_bytes() == content for path, content in survivors.items())


def test_a_wrong_theta_is_one_line_and_status_2(tmp_path):
    command = command_line(tmp_path, "--theta=runs/nowhere/theta")
    command.append("--config.optimizers=('mulo',)")
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert re.fullmatch(
        r"evaluate: No theta called 'runs/nowhere/theta'.*\n", done.stderr
    )
