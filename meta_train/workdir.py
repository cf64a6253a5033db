"""A run's directory: config, metrics, checkpoints, theta; what resume needs.

``config.json``, ``metrics.jsonl`` (one line per log step), ``checkpoints/`` (orbax) and
``theta/`` (``model.safetensors`` and ``card.json``).
"""

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from meta_train import rules

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
THETA = "theta"


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file so that readers see the old or the new text, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping → ``{"a.b": value}``, lists kept whole."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def claim(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Make the directory this config's own, or check that it is.

    Raises:
      ValueError: If it holds a run of another config; names the keys that differ.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / CONFIG
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    if not path.exists():
        write_text(path, text)
        return
    try:
        there = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON ({error}): restore it, or take another --workdir."
        ) from error
    if "rule" in there:  # One saved without a name has it by now.
        there["rule"] = {"name": rules.DEFAULT, **there["rule"]}
    old, new = flatten(there), flatten(json.loads(text))
    missing = object()
    changed = [
        f"  {key}: {_show(old.get(key, missing), missing)} there, "
        f"{_show(new.get(key, missing), missing)} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, missing) != new.get(key, missing)
    ]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with another config:\n"
            + "\n".join(changed)
            + "\nTake the same config to resume it, or another --workdir."
        )


def _show(value, missing):
    return "(absent)" if value is missing else repr(value)


class Checkpoints:
    """Atomic checkpoints of one pytree, the newest few kept."""

    def __init__(self, workdir: pathlib.Path, *, keep: int):
        """Open the directory's checkpoints; half-written ones do not count."""
        self._manager = ocp.CheckpointManager(
            (workdir / CHECKPOINTS).absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=True
            ),
        )

    def latest(self) -> int | None:
        """Meta-step of the newest complete checkpoint, if any."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Start saving; the arrays may be reused once this returns."""
        if self._manager.latest_step() != step:
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, step: int, like: Any) -> Any:
        """Read a checkpoint into arrays of the shapes, dtypes and shardings of like."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def wait(self) -> None:
        """Block until what was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish and release the directory."""
        self._manager.close()
