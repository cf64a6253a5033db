"""Release a run's theta: ``python -m meta_train.release --workdir=runs/x …``.

    python -m meta_train.release --workdir=runs/mulo_s --hours=0.1 \
        --command="python -m meta_train --config=configs/mulo_s.py" \
        --unfit="runs of more than 50,000 steps" --destination=checkpoints/mulo-s

Writes theta with a card that says where it comes from: the run's own facts, how long it
took, how its loss went, and what it is not for. ``--best`` takes the theta that the
probes chose instead of the last one.
"""

import json
import pathlib
import sys
from typing import Any

from absl import app, flags

import mulo
from meta_train import workdir as workdir_lib

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_DESTINATION = flags.DEFINE_string("destination", None, "Directory to write.")
_BEST = flags.DEFINE_bool("best", False, "The theta that the probes chose.")
_HOURS = flags.DEFINE_float("hours", None, "Wall clock of the run, all resumes.")
_COMMAND = flags.DEFINE_string("command", None, "What reproduces it.")
_UNFIT = flags.DEFINE_string("unfit", None, "What it must not be used for.")
_NOTE = flags.DEFINE_string("note", "", "Anything else.")
_RESULTS = flags.DEFINE_string("results", "", "JSON object: held-out results.")
_LICENSE = flags.DEFINE_string("license", "Apache-2.0", "SPDX name.")

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


def main(argv) -> None:
    """Write the files; an error is one line."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}.")
    try:
        released = release(
            pathlib.Path(_WORKDIR.value or ""),
            pathlib.Path(_DESTINATION.value or ""),
            best=_BEST.value,
            hours=_HOURS.value,
            command=_COMMAND.value,
            unfit=_UNFIT.value,
            note=_NOTE.value,
            results=json.loads(_RESULTS.value or "null"),
            license=_LICENSE.value,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{_DESTINATION.value}: {released.rule}")


if __name__ == "__main__":
    flags.mark_flags_as_required(
        ["workdir", "destination", "hours", "command", "unfit"]
    )
    app.run(main)
