"""Meta-train variants of one configuration and compare what their probes say.

    python -m benchmarks.variants [--seeds 3] [--workdir DIR] CONFIG NAME="FLAGS" ...
        [-- FLAGS OF EACH]

A variant is flags of ``python -m meta_train``, and is meta-trained with every seed, one
run after the other; the configuration needs probes. An interrupted comparison
goes on where it stopped if it is given the same ``--workdir``.

Prints one JSON object per run: losses of the probes (nats) and their score by
meta-step, the lowest score and its meta-step, and inner steps per second, the median
over the lines of metrics, where compiling and probes do not count.
"""

import argparse
import json
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks import _harness
from meta_train import workdir

_BENCHMARK = "variants"
_ROOT = pathlib.Path(__file__).parents[1]


def meta_train(directory: pathlib.Path, arguments: Sequence[str]) -> None:
    """Meta-train, or go on; raise CalledProcessError if it fails."""
    command = [sys.executable, "-m", "meta_train", f"--workdir={directory}"]
    subprocess.run(
        [*command, *arguments], cwd=_ROOT, check=True, stdout=subprocess.DEVNULL
    )


def summary(directory: pathlib.Path) -> dict[str, Any]:
    """What the metrics of a finished run say.

    Raises:
      ValueError: If it has no probes.
    """
    lines = (directory / workdir.METRICS).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    probed = {
        row["meta_step"]: {
            name.removeprefix("probe/"): value
            for name, value in row.items()
            if name.startswith("probe/")
        }
        for row in rows
        if "probe/score" in row
    }
    if not probed:
        raise ValueError(f"{directory} has no probes: give --config.probes.tasks.")
    best = min(probed, key=lambda step: probed[step]["score"])
    paces = [row["inner_steps_per_s"] for row in rows if "inner_steps_per_s" in row]
    return {
        "probes": probed,
        "best_score": probed[best]["score"],
        "best_meta_step": best,
        "inner_steps_per_s": statistics.median(paces),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    common = argv[argv.index("--") + 1 :] if "--" in argv else []
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="File with a configuration, :variant maybe.")
    parser.add_argument("variants", nargs="+", metavar="NAME=FLAGS")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", help="Default: a folder that is removed.")
    args = parser.parse_args(argv[: len(argv) - len(common) - ("--" in argv)])
    if not all("=" in given for given in args.variants):
        parser.error("a variant is NAME=FLAGS; the flags may be empty.")
    variants = dict(given.split("=", 1) for given in args.variants)
    if len(variants) < len(args.variants) or "" in variants:
        parser.error("every variant needs a name of its own.")
    if any("/" in name for name in variants):
        parser.error("names of variants are folders: no / in them.")
    try:
        split = {name: shlex.split(flags) for name, flags in variants.items()}
    except ValueError as error:
        parser.error(f"flags of a variant: {error}.")
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}.")
    with tempfile.TemporaryDirectory() as passing:
        folder = pathlib.Path(args.workdir or passing).resolve()
        for seed in range(args.seeds):
            for name, flags in variants.items():
                directory = folder / f"{name}-{seed}"
                arguments = [f"--config={args.config}", *common, *split[name]]
                try:
                    meta_train(directory, [*arguments, f"--config.run.seed={seed}"])
                    found = summary(directory)
                except subprocess.CalledProcessError as error:  # It said why.
                    sys.exit(error.returncode)
                except ValueError as error:
                    parser.error(str(error))
                _harness.print_line(
                    {
                        "benchmark": _BENCHMARK,
                        "variant": name,
                        "flags": flags,
                        "seed": seed,
                        **found,
                        **_harness.machine(),
                    }
                )


if __name__ == "__main__":
    main()
