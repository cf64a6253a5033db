"""Compares two finished sweeps: ``python -m evaluate.compare A B``.

    python -m evaluate.compare runs/width_old runs/width
    python -m evaluate.compare runs/old runs/new --line=mulo-m --other=my-theta

A and B are workdirs (or their summary.json). Every line that both have is compared on
the settings that both have, seed by seed, by the rules of the report; with ``--line``
one line of A, with ``--other`` another one of B. Says what B does better or worse than
A, and how often beyond doubt. With ``--workdir`` the numbers are written there, as
``compare.json``.

Exit status 0: compared; 1: with ``--strict``, B loses to A beyond doubt in some line;
2: bad input, or nothing in common.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from evaluate.report import comparisons, matrices, outcomes, summary, tables
from mulo import _files as files
from mulo import _hints as hints
from tasks import command

_LINE = flags.DEFINE_string("line", None, "Only this line of A.")
_OTHER = flags.DEFINE_string("other", None, "And this one of B; default: the same.")
_MEASURE = flags.DEFINE_enum(
    "measure", "train", list(matrices.MEASURES), "Which loss is compared."
)
# Overriding: a process that imports two commands has two flags of this name.
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Gets the numbers.", allow_override=True
)
_STRICT = flags.DEFINE_bool("strict", False, "Exit status 1 where B loses.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineComparison:
    """A line of one sweep against one of another, over what both have; C settings."""

    line: str
    other: str
    settings: tuple[str, ...]  # (C,), labels.
    outcomes: tuple[int, ...]  # (C,). 1 where the second is better beyond doubt.
    margins: tuple[float, ...]  # (C,). Mean of the second over the first's, less one.
    win_rate: comparisons.WinRate  # Of the second.


def load(path: str) -> dict[str, Any]:
    """Read the summary of a workdir.

    Raises:
      ValueError: If there is none, or it is not one of this version.
    """
    where = pathlib.Path(path)
    where = where / "summary.json" if where.is_dir() else where
    try:
        values = json.loads(where.read_text())
        _ = values["keys"], values["settings"]
        if not all("scores" in entry for entry in values["entries"]):
            raise ValueError("it is of an earlier version: run the sweep once more")
        return values
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{where} is no summary of a sweep ({type(error).__name__}: {error})."
        ) from error


def compare(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    line: str | None = None,
    other: str | None = None,
    measure: str = "train",
) -> list[LineComparison]:
    """Compare lines of two summaries.

    Args:
      first: As :func:`load` returns it.
      second: Likewise.
      line: A line of ``first``; None: all that both have.
      other: A line of ``second``; None: of the same name.
      measure: A key of :data:`evaluate.report.matrices.MEASURES`.

    Raises:
      ValueError: If a line is not there, or nothing is in common.
    """
    pairs = [(key, key) for key in first["keys"] if key in second["keys"]]
    if line is not None or other is not None:
        names = (line or other or "", other or line or "")
        for values, name in zip((first, second), names, strict=True):
            if name not in values["keys"]:
                raise ValueError(
                    f"no line is called {name!r}"
                    f"{hints.nearest(name, values['keys'])} There are: "
                    f"{', '.join(values['keys'])}."
                )
        pairs = [names]
    found = []
    for mine, theirs in pairs:
        old, new = _scores(first, mine, measure), _scores(second, theirs, measure)
        shared = [label for label in old if label in new]
        if not shared:
            continue
        decided = [outcomes.decide(new[s], old[s])[0] for s in shared]
        found.append(
            LineComparison(
                line=mine,
                other=theirs,
                settings=tuple(shared),
                outcomes=tuple(decided),
                margins=tuple(_margin(new[s], old[s]) for s in shared),
                win_rate=comparisons.win_rate(decided),
            )
        )
    if not found:
        raise ValueError(
            "the two sweeps have no line with a setting in common: lines "
            f"{', '.join(first['keys'])} and {', '.join(second['keys'])}."
        )
    return found


def describe(found: Sequence[LineComparison]) -> str:
    """Lay comparisons out for a terminal."""
    rows = [["settings", "line", "B better", "undecided", "worse", "mean margin"]]
    rows[0].append("B's win rate")
    for each in found:
        rate = each.win_rate
        finite = [m for m in each.margins if math.isfinite(m)]
        name = each.line if each.line == each.other else f"{each.line} → {each.other}"
        rows.append(
            [
                str(len(each.settings)),
                name,
                str(rate.wins),
                str(rate.ties),
                str(rate.losses),
                f"{100 * np.mean(finite):+.2f} %" if finite else "–",
                f"{100 * rate.rate:.0f} % ({100 * rate.low:.0f} … "
                f"{100 * rate.high:.0f})",
            ]
        )
    return tables.format_table(rows)


def main(paths: Sequence[str]) -> int:
    """Compare; return the exit status."""
    if len(paths) != 2:
        raise ValueError(f"give two workdirs, A and B; got {list(paths)}.")
    first, second = (load(path) for path in paths)
    found = compare(
        first, second, line=_LINE.value, other=_OTHER.value, measure=_MEASURE.value
    )
    print(describe(found))
    if _WORKDIR.value:
        path = pathlib.Path(_WORKDIR.value) / "compare.json"
        values = summary.plain([dataclasses.asdict(each) for each in found])
        files.write(path, json.dumps(values, indent=1) + "\n")
    worse = [each for each in found if each.win_rate.high < 0.5 or _all_lost(each)]
    for each in worse:
        print(f"B loses to A in {each.other}.")
    return 1 if worse and _STRICT.value else 0


def _all_lost(each: LineComparison) -> bool:
    return each.win_rate.losses == len(each.settings)


def _scores(values: Mapping[str, Any], key: str, measure: str) -> dict[str, np.ndarray]:
    """Losses by seed of a line, infinite where it diverged, by setting."""
    found = {}
    for entry in values["entries"]:
        if entry["key"] == key:
            setting = values["settings"][entry["setting"]]
            label = f"{setting['label']}, batch {setting['batch_examples']}"
            scores = entry["scores"][measure]
            found[label] = np.array([math.inf if x is None else x for x in scores])
    return found


def _margin(new: np.ndarray, old: np.ndarray) -> float:
    new, old = new[np.isfinite(new)], old[np.isfinite(old)]
    if not len(new) or not len(old) or not old.mean():
        return math.nan
    return float(new.mean() / old.mean() - 1)


if __name__ == "__main__":
    command.run_with_arguments("compare", main)
