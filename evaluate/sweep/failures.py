"""Cells that could not be run: recorded beside the results, tried again next time."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

from evaluate.sweep import cells as cells_lib
from evaluate.sweep import plan
from mulo import _files as files

_FOLDER = "failures"


@dataclasses.dataclass(frozen=True)
class Failure:
    """What did not run, and why."""

    what: str  # The unit, and the cell if it was one.
    reason: str
    digest: str  # Of what failed: part of the record's name.
    unit: str = ""  # Digest of the unit.
    rate: float | None = None  # None with the next one: the whole unit.
    seed: int | None = None


def of_unit(unit: plan.Unit, reason: str) -> Failure:
    """Describe the failure of a whole unit: it did not compile, or its worker died."""
    digest = _digest(unit)
    return Failure(unit.label, reason, digest, digest)


def of_cell(unit: plan.Unit, cell: cells_lib.Cell, reason: str) -> Failure:
    """Describe the failure of one cell."""
    what = f"{unit.label}, rate {cell.learning_rate:g}, seed {cell.seed}"
    return Failure(
        what,
        reason,
        cell.digest()[:16],
        _digest(unit),
        cell.learning_rate,
        cell.seed,
    )


def write(folder: pathlib.Path, failure: Failure) -> pathlib.Path:
    """Record a failure beside the folder of cells."""
    path = folder.parent / _FOLDER / f"{failure.digest}.json"
    text = json.dumps(dataclasses.asdict(failure), indent=1)
    return files.write(path, text + "\n")


def clear(folder: pathlib.Path, failure: Failure) -> None:
    """Forget a failure: it ran after all."""
    (folder.parent / _FOLDER / f"{failure.digest}.json").unlink(missing_ok=True)


def recorded(folder: pathlib.Path, units: Sequence[plan.Unit]) -> list[Failure]:
    """Return the failures of some units recorded beside a folder of cells.

    Records of other sweeps, and those that cannot be read, do not count.
    """
    known = {_digest(unit) for unit in units}
    found = []
    for path in sorted((folder.parent / _FOLDER).glob("*.json")):
        try:
            failure = Failure(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue
        if failure.unit in known:
            found.append(failure)
    return found


def pairs(
    recorded_: Sequence[Failure], unit: plan.Unit
) -> frozenset[tuple[float, int]]:
    """Return rates and seeds of a unit that failed."""
    return frozenset(
        (f.rate, f.seed)
        for f in recorded_
        if f.unit == _digest(unit) and f.rate is not None and f.seed is not None
    )


def whole(recorded_: Sequence[Failure], unit: plan.Unit) -> bool:
    """Whether a unit could not be run at all."""
    return any(f.unit == _digest(unit) and f.rate is None for f in recorded_)


def _digest(unit: plan.Unit) -> str:
    text = f"{unit.published_rate} {unit.program.written()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
