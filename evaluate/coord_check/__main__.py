"""Checks that activations change alike at every width, or depth; run as a module.

    python -m evaluate.coord_check --task=transformer-d2-pystdlib --optimizer=mu_adam
    python -m evaluate.coord_check --task=vit-d2-digits --optimizer=mulo --theta=random
    python -m evaluate.coord_check --task=transformer-w64-a1-k16-pystdlib \
        --depths=2,4,8 --workdir=runs/depths

Prints a table; with ``--workdir`` its numbers, ``coord_check.json``, and a plot,
``coord_check.png``, are written there.

Exit status 0: no layer's change grows with width (depth); 1: one does; 2: bad input.
"""

import pathlib

from absl import flags

import mulo
from evaluate.coord_check import coordinates, report
from evaluate.optimizers import names, random_thetas
from mulo import _files as files
from tasks import command

_TASK = flags.DEFINE_string("task", "mlp-d3-digits", "Without width or depth.")
_OPTIMIZER = flags.DEFINE_string(
    "optimizer", "mulo", "As in evaluate/optimizers/names.py."
)
_THETA = flags.DEFINE_string(
    "theta", None, "Theta of a learned optimizer; random: one never meta-trained."
)
_WIDTHS = flags.DEFINE_list("widths", None, "Default: some that suit the kind.")
_DEPTHS = flags.DEFINE_list("depths", None, "Likewise.")
_STEPS = flags.DEFINE_integer("steps", 10, "Training steps.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds, averaged over.")
_RATE = flags.DEFINE_float("learning_rate", None, "Default: the optimizer's own.")
_HYPER = flags.DEFINE_list("hyper", [], "Like precondition_frequency=1,eps=1e-6.")
_BATCH = flags.DEFINE_integer("batch_size", 64, "Examples per step.")
_THRESHOLD = flags.DEFINE_float("threshold", 0.3, "Largest power that passes.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Gets plot and numbers.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Of tensorflow-datasets.")


def main() -> int:
    """Run the check; return the exit status."""
    config = coordinates.CoordConfig(
        task=_TASK.value,
        optimizer=_OPTIMIZER.value,
        widths=report.parse_sizes("widths", _WIDTHS.value),
        depths=report.parse_sizes("depths", _DEPTHS.value),
        num_steps=_STEPS.value,
        num_seeds=_SEEDS.value,
        learning_rate=_RATE.value,
        hyper=report.parse_hyper(_HYPER.value),
        batch_size=_BATCH.value,
        threshold=_THRESHOLD.value,
        data_dir=_DATA_DIR.value,
    )
    workdir = pathlib.Path(_WORKDIR.value) if _WORKDIR.value else None
    if workdir is not None:
        files.check_writable(workdir)  # Now, not after minutes of training.
    result = report.check_with_progress(config, _pretrained())
    print(report.describe(result))
    if workdir is not None:
        plot = workdir / "coord_check.png"
        files.write(plot, report.png(result))
        files.write(plot.with_suffix(".json"), result.to_json())
        print(f"plot: {plot}")
    return 1 if result.growing else 0


def _pretrained() -> mulo.Pretrained | None:
    if not names.get(_OPTIMIZER.value).learned:
        if _THETA.value:
            raise ValueError(f"{_OPTIMIZER.value} is not learned and takes no --theta.")
        return None
    if _THETA.value == "random":
        return random_thetas.pretrained(_OPTIMIZER.value)
    return mulo.load(_THETA.value) if _THETA.value else None


if __name__ == "__main__":
    command.run("coord_check", main)
