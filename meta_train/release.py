"""Release a run's theta: ``python -m meta_train.release --workdir=runs/x …``.

    python -m meta_train.release --workdir=runs/mulo_s --hours=0.1 \
        --command="python -m meta_train --config=configs/mulo_s.py" \
        --unfit="runs of more than 50,000 steps" --destination=checkpoints/mulo-s

Writes theta with a card that says where it comes from: the run's own facts, how long it
took, how its loss went, and what it is not for. ``--best`` takes the theta that the
probes chose instead of the last one.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import mulo
from meta_train import workdir as workdir_lib

_CURVE_POINTS = 40
# What a run says about its theta (meta_train/setup.py, meta_train/loop.py); the rest of
# a card is written by mulo.save.
_KEPT = (
    "parametrization",
    "meta_training",
    "data",
    "hardware",
    "jax",
    "git_commit",
    "started",
    "resumed_by",
    "meta_step",
    "probe_score",
    "probe_losses",
)


def release(
    workdir: pathlib.Path,
    destination: pathlib.Path,
    *,
    best: bool = False,
    **facts: Any,
) -> mulo.Pretrained:
    """Copy a run's theta with a card that tells all of it.

    Args:
      workdir: Of the run.
      destination: Directory to write.
      best: Take the theta that the probes chose.
      **facts: More for the card: hours, command, unfit, note, results, license.

    Returns:
      The released theta, loaded from where it was written.

    Raises:
      ValueError: If there is no theta, or its run left no metrics.
    """
    there = workdir / (workdir_lib.THETA_BEST if best else workdir_lib.THETA)
    pretrained = mulo.load(there)
    card = {k: v for k, v in pretrained.card.items() if k in _KEPT}
    facts = {key: value for key, value in facts.items() if value not in ("", None)}
    curve = _curve(workdir / workdir_lib.METRICS)
    mulo.save(
        destination,
        pretrained.rule,
        pretrained.theta,
        card={**card, **facts, "curve": curve},
    )
    return mulo.load(destination)


def _curve(path: pathlib.Path) -> list[dict[str, float]]:
    """Meta-loss, objective and probes' score along a run, at some of its steps."""
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no {path.name}: is it a run's workdir?")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    keys = ("meta_step", "meta_loss", "objective", "probe/score")
    probed = [line for line in lines if "probe/score" in line]
    every = max(1, len(lines) // _CURVE_POINTS)
    steps = {line["meta_step"] for line in (*lines[::every], *probed, lines[-1])}
    return [
        {key: round(line[key], 5) for key in keys if key in line}
        for line in lines
        if line["meta_step"] in steps
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files; an error is one line and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m meta_train.release")
    add = parser.add_argument
    add("--workdir", type=pathlib.Path, required=True, help="directory of the run")
    add("--destination", type=pathlib.Path, required=True, help="directory to write")
    add("--best", action="store_true", help="the theta that the probes chose")
    add("--hours", type=float, required=True, help="wall clock, all resumes")
    add("--command", required=True, help="what reproduces it")
    add("--unfit", required=True, help="what it must not be used for")
    add("--note", default="", help="anything else")
    add("--results", type=json.loads, help="JSON object: held-out results")
    add("--license", default="Apache-2.0", help="SPDX name")
    given = vars(parser.parse_args(argv))
    workdir, destination = given.pop("workdir"), given.pop("destination")
    try:
        released = release(workdir, destination, **given)
    except (ValueError, OSError) as error:
        print(f"meta_train.release: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{destination}: {released.rule}")


if __name__ == "__main__":
    main()
