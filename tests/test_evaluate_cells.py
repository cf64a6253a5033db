import dataclasses
import itertools
import math
import shutil

import numpy as np
import pytest
from helpers import sweep_parts

import tasks
from evaluate.sweep import cells
from mulo import _files as files

PROGRAM = cells.Program(
    task=tasks.names.parse("mlp-w8-d1-synthetic:4x4x1:3"),
    optimizer="mu_adam",
    schedule="cosine",
    hyper=(("b1", 0.9), ("b2", 0.99)),
    horizon_steps=100,
    batch_size=16,
    theta_sha256="",
    num_train_examples=512,
    num_valid_examples=128,
)
CELL = cells.Cell(program=PROGRAM, learning_rate=0.1, seed=0)
# Something else for every field.
OTHERS = {
    "task": tasks.names.parse("mlp-w16-d1-synthetic:4x4x1:3"),
    "optimizer": "mu_sgd",
    "schedule": "constant",
    "hyper": (("b1", 0.9), ("b2", 0.999)),
    "horizon_steps": 101,
    "batch_size": 17,
    "theta_sha256": "0" * 64,
    "num_train_examples": 513,
    "num_valid_examples": 129,
    "activations": True,
}


def result(final=0.5, valid_steps=(50, 100), **changes):
    made = sweep_parts.result(CELL, final, valid_steps)
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(cells.Program)])
def test_every_field_of_the_program_changes_the_file(field, tmp_path):
    program = dataclasses.replace(PROGRAM, **{field: OTHERS[field]})
    other = dataclasses.replace(CELL, program=program)
    assert other.digest() != CELL.digest()
    assert other.path(tmp_path) != CELL.path(tmp_path)


@pytest.mark.parametrize("changes", [{"learning_rate": 0.1 + 1e-9}, {"seed": 1}])
def test_rate_and_seed_change_the_file(changes, tmp_path):
    other = dataclasses.replace(CELL, **changes)
    assert other.digest() != CELL.digest()
    assert other.path(tmp_path) != CELL.path(tmp_path)


@pytest.mark.parametrize("block_size", [64, 64.0])
def test_finished_cells_of_earlier_versions_are_found_again(block_size):
    hyper = (("b1", 0.9), ("block_size", block_size))
    program = dataclasses.replace(PROGRAM, optimizer="mu_soap_blocked", hyper=hyper)
    cell = dataclasses.replace(CELL, program=program)
    assert cell.digest().startswith("da02aca60a1b3fb1")


def test_names_of_tasks_fit_a_file_name(tmp_path):
    task = "mlp-w8-d1-imagenet_resized/32x32:8x8:gray:first=" + "9" * 300
    program = dataclasses.replace(PROGRAM, task=tasks.names.parse(task))
    path = dataclasses.replace(CELL, program=program).path(tmp_path)
    assert path.parent == tmp_path
    assert ":" not in path.name
    assert len(path.name) < 255


@pytest.mark.parametrize("final", [0.5, math.nan])
def test_a_result_is_read_back_as_it_was_written(final, tmp_path):
    written = result(
        final,
        activation_changes={
            "first": np.array([0.1, 0.2], np.float32),
            "logits": np.array([0.3, np.nan], np.float32),
        },
    )
    path = cells.write(tmp_path / "cells", written)
    assert path == CELL.path(tmp_path / "cells")
    found = cells.read(tmp_path / "cells", CELL, (50, 100))
    assert found is not None
    for field in dataclasses.fields(cells.CellResult):
        first, second = getattr(written, field.name), getattr(found, field.name)
        if isinstance(first, np.ndarray):
            np.testing.assert_array_equal(second, first)
            assert second.dtype == first.dtype
        elif isinstance(first, dict):
            assert list(second) == list(first)
            np.testing.assert_array_equal(list(second.values()), list(first.values()))
        else:
            assert second == first


def test_missing_results_are_none_without_a_word(tmp_path, capsys):
    assert cells.read(tmp_path, CELL) is None
    assert capsys.readouterr().err == ""


def garbage(path):
    path.write_bytes(b"PK\x03\x04 no, this is nothing of the kind")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def other_text(path):
    path.write_text('{"cell": {}}')


def other_definition(path):
    other = dataclasses.replace(result(), cell=dataclasses.replace(CELL, seed=1))
    shutil.copy(cells.write(path.parent / "other", other), path)


def other_arrays(path):
    np.savez(path, about=np.array("{}"))


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        garbage,
        truncated,
        half,
        empty,
        other_text,
        other_definition,
        other_arrays,
        flipped,
    ],
)
def test_damaged_results_are_reported_and_count_as_missing(damage, tmp_path, capsys):
    path = cells.write(tmp_path, result())
    damage(path)
    assert cells.read(tmp_path, CELL) is None
    said = capsys.readouterr().err
    assert said.startswith(f"evaluate: {path} is unusable (")
    assert said.endswith("): running it again.\n")


def test_a_file_that_cannot_be_read_is_an_error_and_not_run_again(tmp_path):
    CELL.path(tmp_path).mkdir()
    with pytest.raises(IsADirectoryError):
        cells.read(tmp_path, CELL)


def test_a_result_without_a_validation_that_is_needed_is_none(tmp_path):
    cells.write(tmp_path, result())
    assert cells.read(tmp_path, CELL, (50, 100)) is not None
    assert cells.read(tmp_path, CELL, (100,)) is not None
    assert cells.read(tmp_path, CELL, (25, 50, 100)) is None


def test_a_result_that_overflowed_needs_validations_up_to_there_only(tmp_path):
    cells.write(tmp_path, result(math.nan))  # From step 50 on.
    assert cells.read(tmp_path, CELL, (50, 75, 100)) is not None
    assert cells.read(tmp_path, CELL, (25, 50, 100)) is None


def test_shards_are_disjoint_and_complete():
    everything = [
        cells.Cell(program=PROGRAM, learning_rate=lr, seed=seed)
        for lr in (0.1, 0.2, 0.3)
        for seed in range(5)
    ]
    parts = [cells.shard(everything, f"{i}/4") for i in (1, 2, 3, 4)]
    assert set(itertools.chain(*parts)) == set(everything)
    assert sum(map(len, parts)) == len(everything)
    assert {len(part) for part in parts} == {3, 4}


@pytest.mark.parametrize("spec", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", ""])
def test_shards_of_another_form_are_an_error(spec):
    with pytest.raises(ValueError, match="shard must be i/n"):
        cells.shard([CELL], spec)


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing(
    tmp_path, monkeypatch
):
    path = tmp_path / "x.json"
    files.write(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.json'"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
