"""The verdict of a study: three sentences with numbers, losses as plainly as wins.

A claim (beats, loses to) is made only where the interval of the margin supports it:
all of it on one side of zero, and no more divergences than the other. What it does not
support is called undecided.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_NAMED = 4  # Most opponents that a claim names.


def sentences(values: Mapping[str, Any]) -> list[str]:
    """Return the verdict on a study's first subject.

    Args:
      values: As :func:`summary.summarize` makes them, without the verdict.

    Returns:
      Three sentences: training and validation loss against hand-designed optimizers;
      null models; beyond meta-training, divergence and who ranks first.
    """
    if not values["subjects"]:
        return ["No run has finished, so that there is nothing to say."]
    runs = values["entries"]
    if runs and all(e["num_diverged"] == e["num_seeds"] for e in runs):
        return ["Every run of every optimizer diverged: there is nothing to compare."]
    subject = values["subjects"][0]
    return [
        _baselines(values, subject),
        _nulls(values, subject),
        _rest(values, subject),
    ]


def claim(row: Mapping[str, Any]) -> str | None:
    """Return what a row of a matrix supports: beats, loses to, is undecided against.

    Args:
      row: Of :func:`evaluate.report.matrices.matrix`.

    Returns:
      None where there is nothing to compare.
    """
    margin = row["margin"]
    if margin is None:
        # No pair of runs is finite: what counts is who diverged where.
        outcomes = [c["outcome"] for c in row["cells"] if c["outcome"] is not None]
        if not outcomes:
            return None
        wins, losses = outcomes.count(1), outcomes.count(-1)
        if wins and not losses:
            return "beats"
        return "loses to" if losses and not wins else "is undecided against"
    if margin["low"] is None:
        return "is undecided against"  # One seed has no spread.
    more = margin["diverged"] - margin["opponent_diverged"]
    if margin["high"] < 0 and more <= 0:
        return "beats"
    if margin["low"] > 0 and more >= 0:
        return "loses to"
    return "is undecided against"


def _rows(
    values: Mapping[str, Any], subject: str, measure: str, kind: str
) -> list[Mapping[str, Any]]:
    """Rows against a kind of opponent; of hand-designed ones, those tuned per cell."""
    tuning = {entry["key"]: entry["tuning"] for entry in values["entries"]}
    label = {entry["key"]: entry["label"] for entry in values["entries"]}
    for matrix in values["matrices"]:
        if (matrix["subject"], matrix["measure"]) == (subject, measure):
            rows = [
                row
                for row in matrix["rows"]
                if values["kinds"][row["opponent"]] == kind
                and label[row["opponent"]] != label[subject]
                and claim(row)
            ]
            best = [r for r in rows if tuning[r["opponent"]] == "per_cell"]
            return best or rows
    return []


def _claims(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Sort rows by what they support, the largest margins first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for name in ("loses to", "is undecided against", "beats"):
        group = [row for row in rows if claim(row) == name]
        if group:
            found[name] = sorted(group, key=lambda row: -abs(_estimate(row)))
    return found


def _estimate(row: Mapping[str, Any]) -> float:
    return row["margin"]["estimate"] if row["margin"] else 0.0


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for name, group in _claims(rows).items():
        listed = [_named(row) for row in group[:_NAMED]]
        if len(group) > _NAMED:
            listed.append(f"{len(group) - _NAMED} more")
        parts.append(f"{name} {_listed(listed)}")
    return _listed(parts)


def _named(row: Mapping[str, Any]) -> str:
    name = row["opponent"].removesuffix(" (per cell)")
    if row["margin"] is None:
        return f"{name} (diverged)" if claim(row) == "beats" else name
    margin = f"{100 * _estimate(row):+.1f} %".replace("-", "−")
    used = row["margin"]["num_settings"]
    over = f" over {used}" if used < len(row["cells"]) else ""
    return f"{name} ({margin}{over})"


def _baselines(values: Mapping[str, Any], subject: str) -> str:
    rows = _rows(values, subject, "train", "hand-designed")
    if not rows:
        return (
            f"{subject} was compared with no hand-designed optimizer on the same "
            "settings, so that nothing can be said of it."
        )
    count = len(values["settings"])
    over = f"Over {count} setting{'s' * (count > 1)}"
    tuned = rows[0]["opponent"].endswith(" (per cell)")
    how = ", each tuned per cell" if tuned else ""
    text = (
        f"{over} {subject}, {_tuned(values, subject)}, {_text(rows)} in final training "
        f"loss{how}"
    )
    valid = _claims(_rows(values, subject, "valid", "hand-designed"))
    counts = [f"{name} {len(group)}" for name, group in valid.items()]
    return (
        f"{text}; in validation loss it {_listed(counts)} of them."
        if counts
        else (f"{text}.")
    )


def _tuned(values: Mapping[str, Any], subject: str) -> str:
    """Say how the rate of a line was found."""
    tuning = next(e["tuning"] for e in values["entries"] if e["key"] == subject)
    return {
        "untouched": "with nothing tuned",
        "transferred": "at a rate tuned at the base setting",
        "per_cell": "itself tuned per cell",
        "published": "at published rates",
        "fixed": "at a fixed rate",
    }[tuning]


def _nulls(values: Mapping[str, Any], subject: str) -> str:
    rows = _rows(values, subject, "train", "null")
    if not rows:
        return "No null model was run, so that it is not known what it has learned."
    return (
        "Of the null models, which a rule must beat to have learned anything, it "
        f"{_text(rows)}."
    )


def _rest(values: Mapping[str, Any], subject: str) -> str:
    mine = [e for e in values["entries"] if e["key"] == subject]
    runs = sum(e["num_seeds"] for e in mine)
    diverged = sum(e["num_diverged"] for e in mine)
    known = [s for s in values["settings"] if subject in s["in_range"]]
    outside = [s for s in known if not s["in_range"][subject]]
    where = ""
    if known:
        where = (
            f"{len(outside)} of the {len(known)} settings lie beyond the sizes of its "
            "meta-training; "
        )
    lost = (
        f"{diverged} of its {runs} runs diverged"
        if diverged
        else "none of its runs diverged"
    )
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
