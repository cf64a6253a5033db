"""Kill a run at random moments and compare what every continuation makes of it.

    python -m benchmarks.kills [--kills 100] [--seed 0] [-- FLAGS OF meta_train]

One run is left alone and keeps every checkpoint. Another is killed with SIGKILL, again
and again: at a random moment of its start, or so long after a random number of
meta-steps. The same command then goes on with it, to be killed in turn, and starts
anew when it comes to its end. After each kill the newest whole checkpoint and the lines
of metrics are compared with those of the undisturbed run, bit for bit. Prints a line
per kill and a summary; exit status 1 if anything differs. A checkpoint is made of every
meta-step, so that many kills fall into a save.
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np

from meta_train import reporting, setup, trainer, workdir

_ROOT = pathlib.Path(__file__).parents[1]
_SMALL = (
    "--config=configs/mulo_digits.py:smoke",
    "--config.tasks=('mlp-w4-d1-synthetic:4x4x1:3',)",
)
_META_STEPS = 40
_IN_START = 0.25  # Share of the kills that do not wait for a meta-step.
_LONGEST_DELAY_SECS = 0.3  # After a meta-step; a few of them, or a save.


def start(directory: pathlib.Path, arguments: Sequence[str], keep: int):
    """Start the run in a directory, or go on with it."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "meta_train", f"--workdir={directory}"),
            *(*_SMALL, *arguments, f"--config.run.meta_steps={_META_STEPS}"),
            *("--config.run.checkpoint_steps=1", "--config.run.log_steps=1"),
            f"--config.run.keep_checkpoints={keep}",
        ],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def metrics(directory: pathlib.Path, last: int) -> list[dict[str, float]]:
    """Lines up to a meta-step, without times."""
    path = directory / workdir.METRICS
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # Cut short by a kill.
        for key in reporting.OF_THE_MACHINE:
            row.pop(key, None)
        if row["meta_step"] <= last:
            rows.append(row)
    return rows


def state(directory: pathlib.Path, step: int, like: trainer.TrainState) -> list[bytes]:
    """Every array of a checkpoint."""
    checkpoints = workdir.Checkpoints(directory, keep=_META_STEPS)
    try:
        restored = checkpoints.restore(step, like)
    finally:
        checkpoints.close()
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(restored)]


def wait(process, directory: pathlib.Path, rng: random.Random, start_secs: float):
    """Wait for a random moment, or till the process ends."""
    deadline = time.monotonic() + start_secs * rng.random()
    if rng.random() >= _IN_START:
        path = directory / workdir.METRICS
        more = rng.randint(1, _META_STEPS // 4)
        wanted = len(path.read_bytes().splitlines()) if path.exists() else 0
        # Lines of meta-steps that are done again make it a little later.
        while process.poll() is None:
            there = len(path.read_bytes().splitlines()) if path.exists() else 0
            if there >= wanted + more:
                break
            time.sleep(0.01)
        deadline = time.monotonic() + _LONGEST_DELAY_SECS * rng.random()
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("rest", nargs="*", help="flags of meta_train, after --")
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = pathlib.Path(folder, "whole"), pathlib.Path(folder, "killed")
        for keep in (_META_STEPS, _META_STEPS):  # The second finds compiled programs.
            shutil.rmtree(whole, ignore_errors=True)
            begun = time.monotonic()
            process = start(whole, args.rest, keep)
            _, err = process.communicate()
            if process.returncode:
                print(f"the undisturbed run failed:\n{err}", file=sys.stderr)
                return 1
            life_secs = time.monotonic() - begun
        print(f"undisturbed: {_META_STEPS} meta-steps in {life_secs:.1f} s", flush=True)
        config = json.loads((whole / workdir.CONFIG).read_text())
        like = setup.build(config).init()
        ended = advanced = in_save = different = 0
        before = 0
        kills = 0
        while kills < args.kills:
            process = start(killed, args.rest, 2)
            begun = time.monotonic()
            wait(process, killed, rng, life_secs)
            process.kill()
            _, err = process.communicate()
            if process.returncode >= 0:  # It was faster.
                if process.returncode:
                    print(f"a continuation failed:\n{err}", file=sys.stderr)
                    return 1
                ended += 1
            else:
                kills += 1
            secs = time.monotonic() - begun
            step = workdir.meta_steps_done(killed)
            partial = [*(killed / workdir.CHECKPOINTS).glob("*tmp*")]
            same = not step or state(killed, step, like) == state(whole, step, like)
            same = same and metrics(killed, step) == metrics(whole, step)
            different += not same
            if process.returncode < 0:
                advanced += step > before
                in_save += bool(partial)
                print(
                    f"kill {kills}: after {secs:.1f} s, checkpoint {before} → {step}"
                    f"{', in a save' if partial else ''}: "
                    f"{'equal' if same else 'DIFFERENT'}",
                    flush=True,
                )
            before = step
            if step == _META_STEPS:
                shutil.rmtree(killed)
                before = 0
        process = start(killed, args.rest, 2)  # The last continuation, to its end.
        process.communicate()
        step = workdir.meta_steps_done(killed)
        same = step == _META_STEPS
        same = same and state(killed, step, like) == state(whole, step, like)
        different += not (same and metrics(killed, step) == metrics(whole, step))
        print(
            f"{kills} kills: {advanced} after further checkpoints, {in_save} in a "
            f"save; {ended + 1} runs came to their end; {different} comparisons differ"
        )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
