"""Shows what a learned optimizer does, by its updates; run as a module.

    python -m evaluate.inspect --theta=runs/demo/theta
    python -m evaluate.inspect --theta=celo2 --optimizer=celo2 --workdir=runs/celo2
    python -m evaluate.inspect --theta=random --optimizer=velo --steps=200

Prints a short table; with ``--workdir``, ``inspect.png``, ``inspect.svg`` and the
numbers, ``inspect.json``, are written there. What is measured, and on what, is in
:mod:`evaluate.inspect.measures`.

Exit status 0: done; 2: bad input.
"""

import json
import pathlib

from absl import flags

from evaluate.inspect import measures, report
from evaluate.optimizers import names
from evaluate.report import style
from mulo import _files as files
from tasks import command

_THETA = flags.DEFINE_string("theta", None, "Name, path or hf://…; or random.")
_OPTIMIZER = flags.DEFINE_string(
    "optimizer", None, "The rule's name; needed for random only."
)
_STEPS = flags.DEFINE_integer("steps", 1000, "Length of the run over time.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Gets plot and numbers.")


def main() -> int:
    """Measure, write and print; return the exit status."""
    workdir = pathlib.Path(_WORKDIR.value) if _WORKDIR.value else None
    name, pretrained = report.load(_THETA.value, _OPTIMIZER.value)
    if workdir is not None:
        files.check_writable(workdir)
    found = measures.inspect(pretrained, _STEPS.value)
    title = f"{name}, theta {_THETA.value}, {_STEPS.value:,} steps"
    print(report.describe(found, title))
    if workdir is None:
        return 0
    fig = report.draw(found, title)
    plot = files.write(workdir / "inspect.png", style.png(fig))
    files.write(workdir / "inspect.svg", style.svg(fig, "inspect"))
    about = {
        "optimizer": name,
        "theta": _THETA.value,
        "rule": repr(pretrained.rule),
        "theta_sha256": names.fingerprint(pretrained),
        "num_steps": _STEPS.value,
    }
    text = json.dumps(report.values(found, **about), indent=1)
    files.write(workdir / "inspect.json", text + "\n")
    print(f"plot: {plot}")
    return 0


if __name__ == "__main__":
    command.run("inspect", main)
