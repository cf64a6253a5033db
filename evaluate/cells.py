"""One cell of a sweep: what is trained, and the small file that holds the result.

A cell is a task, an optimizer with its hyper-parameters, a learning rate, a seed and a
horizon. Its definition is hashed; the hash is part of the file's name, so a result is
found again exactly when it was produced by the same definition, whatever else the
configuration says by now.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluate import files

# Raise when a change of the code makes earlier results incomparable.
SCHEMA = 1
MAX_CURVE_POINTS = 500
DIVERGENCE_RULE = (
    "a run diverged when a minibatch loss was not finite, or when its final training "
    "loss exceeds min(1.1 * max(loss at step 0, ln(classes)), 2 * ln(classes)), or "
    "1.1 * loss at step 0 where there are no classes"
)
FINAL_LOSS_RULE = (
    "final training loss = mean minibatch loss of the last 5 % of the steps, at least "
    "10; final validation loss and accuracy are over the whole validation split"
)


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Program:
    """What cells must share to run in one compiled program."""

    task: str  # Full name, with the width.
    optimizer: str
    hyper: tuple[tuple[str, float], ...]  # Sorted, without the learning rate.
    horizon_steps: int
    batch_size: int  # Examples.
    theta_sha256: str | None  # None for hand-designed optimizers.
    num_train_examples: int  # With the next one, tells apart versions of a data set.
    num_valid_examples: int


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """One training run."""

    program: Program
    learning_rate: float
    seed: int

    def definition(self) -> dict[str, Any]:
        """Return everything that decides the result, as JSON-ready values."""
        program: dict[str, Any] = dataclasses.asdict(self.program)
        program["hyper"] = dict(self.program.hyper)
        return {
            "schema": SCHEMA,
            **program,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
        }

    def digest(self) -> str:
        """Return the sha256 of the definition."""
        text = json.dumps(self.definition(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def path(self, folder: pathlib.Path) -> pathlib.Path:
        """Return where the result lies under ``folder``."""
        # Task names of tfds sets hold "/" and ":".
        task = "".join(
            c if c.isalnum() or c in "-_" else "_" for c in self.program.task
        )
        return folder / (
            f"{task}.{self.program.optimizer}.lr{self.learning_rate:g}.s{self.seed}."
            f"{self.digest()[:16]}.json"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellResult:
    """What one training run gave. Losses are the task's; NaN: not finite."""

    cell: Cell
    initial_train_loss: float
    final_train_loss: float
    final_valid_loss: float
    final_valid_accuracy: float  # NaN for tasks without.
    first_nonfinite_step: int | None
    diverged: bool  # As DIVERGENCE_RULE.
    secs_per_step: float  # Wall clock without compilation, shared out over the lanes.
    lanes: int  # Cells trained side by side when this was timed.
    curve_steps: np.ndarray  # (B,), float64. Middle step of each bin.
    curve_losses: np.ndarray  # (B,), float64. Mean training loss of each bin.


def summarize_run(
    cell: Cell,
    losses: np.ndarray,
    *,
    valid_loss: float,
    valid_accuracy: float,
    chance_loss: float | None,
    secs_per_step: float,
    lanes: int = 1,
) -> CellResult:
    """Reduce a run to its result.

    Args:
      cell: What was run.
      losses: shape=(T,), minibatch training loss before each update.
        Steps that were not run because the loss was not finite any more are NaN.
      valid_loss: Mean over the validation split after the last step.
      valid_accuracy: Fraction right on the validation split; NaN for tasks without.
      chance_loss: Of the task, for the divergence rule.
      secs_per_step: Wall-clock seconds.
      lanes: Cells trained side by side.

    Returns:
      The result; where the run was not finite, its final losses are NaN.
    """
    losses = np.asarray(losses, np.float64)
    finite = np.isfinite(losses)
    first_nonfinite = None if finite.all() else int(np.argmin(finite))
    last = min(len(losses), max(10, math.ceil(0.05 * len(losses))))
    # A run that overflowed and came back is not a result either.
    final = float(np.mean(losses[-last:])) if first_nonfinite is None else math.nan
    limit = 1.1 * float(losses[0])
    if chance_loss is not None:
        limit = min(max(limit, 1.1 * chance_loss), 2 * chance_loss)
    finite_end = math.isfinite(valid_loss) and first_nonfinite is None
    steps, curve = bin_curve(losses)
    return CellResult(
        cell=cell,
        initial_train_loss=float(losses[0]),
        final_train_loss=final,
        final_valid_loss=float(valid_loss) if finite_end else math.nan,
        final_valid_accuracy=float(valid_accuracy),
        first_nonfinite_step=first_nonfinite,
        diverged=not (finite_end and final <= limit),
        secs_per_step=float(secs_per_step),
        lanes=lanes,
        curve_steps=steps,
        curve_losses=curve,
    )


def bin_curve(
    losses: np.ndarray, max_points: int = MAX_CURVE_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Average a curve over bins as equal as can be.

    Args:
      losses: shape=(T,), T >= 1.
      max_points: Most bins wanted.

    Returns:
      Middle step of each bin and mean loss of each bin, both shape=(B,) with
      B = min(T, max_points). A bin with a non-finite loss is NaN.
    """
    bins = min(len(losses), max_points)
    edges = np.linspace(0, len(losses), bins + 1).round().astype(int)
    finite = np.where(np.isfinite(losses), losses, np.nan)
    sums = np.add.reduceat(finite, edges[:-1])
    return (edges[:-1] + edges[1:] - 1) / 2, sums / np.diff(edges)


def write(folder: pathlib.Path, result: CellResult) -> pathlib.Path:
    """Write a result atomically; NaN becomes null.

    Raises:
      OSError: If the folder cannot be written.
    """
    values: dict[str, Any] = dataclasses.asdict(result)
    values["cell"] = result.cell.definition()
    values["curve_steps"] = result.curve_steps.tolist()
    values["curve_losses"] = [float(f"{x:.6g}") for x in result.curve_losses]
    text = json.dumps(_nan_to_null(values), indent=None, allow_nan=False)
    return files.write_text(result.cell.path(folder), text + "\n")


def read(folder: pathlib.Path, cell: Cell) -> CellResult | None:
    """Return the stored result of ``cell``, or None when there is none to trust.

    A file that is damaged or holds another definition is reported on standard error and
    counts as missing, so that the sweep computes it again.
    """
    path = cell.path(folder)
    try:
        values = json.loads(path.read_text())
        definition = values.pop("cell")
        if definition != json.loads(json.dumps(cell.definition())):
            raise ValueError("it holds another definition")
        for key in ("curve_steps", "curve_losses"):
            values[key] = np.array(values[key], np.float64)
        for key in (
            "initial_train_loss",
            "final_train_loss",
            "final_valid_loss",
            "final_valid_accuracy",
        ):
            values[key] = math.nan if values[key] is None else values[key]
        return CellResult(cell=cell, **values)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        print(
            f"evaluate: {path} is unusable ({error}): running it again.",
            file=sys.stderr,
        )
        return None


def shard(cells: Sequence[Cell], shard_spec: str) -> list[Cell]:
    """Return the part of ``cells`` that job ``"i/n"`` runs, i from 1 to n.

    Every n-th cell in sorted order: each job gets nearly the same mix of widths, hence
    of cost. The parts are disjoint and together are everything.

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
    return sorted(cells)[int(index) - 1 :: int(count)]


def _nan_to_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nan_to_null(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
