"""A run's directory: config, metrics, checkpoints, theta; what resume needs.

``config.json``, ``metrics.jsonl`` (one line per log step), ``checkpoints/`` (orbax),
``theta/`` (``model.safetensors`` and ``card.json``) and, with probes, ``theta_best/``.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from meta_train import (
    estimators,
    imitation,
    meta_optimizer,
    objective,
    population,
    probes,
    rules,
)
from mulo import _files as files

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
THETA = "theta"
THETA_BEST = "theta_best"
_PARTIAL = ".orbax-checkpoint-tmp"  # How orbax names a checkpoint till it is whole.

# How long a run lasts, when it stops, what it keeps and tells, and how its work is laid
# out on devices: free to change while it goes on.
_FREE = (
    "run.meta_steps",
    "run.log_steps",
    "run.checkpoint_steps",
    "run.keep_checkpoints",
    "run.keep_every_steps",
    "run.max_diverged_frac",
    "run.particles_at_once",
    "probes.every_steps",
)
_FREE_SECTIONS = ("report.",)


def _defaults(settings: type, *names: str) -> dict[str, Any]:
    """Defaults of some fields of a dataclass."""
    return {name: settings.__dataclass_fields__[name].default for name in names}


# What runs saved before there were these keys did.
_ADDED: Mapping[str, Any] = {
    "objective": dataclasses.asdict(objective.MEAN_LOSS),
    "imitation": dataclasses.asdict(imitation.ImitationConfig()),
    "normalize_grads": False,
    "population": dataclasses.asdict(population.PopulationConfig()),
    "task_clip_norm": 0.0,
    "estimator": _defaults(
        estimators.EstimatorConfig,
        *("noise_period", "loss_diff", "winsorize_frac", "num_truncs"),
        *("restart_prob", "restart_slack", "restart_threshold"),
    ),
    "meta_optimizer": _defaults(
        meta_optimizer.MetaOptimizerConfig, "name", "step_factor", "clip_value"
    ),
    "probes": {**dataclasses.asdict(probes.ProbeConfig()), "tasks": []},
    "run": {"keep_every_steps": 0, "max_diverged_frac": 1.0, "particles_at_once": 0},
}


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

    A run may go on for longer, or tell other things: these keys are written anew, and
    a line on stderr says which.

    Raises:
      ValueError: If it holds a run of another config, naming the keys that differ, or
        one that has done more meta-steps already.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / CONFIG
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    if not path.exists():
        files.write(path, text)
        return
    try:
        there = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON ({error}): restore it, or take another --workdir."
        ) from error
    if "rule" in there:  # One saved without a name has it by now.
        there["rule"] = {"name": rules.DEFAULT, **there["rule"]}
    if "pes" in there:  # When there was one estimator.
        section = there.pop("pes")
        noise = section.pop("noise", "fresh")
        name = {"fresh": "pes", "reused": "noise_reuse_es"}[noise]
        there["estimator"] = {"name": name, **section}
    old, new = flatten(there), flatten(json.loads(text))
    for key, value in flatten(_ADDED).items():
        if key in new:
            old.setdefault(key, value)
    changed = differing(old, new)
    if refused := [key for key in changed if not _is_free(key)]:
        lines = [f"  {k}: {show(old, k)} there, {show(new, k)} here" for k in refused]
        raise ValueError(
            f"{workdir} holds a run with another config:\n"
            + "\n".join(lines)
            + "\nTake the same config to resume it, or another --workdir."
        )
    if not changed:
        return
    done = meta_steps_done(workdir)
    if new.get("run.meta_steps", done) < done:
        raise ValueError(
            f"run.meta_steps must be at least {done}, the meta-steps that {workdir} "
            f"has done, got {new['run.meta_steps']}."
        )
    files.write(path, text)
    lines = [f"{k} {show(old, k)} → {show(new, k)}" for k in changed]
    print(f"{workdir} goes on with {', '.join(lines)}.", file=sys.stderr)


def _is_free(key):
    return key in _FREE or key.startswith(_FREE_SECTIONS)


_ABSENT = object()


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys of two flat configs that only one has, or whose values differ."""
    return [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]


def show(flat: Mapping[str, Any], key: str) -> str:
    """Value of a flat config's key, or that it has none."""
    return repr(flat[key]) if key in flat else "(absent)"


def meta_steps_done(workdir: pathlib.Path) -> int:
    """Meta-step of the newest complete checkpoint; 0 without one."""
    folder = workdir / CHECKPOINTS
    # Half-written ones have another name.
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


# What an operating system says of a disk that cannot be written.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class Checkpoints:
    """Atomic checkpoints of one dataclass of pytrees, the newest few kept.

    Attributes:
      num_devices: Those that share the work, told by the checkpoints saved.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        keep: int,
        keep_every: int = 0,
        num_devices: int = 1,
    ):
        """Open the directory's checkpoints; half-written ones do not count.

        Args:
          workdir: Of the run.
          keep: Newest ones kept.
          keep_every: Those of multiples of this many meta-steps are never removed.
          num_devices: Devices that share the work.
        """
        self.num_devices = num_devices
        self._folder = workdir / CHECKPOINTS
        self._manager = ocp.CheckpointManager(
            self._folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                keep_period=keep_every or None,
                enable_async_checkpointing=True,
            ),
        )

    def latest(self) -> int | None:
        """Meta-step of the newest complete checkpoint, if any."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: Any, *, unprobed: Mapping[str, Any] | None = None
    ) -> None:
        """Start saving; the arrays may be reused once this returns.

        Args:
          step: Its meta-step.
          state: A dataclass.
          unprobed: The step's line of metrics, if its probes are still to come.

        Raises:
          OSError: If the disk was full or read-only, for this checkpoint or the one
            before.
        """
        if self._manager.latest_step() != step:
            with self._unwritable_said():
                self._manager.save(
                    step,
                    args=ocp.args.StandardSave(_used(state)),
                    custom_metadata={
                        "devices": self.num_devices,
                        "unprobed": json.dumps(unprobed),
                    },
                )

    def unprobed(self, step: int) -> dict[str, Any] | None:
        """The line of metrics of a checkpoint whose probes are still to come."""
        return json.loads(self._facts(step).get("unprobed", "null"))

    def _facts(self, step):
        return self._manager.metadata(step).custom_metadata or {}

    def restore(self, step: int, like: Any) -> Any:
        """Read a checkpoint into arrays of the shapes, dtypes and shardings of like.

        One of another number of devices is spread over those there are; a line on
        stderr says so.

        Raises:
          ValueError: If it holds another state, as that of another estimator or rule.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _used(like))
        try:
            restored = self._manager.restore(
                step, args=ocp.args.StandardRestore(abstract)
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._folder / str(step)} does not hold the state of this config "
                f"({str(error).strip().splitlines()[0]}). Nothing was changed: take "
                "the config and the version of mulo it was made with, or another "
                "--workdir."
            ) from error
        before = self._facts(step).get("devices", self.num_devices)
        if before != self.num_devices and jax.process_index() == 0:
            print(
                f"{self._folder.parent} goes on at meta-step {step} on "
                f"{self.num_devices} devices, before on {before}: the same runs, alike "
                "up to rounding.",
                file=sys.stderr,
            )
        return dataclasses.replace(like, **restored)

    def wait(self) -> None:
        """Block until what was saved is on disk; OSError as `save`."""
        with self._unwritable_said():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish and release the directory; OSError as `save`."""
        with self._unwritable_said():
            self._manager.close()

    @contextlib.contextmanager
    def _unwritable_said(self) -> Iterator[None]:
        """Remove what a full disk left half-written, and raise an OSError of it."""
        try:
            yield
        except Exception as error:
            # What tensorstore raises is no OSError.
            said = [n for n in _UNWRITABLE if os.strerror(n) in str(error)]
            if not said:
                raise
            with contextlib.suppress(Exception):  # One before may be on its way.
                self._manager.wait_until_finished()
            for partial in self._folder.glob(f"*{_PARTIAL}"):
                shutil.rmtree(partial, ignore_errors=True)
            raise OSError(said[0], os.strerror(said[0]), str(self._folder)) from error


def _used(state):
    """Fields by name, without the empty ones: files older than these lack them."""
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if jax.tree.leaves(value)}
