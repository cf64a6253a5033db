"""One training run of a sweep: what is trained, and the small file with its curves.

A cell is a task, an optimizer with its schedule and hyper-parameters, a learning rate,
a seed and a horizon. Its definition is hashed; the hash is part of the file's name, so
a result is found again exactly when it was produced by the same definition, whatever
else the configuration says by now.

Axes: T steps of the run, V validations, K layers.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
import sys
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import tasks
from mulo import _files as files

# Raise when a change of the code makes earlier results incomparable.
SCHEMA = 2

_said: set[pathlib.Path] = set()  # Damaged files that were reported already.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What cells must share to run in one compiled program."""

    task: tasks.names.TaskName  # Whole, and with sp- where it is meant.
    optimizer: str  # A name in :mod:`evaluate.optimizers.names`.
    schedule: str  # One of :data:`evaluate.optimizers.schedules.NAMES`.
    hyper: tuple[tuple[str, float], ...]  # Sorted, without the learning rate; typed.
    horizon_steps: int
    batch_size: int  # Examples.
    theta_sha256: str  # Empty for hand-designed optimizers.
    num_train_examples: int  # With the next one, tells apart versions of a data set.
    num_valid_examples: int
    activations: bool = False  # Whether changes of activations are measured.

    def written(self) -> dict[str, Any]:
        """Return the fields as files hold them: every number of ``hyper`` a float."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        hyper = tuple((name, float(number)) for name, number in self.hyper)
        return {**values, "task": str(self.task), "hyper": hyper}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run."""

    program: Program
    learning_rate: float
    seed: int

    def definition(self) -> dict[str, Any]:
        """Return everything that decides the result, as JSON-ready values."""
        program = self.program.written()
        return {
            "schema": SCHEMA,
            **program,
            "hyper": dict(program["hyper"]),
            "learning_rate": self.learning_rate,
            "seed": self.seed,
        }

    def digest(self) -> str:
        """Return the sha256 of the definition."""
        text = json.dumps(self.definition(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def path(self, folder: pathlib.Path) -> pathlib.Path:
        """Return where the result lies under ``folder``."""
        # Task names of tfds sets hold "/" and ":"; some are longer than a file's name.
        task = "".join(
            c if c.isalnum() or c in "-_" else "_" for c in str(self.program.task)
        )
        return folder / (
            f"{task[:100]}.{self.program.optimizer}.{self.program.schedule}."
            f"t{self.program.horizon_steps}.lr{self.learning_rate:g}.s{self.seed}."
            f"{self.digest()[:16]}.npz"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellResult:
    """What one training run gave. Losses are the task's; NaN: not finite."""

    cell: Cell
    losses: np.ndarray  # (T,), float32. Of minibatches, before each update.
    valid_steps: np.ndarray  # (V,), int32, rising to T. Steps taken when validated.
    valid_losses: np.ndarray  # (V,), float32. Over the whole validation split.
    valid_accuracies: np.ndarray  # (V,), float32. NaN for tasks without.
    chance_loss: float | None  # Of the task; None where there are no labels.
    secs_per_step: float  # Wall clock without compilation, shared out over the lanes.
    lanes: int  # Cells trained side by side when this was timed.
    # By layer, (V,): std over examples and units of how far it is from initialization.
    activation_changes: Mapping[str, np.ndarray] = dataclasses.field(
        default_factory=dict
    )


def write(folder: pathlib.Path, result: CellResult) -> pathlib.Path:
    """Write a result atomically.

    Raises:
      OSError: If the folder cannot be written.
    """
    about = {
        "cell": result.cell.definition(),
        "chance_loss": result.chance_loss,
        "secs_per_step": result.secs_per_step,
        "lanes": result.lanes,
        "layers": list(result.activation_changes),
    }
    arrays: dict[str, Any] = {
        "about": np.array(json.dumps(about)),
        "losses": np.asarray(result.losses, np.float32),
        "valid_steps": np.asarray(result.valid_steps, np.int32),
        "valid_losses": np.asarray(result.valid_losses, np.float32),
        "valid_accuracies": np.asarray(result.valid_accuracies, np.float32),
    }
    changes = list(result.activation_changes.values())
    if changes:
        arrays["activation_changes"] = np.asarray(changes, np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return files.write(result.cell.path(folder), buffer.getvalue())


def read(
    folder: pathlib.Path, cell: Cell, valid_steps: Sequence[int] = ()
) -> CellResult | None:
    """Return the stored result of ``cell``, or None when there is none to trust.

    A file that is damaged or holds another definition is reported on standard error and
    counts as missing, so that the sweep computes it again.

    Args:
      folder: Holds the result files.
      cell: What was run.
      valid_steps: When it must have been validated, if it stayed finite so long.
    """
    path = cell.path(folder)
    try:
        # numpy leaves a file open that it finds to be damaged.
        content = io.BytesIO(path.read_bytes())
        with np.load(content, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        about = json.loads(str(arrays.pop("about")))
        if about["cell"] != json.loads(json.dumps(cell.definition())):
            raise ValueError("it holds another definition")
        layers = about["layers"]
        changes = arrays.pop("activation_changes", ())
        result = CellResult(
            cell=cell,
            chance_loss=about["chance_loss"],
            secs_per_step=about["secs_per_step"],
            lanes=about["lanes"],
            activation_changes=dict(zip(layers, changes, strict=True)),
            **arrays,
        )
        if result.losses.shape != (cell.program.horizon_steps,):
            raise ValueError(f"it holds {result.losses.shape} losses")
    except FileNotFoundError:
        return None
    # What numpy and zipfile raise on damage is not documented: EOFError, zlib.error, …
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, zipfile.BadZipFile):
            if error.errno is not None:
                raise  # A disk's trouble is not the file's.
        if path not in _said:
            _said.add(path)
            print(
                f"evaluate: {path} is unusable ({error}): running it again.",
                file=sys.stderr,
            )
        return None
    finite = np.isfinite(result.losses)
    steps_finite = len(finite) if finite.all() else int(np.argmin(finite))
    wanted = {step for step in valid_steps if step <= steps_finite}
    if wanted - set(result.valid_steps.tolist()):
        return None  # Made for a sweep with other horizons.
    return result


def shard(items: Sequence[Any], shard_spec: str) -> list[Any]:
    """Return the part of ``items`` that job ``"i/n"`` runs, i from 1 to n.

    Every n-th item: each job gets nearly the same mix of widths, hence of cost. The
    parts are disjoint and together are everything.

    Raises:
      ValueError: If the specification is not of this form.
    """
    index, slash, count = shard_spec.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()) or not (
        1 <= int(index) <= int(count)
    ):
        raise ValueError(
            f"shard must be i/n with 1 <= i <= n, like 3/8; got {shard_spec!r}"
        )
    return list(items)[int(index) - 1 :: int(count)]
