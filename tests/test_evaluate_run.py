import csv
import json

import polars
import pytest
from helpers import sweep_parts

from evaluate import run
from evaluate.report import tables, writing
from evaluate.sweep import training
from mulo import _files as files

GRID = (0.1, 1.0)


def config(**changes):
    settings = {"optimizers": ("mu_sgd",), "learning_rates": {"mu_sgd": GRID}}
    return sweep_parts.config_dict(**(settings | changes))


@pytest.fixture(autouse=True, scope="module")
def short_report():
    """Write a report of one line: its own tests draw it."""

    def write(workdir, study, values):
        return files.write(workdir / "report.html", study.about["command"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "write", write)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    assert run.run(config(), workdir, command="the command") == 0
    return workdir


def names(workdir):
    return sorted(path.name for path in (workdir / "cells").iterdir())


def test_a_run_leaves_its_cells_tables_summary_and_report(finished):
    assert {path.name for path in finished.iterdir()} == {
        "cells",
        "config.json",
        "report.html",
        "results.csv",
        "results.parquet",
        "summary.json",
    }
    assert (finished / "report.html").read_text() == "the command"
    rows = list(csv.DictReader((finished / "results.csv").read_text().splitlines()))
    assert list(rows[0]) == [name for name, _, _ in tables.SCHEMA]
    assert len(rows) == len(names(finished))
    schema = {name: kind for name, kind, _ in tables.SCHEMA}
    table = polars.read_parquet(finished / "results.parquet")
    assert table.equals(polars.read_csv(finished / "results.csv", schema=schema))


def test_summary_and_results_agree(finished):
    values = json.loads((finished / "summary.json").read_text())
    table = polars.read_parquet(finished / "results.parquet")
    assert values["num_cells"] == len(table)
    assert values["command"] == "the command"
    assert len(values["verdict"]) == 3
    for entry in values["entries"]:
        mine = table.filter(
            (polars.col("task") == values["settings"][entry["setting"]]["task"])
            & (polars.col("learning_rate") == entry["learning_rate"])
        )
        mean = mine["final_train_loss"].mean()
        assert entry["train_loss"]["estimate"] == pytest.approx(mean)
        assert entry["num_seeds"] == len(mine) == 2
        # Training helps: ln 3 is chance.
        assert entry["train_loss"]["estimate"] < 0.95 * sweep_parts.CHANCE


def test_a_second_run_computes_nothing(finished, capsys):
    before = names(finished)
    assert run.run(config(), finished) == 0
    assert "0 cells run." in capsys.readouterr().out.splitlines()
    assert names(finished) == before


def test_shards_in_any_order_and_then_the_report(finished, tmp_path, capsys):
    assert run.run(config(), tmp_path, shard="2/2") == 0
    said = capsys.readouterr().out
    assert "wait for rates that another shard finds: run the command once more" in said
    assert "Some cells belong to shards that are not done" in said
    first = set(names(tmp_path))
    assert all(name.startswith("mlp-w8") for name in first)
    assert not (tmp_path / "report.html").exists()
    assert run.run(config(), tmp_path, shard="1/2") == 0
    assert {n for n in names(tmp_path) if n.startswith("mlp-w8")} == first
    assert run.run(config(), tmp_path, shard="2/2") == 0
    assert "report: " in capsys.readouterr().out
    assert names(tmp_path) == names(finished)


@pytest.mark.parametrize("flag", ["list_only", "dry_run"])
def test_listing_and_estimating_run_and_write_nothing(flag, tmp_path, capsys):
    assert run.run(config(), tmp_path / "x", **{flag: True}) == 0
    assert not (tmp_path / "x").exists()
    said = capsys.readouterr().out
    for width in (4, 8):
        assert f"mlp-w{width}-d1-synthetic:4x4x1:3 mu_sgd cosine × 20" in said
    assert ("with 1 job" in said) == (flag == "dry_run")


def test_what_is_not_run_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MULO_CACHE", str(tmp_path / "none"))
    made = config(optimizers=("mu_sgd", "velo"), optional=("velo",))
    assert run.run(made, tmp_path, list_only=True) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith("not run: velo: weights missing, get them with python -m")


def test_another_configuration_says_which_keys_differ(finished, capsys):
    made = config(bootstrap_samples=51, hyper={"mu_sgd": {"momentum": 0.9}})
    made.confidence_frac = 0.9
    assert run.run(made, finished) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert "another configuration, which differs in bootstrap_samples, conf" in line
    assert run.run(config(), finished) == 0
    capsys.readouterr()
    assert run.run(config(), finished) == 0
    assert "another configuration" not in capsys.readouterr().out


def test_a_configuration_that_is_damaged_is_written_anew(finished, capsys):
    (finished / "config.json").write_text("{")
    assert run.run(config(), finished) == 0
    assert "config.json is unusable" in capsys.readouterr().out
    json.loads((finished / "config.json").read_text())


def test_a_failing_cell_is_status_1_until_it_has_run(tmp_path, monkeypatch, capsys):
    original = training.TrainingProgram.run

    def fail(self, rates, seeds, on_chunk):
        if (rates, seeds) == ([1.0], [0]) and "w8" in self.task.name:
            raise RuntimeError("out of luck")
        return original(self, rates, seeds, on_chunk)

    with monkeypatch.context() as patch:
        patch.setattr(training.TrainingProgram, "run", fail)
        assert run.run(config(), tmp_path) == 1
    said = capsys.readouterr().out
    assert "FAILED: mlp-w8-d1-synthetic:4x4x1:3 mu_sgd cosine × 20, rate 1" in said
    values = json.loads((tmp_path / "summary.json").read_text())
    assert len(values["failures"]) == 1
    assert {e["setting"] for e in values["entries"] if e["tuning"] == "per_cell"} == {
        0,
        1,
    }
    assert run.run(config(), tmp_path) == 0
    values = json.loads((tmp_path / "summary.json").read_text())
    assert values["failures"] == []
    assert {entry["setting"] for entry in values["entries"]} == {0, 1}


def test_a_baseline_that_diverges_in_every_seed_is_shown(tmp_path, capsys):
    made = config(widths=(4,), learning_rates={"mu_sgd": (1e37, 1e38)})
    assert run.run(made, tmp_path) == 0
    values = json.loads((tmp_path / "summary.json").read_text())
    (entry,) = values["entries"]
    assert (entry["num_seeds"], entry["num_diverged"]) == (2, 2)
    assert entry["train_loss"] is None
    assert any(text.endswith("no baseline succeeded.") for text in values["warnings"])
    assert "2/2" in capsys.readouterr().out


def test_a_sweep_of_which_nothing_compiles_is_status_1(tmp_path, monkeypatch, capsys):
    def broken(*args, **settings):
        raise ValueError("cannot be compiled")

    monkeypatch.setattr(training, "TrainingProgram", broken)
    assert run.run(config(widths=(4,)), tmp_path) == 1
    assert "No entry is complete" in capsys.readouterr().out


def test_a_learned_optimizer_without_theta_says_which_flag(tmp_path):
    with pytest.raises(ValueError, match="give --theta=<folder>, or leave it out"):
        run.run(config(optimizers=("mulo",)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_cannot_be_written_stops_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run.run(config(), tmp_path / "file")


def test_bad_reference_curves_stop_before_training(tmp_path):
    made = config(reference_curves=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="reference_curves"):
        run.run(made, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("task", "has_accuracy"),
    [
        ("transformer-d1-h1-s4-synthetic_text:4", True),
        ("mlpae-d3-synthetic:4x4x1:3", False),
    ],
)
def test_text_and_tasks_without_accuracy_run_to_the_report(
    task, has_accuracy, tmp_path
):
    made = config(tasks=(task,), widths=(4,), learning_rates={"mu_sgd": (0.1,)})
    made.batch_examples_of.transformer = 8
    assert run.run(made, tmp_path) == 0
    values = json.loads((tmp_path / "summary.json").read_text())
    assert values["num_diverged_cells"] == 0
    for entry in values["entries"]:
        assert (entry["valid_accuracy"] is not None) == has_accuracy
    for row in csv.DictReader((tmp_path / "results.csv").read_text().splitlines()):
        assert float(row["final_train_loss"]) < float(row["initial_train_loss"])
