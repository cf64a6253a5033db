"""Checks that activations change alike at every width; run as a module.

Exit status 0: no layer's change grows with width; 1: one does; 2: bad input.
"""

import pathlib
import sys

from absl import app, flags, logging

import mulo
from evaluate import coord_report, coordinates, files

_TASK = flags.DEFINE_string("task", "mlp-d3-digits", "Template; sp-… for SP.")
_OPTIMIZER = flags.DEFINE_string("optimizer", "mulo", "As in evaluate/optimizers.py.")
_THETA = flags.DEFINE_string("theta", None, "Theta of a learned optimizer.")
_WIDTHS = flags.DEFINE_list("widths", "32,64,128,256,512,1024", "Widths.")
_STEPS = flags.DEFINE_integer("steps", 10, "Training steps.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds, averaged over.")
_RATE = flags.DEFINE_float("learning_rate", None, "Default: the optimizer's own.")
_BATCH = flags.DEFINE_integer("batch_size", 64, "Examples per step.")
_THRESHOLD = flags.DEFINE_float("threshold", 0.3, "Largest power of width that passes.")
_PNG = flags.DEFINE_string("png", "coord_check.png", "Plot; a .json lies beside it.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Of tensorflow-datasets.")


def main(argv: list[str]) -> int:
    """Run the check; return the exit status."""
    logging.set_verbosity(logging.WARNING)  # JAX is chatty about devices.
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    try:
        config = coordinates.CoordConfig(
            task=_TASK.value,
            optimizer=_OPTIMIZER.value,
            widths=coord_report.parse_widths(_WIDTHS.value),
            num_steps=_STEPS.value,
            num_seeds=_SEEDS.value,
            learning_rate=_RATE.value,
            batch_size=_BATCH.value,
            threshold=_THRESHOLD.value,
            data_dir=_DATA_DIR.value,
        )
        pretrained = mulo.load(_THETA.value) if _THETA.value else None
        result = coord_report.check_with_progress(config, pretrained)
        png = files.write_bytes(_PNG.value, coord_report.png(result))
        files.write_text(pathlib.Path(png).with_suffix(".json"), result.to_json())
    except (ValueError, OSError) as error:
        print(f"coord_check: {error}", file=sys.stderr)
        return 2
    print(coord_report.describe(result))
    print(f"plot: {png}")
    return 1 if result.growing else 0


if __name__ == "__main__":
    app.run(main)
