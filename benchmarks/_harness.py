"""What every benchmark shares: cases, interleaved timing, facts about the machine.

A race is fair when both sides meet the same weather, so repeats alternate
(A B A B …) and the median of each side counts. One result is one JSON object on one
line of standard output; everything meant for people goes to standard error.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from mulo import _provenance as provenance

# One whole gradient estimate from a PRNG key; returns when the result is computed.
Step = Callable[[jax.Array], Any]

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One meta-training workload: an image MLP under PES with small_fc_lopt.

    Attributes:
      name: What ``--case`` calls it.
      image_shape: Height, width and channels of one input, pixels.
      widths: Hidden units of each layer; the readout to ``num_classes`` follows.
      batch_size: Examples per inner step.
      num_classes: Labels.
      num_pairs: Antithetic pairs, so twice as many particles.
      trunc_steps: Inner steps of every particle per gradient estimate.
      min_steps: Shortest inner training, steps; lengths are log-uniform.
      max_steps: Longest inner training, steps.
      sigma: Standard deviation of the perturbations, theta units.
      hidden_size: Hidden units of the learned optimizer's two layers.
      step_mult: Scale of the learned optimizer's step.
    """

    name: str
    image_shape: tuple[int, int, int]
    widths: tuple[int, ...]
    batch_size: int
    num_classes: int = 10
    num_pairs: int = 8
    trunc_steps: int = 50
    min_steps: int = 100
    max_steps: int = 1000
    sigma: float = 0.01
    hidden_size: int = 32
    step_mult: float = 0.001

    @property
    def inner_steps(self) -> int:
        """Inner steps of all particles in one gradient estimate."""
        return 2 * self.num_pairs * self.trunc_steps


CASES = {
    case.name: case
    for case in (
        Case(name="small", image_shape=(8, 8, 1), widths=(32,), batch_size=64),
        Case(name="large", image_shape=(28, 28, 1), widths=(128, 128), batch_size=128),
        Case(
            name="color",
            image_shape=(32, 32, 3),
            widths=(128, 128, 128),
            batch_size=128,
        ),
    )
}


def compile_secs(step: Step, key: jax.Array) -> float:
    """Seconds that the first call takes: tracing, compiling and one run."""
    start = time.perf_counter()
    step(key)
    return time.perf_counter() - start


def interleave(
    steps: Mapping[str, Step], *, repeats: int, key: jax.Array, warm_up: int = 1
) -> dict[str, list[float]]:
    """Time the sides in turn, A B A B …, each side on the same keys.

    Args:
      steps: The sides by name; each call must block until its result is ready.
      repeats: Timed calls per side, at least 1.
      key: PRNG key; every round gets one of its own.
      warm_up: Untimed rounds before the first timed one. The first calls of a
        compiled program may still compile (weak types, donated layouts).

    Returns:
      Seconds per call, in order, by side.

    Raises:
      ValueError: If ``repeats`` is less than 1 or ``warm_up`` less than 0.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    if warm_up < 0:
        raise ValueError(f"warm_up must be at least 0, got {warm_up}.")
    secs: dict[str, list[float]] = {name: [] for name in steps}
    for turn, turn_key in enumerate(jax.random.split(key, warm_up + repeats)):
        for name, step in steps.items():
            start = time.perf_counter()
            step(turn_key)
            if turn >= warm_up:
                secs[name].append(time.perf_counter() - start)
    return secs


def rate(secs: Sequence[float], *, inner_steps: int) -> float:
    """Inner steps per second at the median of ``secs`` (seconds per estimate)."""
    return inner_steps / statistics.median(secs)


def machine() -> dict[str, Any]:
    """Facts that a timing means nothing without; ``commit`` marks a dirty tree."""
    return {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "cpu": provenance.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "commit": provenance.git_commit(changes=True),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def print_line(fields: Mapping[str, Any]) -> None:
    """Print one result as one line of JSON, floats to four significant digits."""
    rounded = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in fields.items()
    }
    print(json.dumps(rounded), flush=True)


def say(message: str) -> None:
    """Tell the person at the terminal, away from the JSON on standard output."""
    print(message, file=sys.stderr, flush=True)
