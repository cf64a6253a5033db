"""Cells that could not be run: recorded beside the results, tried again next time."""

import dataclasses
import hashlib
import json
import pathlib

from evaluate import cells as cells_lib
from evaluate import files, plan

_FOLDER = "failures"


@dataclasses.dataclass(frozen=True)
class Failure:
    """What did not run, and why."""

    what: str  # The unit, and the cell if it was one.
    reason: str
    digest: str  # Of what failed: part of the record's name.


def of_unit(unit: plan.Unit, reason: str) -> Failure:
    """Describe the failure of a whole unit: it did not compile, or its worker died."""
    digest = hashlib.sha256(unit.label.encode()).hexdigest()[:16]
    return Failure(unit.label, reason, digest)


def of_cell(unit: plan.Unit, cell: cells_lib.Cell, reason: str) -> Failure:
    """Describe the failure of one cell."""
    what = f"{unit.label}, rate {cell.learning_rate:g}, seed {cell.seed}"
    return Failure(what, reason, cell.digest()[:16])


def write(folder: pathlib.Path, failure: Failure) -> pathlib.Path:
    """Record a failure beside the folder of cells."""
    path = folder.parent / _FOLDER / f"{failure.digest}.json"
    values = {"what": failure.what, "reason": failure.reason}
    return files.write_text(path, json.dumps(values, indent=1) + "\n")


def clear(folder: pathlib.Path, failure: Failure) -> None:
    """Forget a failure: it ran after all."""
    (folder.parent / _FOLDER / f"{failure.digest}.json").unlink(missing_ok=True)


def recorded(folder: pathlib.Path) -> list[Failure]:
    """Return the failures recorded beside a folder of cells, of every shard."""
    found = []
    for path in sorted((folder.parent / _FOLDER).glob("*.json")):
        try:
            values = json.loads(path.read_text())
            found.append(Failure(values["what"], values["reason"], path.stem))
        except (OSError, ValueError, KeyError, TypeError) as error:
            found.append(Failure(str(path), f"unreadable record: {error}", path.stem))
    return found
