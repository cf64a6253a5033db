"""What a run tells: metrics.jsonl, a progress bar, TensorBoard and W&B on request."""

import hashlib
import json
import math
import os
import pathlib
import resource
import sys
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import tqdm

from meta_train import workdir as workdir_lib
from mulo import _files as files

# What two runs that are alike in all else differ in.
OF_THE_MACHINE = ("inner_steps_per_s", "memory_bytes", "seconds_left")


class Writer(Protocol):
    """Takes metrics lines."""

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Take one line; ``meta_step`` among its keys."""

    def close(self) -> None:
        """Finish."""


class MetricsLog:
    """``metrics.jsonl``: one JSON object per log step, in order, never twice."""

    def __init__(self, workdir: pathlib.Path, *, first_step: int):
        """Open for appending; drop lines of steps that will be done again."""
        path = workdir / workdir_lib.METRICS
        if path.exists():
            kept = [
                line
                for line in path.read_text().splitlines()
                if (step := _step_of(line)) is not None and step <= first_step
            ]
            files.write(path, "".join(f"{line}\n" for line in kept))
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line, whole or not at all, and hand it to the operating system.

        Raises:
          OSError: If the disk is full; names the file.
        """
        rest = memoryview(json.dumps(metrics).encode() + b"\n")
        size = self._file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(size)
            error.filename = str(self._path)
            raise

    def close(self) -> None:
        """Flush to disk."""
        os.fsync(self._file.fileno())
        self._file.close()


def _step_of(line: str) -> int | None:
    try:
        return json.loads(line)["meta_step"]
    except (json.JSONDecodeError, KeyError):
        return None  # A line cut short by a kill.


class Progress:
    """Progress bar with meta-loss, inner steps/s and time left; terminals only."""

    def __init__(self, *, done: int, total: int):
        """Show ``done`` of ``total`` meta-steps."""
        self._bar = tqdm.tqdm(
            initial=done,
            total=total,
            desc="meta-training (compiling)",
            unit=" meta-steps",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def advance(self, meta_loss: float, inner_steps_per_s: float) -> None:
        """One meta-step more."""
        self._bar.set_description("meta-training", refresh=False)
        self._bar.set_postfix_str(
            f"meta-loss {meta_loss:.3f}, {inner_steps_per_s:,.0f} inner steps/s",
            refresh=False,
        )
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


class Resources:
    """What a run takes: seconds to its end, and memory."""

    def __init__(self, *, total: int, probe_every: int = 0):
        """Of a run of ``total`` meta-steps, with probes every so many; 0: without."""
        self._total = total
        self._probe_every = probe_every
        self._seconds: float | None = None
        self._probe_seconds: float | None = None

    def probed(self, seconds: float) -> None:
        """Take what an evaluation of the probes took; the last one counts.

        The first of a process, which compiles, is left out: those to come are not in
        the time left before there was a second.
        """
        first = self._probe_seconds is None
        self._probe_seconds = 0.0 if first else seconds

    def after(self, meta_step: int, seconds: float) -> dict[str, float]:
        """Numbers for a metrics line.

        Args:
          meta_step: Done.
          seconds: That it took; the first of a process, which compiles, is left out.

        Returns:
          ``seconds_left``, from the running mean of meta-steps, from the second on,
          and the last evaluation of the probes;
          ``memory_bytes``, the peak of the first device or, where it does not tell,
          of the process.
        """
        found = {"memory_bytes": float(_peak_bytes())}
        if self._seconds is None:
            self._seconds = math.nan
        else:
            old = seconds if math.isnan(self._seconds) else self._seconds
            self._seconds = 0.9 * old + 0.1 * seconds
            found["seconds_left"] = (self._total - meta_step) * self._seconds
            if self._probe_every and self._probe_seconds:
                done = (meta_step - 1) // self._probe_every
                due = self._total // self._probe_every - done
                found["seconds_left"] += due * self._probe_seconds
        return found


def _peak_bytes() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class TensorBoard:
    """Scalars as TensorBoard events (extra ``tensorboard``)."""

    def __init__(self, workdir: pathlib.Path):
        """Open ``<workdir>/tensorboard``."""
        try:
            import tensorboardX  # pyrefly: ignore[missing-import] - an extra.
        except ImportError as error:
            raise ValueError(
                "report.tensorboard needs an extra: pip install 'mulo[tensorboard]'."
            ) from error
        self._writer = tensorboardX.SummaryWriter(str(workdir / "tensorboard"))

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Write every number of a metrics line."""
        for name, value in metrics.items():
            if name != "meta_step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, metrics["meta_step"])

    def close(self) -> None:
        """Flush."""
        self._writer.close()


class WandB:
    """Metrics lines to Weights & Biases (extra ``wandb``)."""

    def __init__(self, workdir: pathlib.Path, config: Mapping[str, Any]):
        """Start a run, or go on with the one begun in this workdir."""
        try:
            import wandb  # pyrefly: ignore[missing-import] - an extra.
        except ImportError as error:
            raise ValueError(
                "report.wandb needs an extra: pip install 'mulo[wandb]'."
            ) from error
        digest = hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()
        run_id = f"{workdir.name}-{digest[:8]}"  # Others may have the same name.
        self._run = wandb.init(
            dir=str(workdir), config=dict(config), id=run_id, resume="allow"
        )

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Log one line."""
        self._run.log(dict(metrics), step=metrics["meta_step"])

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
