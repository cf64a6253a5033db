import os
import pathlib
from typing import Any

import numpy as np
import pytest
from helpers import sweep_parts

from evaluate.sweep import contenders, engine, plan, training, worker
from mulo import _cores

GRID = (0.1, 1.0)
CHANGES = {
    "optimizers": ("mu_sgd", "mu_adam"),
    "learning_rates": {"mu_sgd": GRID, "mu_adam": GRID},
    "lanes": 1,
}


def sweep(folder, **changes):
    """Run a sweep; return its units and the outcome."""
    config = sweep_parts.config(**(CHANGES | changes))
    entered, _ = contenders.enter(config)
    units = plan.units(config, entered, plan.data_sizes(config))
    worker.forget()
    return config, units, engine.run(config, units, units, folder)


def stored(folder):
    return sorted(path.name for path in folder.iterdir())


def losses(folder):
    """Return training and validation losses by file."""
    found = {}
    for path in folder.iterdir():
        with np.load(path) as file:
            found[path.name] = (file["losses"], file["valid_losses"])
    return found


def assert_same(found, expected, rtol=0.0):
    assert found.keys() == expected.keys()
    for name in expected:
        for first, second in zip(expected[name], found[name], strict=True):
            np.testing.assert_allclose(second, first, rtol=rtol, err_msg=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "cells"
    return folder, *sweep(folder)


def test_a_sweep_runs_every_cell_it_wants_and_no_other(finished):
    folder, config, units, outcome = finished
    assert outcome.failures == ()
    assert outcome.num_waiting == 0
    rates = engine.transferred(config, units, folder)
    assert set(rates) == {("mu_sgd", "cosine"), ("mu_adam", "cosine")}
    names = []
    for unit in units:
        moved = plan.rates_for(config, unit, rates)
        found, _ = worker.present(config, unit, folder, moved)
        wanted = plan.wanted(config, unit, found, transferred=moved)
        names += [cell.path(folder).name for cell in wanted]
    assert sorted(names) == stored(folder)
    assert outcome.num_cells_run == len(names) >= 4 * 3
    assert not (folder.parent / "failures").exists()


def test_a_complete_sweep_compiles_nothing(finished, monkeypatch):
    folder = finished[0]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(training, "TrainingProgram", None)
    monkeypatch.setattr(training, "TaskPrograms", None)
    *_, outcome = sweep(folder)
    assert (outcome.num_cells_run, outcome.failures) == (0, ())
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_missing_and_damaged_cells_alone_are_run_again(finished, monkeypatch, capsys):
    folder = finished[0]
    before = losses(folder)
    missing, damaged = (sorted(folder.iterdir())[i] for i in (1, 6))
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-100])
    ran = []
    original = training.TrainingProgram.run

    def spy(self, rates, seeds, on_chunk):
        ran.append((self.task.name, *rates, *seeds))
        return original(self, rates, seeds, on_chunk)

    monkeypatch.setattr(training.TrainingProgram, "run", spy)
    assert sweep(folder)[-1].num_cells_run == len(ran) == 2
    assert f"{damaged} is unusable" in capsys.readouterr().err
    after = losses(folder)
    assert_same(after, before)


def test_lanes_give_what_single_runs_give(finished, tmp_path):
    *_, outcome = sweep(tmp_path / "cells", lanes=3)
    assert outcome.num_cells_run == finished[-1].num_cells_run
    expected, found = losses(finished[0]), losses(tmp_path / "cells")
    assert_same(found, expected, rtol=2e-4)


LOST = ("mlp-w8", "mu_sgd")


def dying(config, unit, folder, rates, index):
    """Work like a worker, but die on one of the units."""
    if (str(unit.program.task)[:6], unit.program.optimizer) == LOST:
        os._exit(3)
    return engine._work(config, unit, folder, rates, index)


def test_a_worker_that_dies_is_recorded_and_the_rest_goes_on(
    finished, tmp_path, monkeypatch
):
    folder = tmp_path / "cells"
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_work", dying)
        _, units, outcome = sweep(folder, jobs=2)
    (lost,) = [
        u for u in units if (str(u.program.task)[:6], u.program.optimizer) == LOST
    ]
    (failure,) = outcome.failures
    assert failure.what == lost.label
    assert "the worker process died" in failure.reason
    (record,) = (tmp_path / "failures").iterdir()
    assert "the worker process died" in record.read_text()
    expected, found = losses(finished[0]), losses(folder)
    assert found.keys() == {
        name for name in expected if (name[:6], name.split(".")[1]) != LOST
    }
    assert outcome.num_cells_run == len(found)
    assert_same(found, {name: expected[name] for name in found})
    *_, outcome = sweep(folder)
    assert outcome.failures == ()
    assert losses(folder).keys() == expected.keys()
    assert not list((tmp_path / "failures").iterdir())


def test_a_cell_that_fails_is_recorded_skipped_and_tried_again(tmp_path, monkeypatch):
    folder = tmp_path / "cells"
    original = training.TrainingProgram.run

    def run(self, rates, seeds, on_chunk):
        if (rates, seeds) == ([1.0], [0]) and "w4" in self.task.name:
            raise RuntimeError("out of luck")
        return original(self, rates, seeds, on_chunk)

    changes = {"optimizers": ("mu_sgd",), "num_seeds": 1}
    with monkeypatch.context() as patch:
        patch.setattr(training.TrainingProgram, "run", run)
        *_, outcome = sweep(folder, **changes)
    (failure,) = outcome.failures
    assert failure.what.endswith("mu_sgd cosine × 20, rate 1, seed 0")
    assert failure.reason == "RuntimeError: out of luck"
    (record,) = (tmp_path / "failures").iterdir()
    assert "out of luck" in record.read_text()
    assert len(stored(folder)) == 3
    *_, outcome = sweep(folder, **changes)
    assert (outcome.num_cells_run, outcome.failures) == (1, ())
    assert not list((tmp_path / "failures").iterdir())


def test_a_program_that_does_not_compile_is_recorded_and_tried_again(
    tmp_path, monkeypatch
):
    folder = tmp_path / "cells"
    changes = {"optimizers": ("mu_sgd",), "num_seeds": 1, "widths": (4,)}

    def broken(*args, **settings):
        raise ValueError("cannot be compiled")

    with monkeypatch.context() as patch:
        patch.setattr(training, "TrainingProgram", broken)
        *_, outcome = sweep(folder, **changes)
    assert [f.reason for f in outcome.failures] == ["ValueError: cannot be compiled"]
    assert len(list((tmp_path / "failures").iterdir())) == 1
    assert sweep(folder, **changes)[-1].failures == ()
    assert not list((tmp_path / "failures").iterdir())


@pytest.fixture(scope="module")
def horizons(tmp_path_factory):
    """Runs of 20 and 30 steps, read off one run and each by itself."""
    folder = tmp_path_factory.mktemp("horizons")
    changes: dict[str, Any] = {"optimizers": ("mu_adam",), "widths": (4,)}
    changes |= {"num_seeds": 1, "learning_rates": {"mu_adam": (0.1,)}}
    for schedule in ("constant", "cosine"):
        for name, steps in (("both", (20, 30)), ("short", (20,))):
            made = changes | {"schedules": (schedule,), "horizons": steps}
            sweep(folder / schedule / name / "cells", **made)
    return folder


def read(folder, name, steps):
    (path,) = (folder / name / "cells").glob(f"*.t{steps}.*")
    with np.load(path) as file:
        return file["losses"], dict(
            zip(file["valid_steps"].tolist(), file["valid_losses"], strict=True)
        )


def test_a_run_at_a_constant_rate_serves_shorter_horizons(horizons):
    folder = horizons / "constant"
    assert len(stored(folder / "both" / "cells")) == 1
    long_losses, long_valid = read(folder, "both", 30)
    losses, valid = read(folder, "short", 20)
    np.testing.assert_array_equal(long_losses[:20], losses)
    assert long_valid[20] == valid[20]


def test_a_scheduled_run_serves_its_own_horizon_only(horizons):
    folder = horizons / "cosine"
    assert len(stored(folder / "both" / "cells")) == 2
    long_losses, _ = read(folder, "both", 30)
    short_losses, _ = read(folder, "both", 20)
    np.testing.assert_array_equal(short_losses, read(folder, "short", 20)[0])
    assert not np.array_equal(long_losses[:20], short_losses)


def test_a_result_without_a_validation_that_is_needed_is_run_again(tmp_path):
    changes: dict[str, Any] = {"optimizers": ("mu_adam",), "widths": (4,)}
    changes |= {"num_seeds": 1, "learning_rates": {"mu_adam": (0.1,)}}
    changes["schedules"] = ("constant",)
    folder = tmp_path / "cells"
    sweep(folder, **changes, horizons=(30,))
    *_, outcome = sweep(folder, **changes, horizons=(30, 7))
    assert outcome.num_cells_run == 1
    assert 7 in read(tmp_path.parent, tmp_path.name, 30)[1]


def test_a_shard_without_the_base_says_how_many_programs_wait(tmp_path):
    config = sweep_parts.config(
        **(CHANGES | {"num_seeds": 1, "optimizers": ("mu_sgd",)})
    )
    entered, _ = contenders.enter(config)
    units = plan.units(config, entered, plan.data_sizes(config))
    others = [unit for unit in units if unit.settings[0].width == 8]
    outcome = engine.run(config, units, others, tmp_path / "cells")
    assert outcome.num_waiting == 1
    outcome = engine.run(config, units, units, tmp_path / "cells")
    assert outcome.num_waiting == 0


def test_results_that_cannot_be_written_stop_the_sweep(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        sweep(tmp_path / "file" / "cells", optimizers=("sgd",), widths=(4,))


def test_jobs_are_as_many_as_cores_unless_told():
    assert engine.jobs(sweep_parts.config(jobs=3)) == 3
    assert engine.jobs(sweep_parts.config(jobs=0)) == len(_cores.usable())


def test_estimates_count_what_is_there(finished):
    folder, config, units, _ = finished
    rows = engine.estimate(config, units, units, folder)
    assert [unit for unit, *_ in rows] == units
    assert sum(there for _, there, *_ in rows) >= 4 * 3
    empty = engine.estimate(config, units, units, pathlib.Path("nowhere"))
    for unit, there, left, secs, size in empty:
        assert there == 0
        assert left == plan.expected_cells(config, unit)
        assert secs > 1
        assert size > 1000


def test_lanes_are_what_memory_holds_but_no_more_than_there_are_cells():
    config = sweep_parts.config(lanes=8)
    (unit, *_) = sweep_parts.units(config)
    assert worker.num_lanes(config, unit, 3) == 3
    assert worker.num_lanes(config, unit, 30) == 8
    assert worker.num_lanes(sweep_parts.config(), unit, 30) == 1  # On a CPU.
    (unit, *_) = sweep_parts.units(config, [sweep_parts.contender("mu_soap")])
    assert worker.num_lanes(config, unit, 30) == 1
