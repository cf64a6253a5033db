"""A full disk is an error that names the path, and leaves nothing half-written."""

import dataclasses
import errno
import json
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from meta_train import reporting, workdir
from mulo import _files as files


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A state to save."""

    theta: Any


class FullFile:
    """A raw file on a disk with room for some bytes more."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, content):
        if not self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self._file.write(content[: self._room])
        self._room -= count
        return count

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_metrics_line_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    log = reporting.MetricsLog(tmp_path, first_step=-1)
    log.write({"meta_step": 1})
    monkeypatch.setattr(log, "_file", FullFile(log._file, room=5))
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.jsonl'"):
        log.write({"meta_step": 2})
    log.close()
    assert [
        *map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    ] == [{"meta_step": 1}]


def test_a_text_that_does_not_fit_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    files.write(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workdir.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*config\.json'"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_does_not_fit_is_removed(tmp_path, monkeypatch):
    checkpoints = workdir.Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, State(jnp.ones(3)))
    checkpoints.wait()
    folder = tmp_path / "checkpoints"

    def full(step, **saved):
        (folder / "2.orbax-checkpoint-tmp" / "d").mkdir(parents=True)
        # As tensorstore says it.
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device [code='28']")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(OSError, match=f"No space left on device: '{folder}'") as raised:
        checkpoints.save(2, State(jnp.ones(3)))
    assert raised.value.errno == errno.ENOSPC
    assert sorted(path.name for path in folder.iterdir()) == ["1"]
    assert workdir.meta_steps_done(tmp_path) == 1
    checkpoints.close()


def test_other_troubles_of_checkpoints_stay_what_they_are(tmp_path, monkeypatch):
    checkpoints = workdir.Checkpoints(tmp_path, keep=2)

    def broken(step, **saved):
        raise ValueError("something else")

    monkeypatch.setattr(checkpoints._manager, "save", broken)
    with pytest.raises(ValueError, match="something else"):
        checkpoints.save(1, State(jnp.ones(3)))
    checkpoints.close()
