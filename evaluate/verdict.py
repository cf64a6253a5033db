"""The verdict of a study: three sentences with numbers, losses as plainly as wins.

A claim (beats, loses to) is made only where the interval of the win rate supports it;
what it does not support is called undecided, with its counts.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def sentences(values: Mapping[str, Any]) -> list[str]:
    """Return the verdict on a study's first subject.

    Args:
      values: As :func:`evaluate.summary.summarize` makes them, without the verdict.

    Returns:
      Three sentences: training loss against hand-designed optimizers; validation loss,
      and null models; beyond meta-training, divergence and who ranks first.
    """
    if not values["subjects"]:
        return ["No run has finished, so that there is nothing to say."]
    subject = values["subjects"][0]
    return [
        _against(values, subject, "train", "hand-designed", "training loss"),
        _nulls(values, subject),
        _beyond(values, subject),
    ]


def _rows(
    values: Mapping[str, Any], subject: str, measure: str, kinds: Sequence[str]
) -> list[Mapping[str, Any]]:
    for matrix in values["matrices"]:
        if (matrix["subject"], matrix["measure"]) == (subject, measure):
            return [
                row
                for row in matrix["rows"]
                if row["win_rate"] and values["kinds"][row["opponent"]] in kinds
            ]
    return []


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {"beats": [], "loses to": [], "undecided": []}
    for row in rows:
        rate = row["win_rate"]
        total = rate["wins"] + rate["ties"] + rate["losses"]
        if rate["low"] > 0.5:
            claim, count = "beats", rate["wins"]
        elif rate["high"] < 0.5:
            claim, count = "loses to", rate["losses"]
        else:
            text = (
                f"{row['opponent']} (won {rate['wins']}, lost {rate['losses']} of "
                f"{total})"
            )
            groups["undecided"].append(text)
            continue
        groups[claim].append(
            f"{row['opponent']} ({count} of {total}, win rate "
            f"{100 * rate['rate']:.0f} %, interval {100 * rate['low']:.0f}–"
            f"{100 * rate['high']:.0f} %)"
        )
    return groups


def _against(
    values: Mapping[str, Any], subject: str, measure: str, kind: str, what: str
) -> str:
    rows = _rows(values, subject, measure, (kind,))
    if not rows:
        return (
            f"{subject} was compared with no {kind} optimizer on the same settings, so "
            "that nothing can be said of it."
        )
    parts = []
    for claim, names in _groups(rows).items():
        if names and claim == "undecided":
            parts.append(f"is undecided against {_listed(names)}")
        elif names:
            parts.append(f"{claim} {_listed(names)}")
    return f"In final {what}, {subject} {_joined(parts)}."


def _nulls(values: Mapping[str, Any], subject: str) -> str:
    valid = _groups(_rows(values, subject, "valid", ("hand-designed",)))
    counts = ", ".join(
        f"{claim} {len(names)}" for claim, names in valid.items() if names
    )
    start = f"In validation loss it {counts} of those" if counts else "Of its own kind"
    nulls = _rows(values, subject, "train", ("null",))
    if not nulls:
        return f"{start}; no null model was run."
    parts = []
    for claim, names in _groups(nulls).items():
        if names:
            verb = "is undecided against" if claim == "undecided" else claim
            parts.append(f"{verb} {_listed(names)}")
    return (
        f"{start}; of the null models, which a rule must beat to have learned anything, "
        f"it {_joined(parts)}."
    )


def _beyond(values: Mapping[str, Any], subject: str) -> str:
    mine = [e for e in values["entries"] if e["key"] == subject]
    runs = sum(e["num_seeds"] for e in mine)
    diverged = sum(e["num_diverged"] for e in mine)
    outside = [s for s in values["settings"] if s["in_range"] is False]
    known = [s for s in values["settings"] if s["in_range"] is not None]
    where = ""
    if known:
        where = (
            f"{len(outside)} of the {len(known)} settings lie beyond the sizes of its "
            "meta-training; "
        )
    lost = f"{diverged} of its {runs} runs diverged" if diverged else "no run diverged"
    best = ""
    ranks = values["average_ranks"]
    if ranks:
        longest = max(ranks, key=lambda item: item["horizon_steps"])
        by_rank = sorted(longest["ranks"], key=lambda item: item["estimate"])
        first = by_rank[0]
        own = next((r for r in by_rank if r["key"] == subject), None)
        best = (
            f"; at {longest['horizon_steps']:,} steps the best average rank is "
            f"{first['estimate']:.1f}, of {first['key']}"
        )
        if own is not None and own is not first:
            best += (
                f", and {subject} is at {own['estimate']:.1f} of {len(by_rank)} lines"
            )
    return f"{where}{lost}{best}."[:1].upper() + f"{where}{lost}{best}."[1:]


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _joined(parts: Sequence[str]) -> str:
    return "; ".join(parts) or "was compared with none"
