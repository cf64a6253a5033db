"""Our tasks with tuned Adam against VeLOdrome's published loss curves.

    python -m benchmarks.velodrome --curves=velodrome.json [--task NAME ...]

The published curve of a task is a lower envelope over tuned baselines of training
losses, made as this script makes ours: every 10 steps the loss on 5 fresh training
batches, the mean over seeds, a moving average (0.95 per measurement), the minimum over
learning rates, then over time. The published one also minimizes over three other
optimizers (Adam with two decays, RAdam). ``--curves`` is a JSON file of
``{"curves": {task: {"steps": [...], "loss": [...]}}}`` with the arrays of
``baselines/data/speedup_over_multiple_baselines.json`` of google/learned_optimization.
Prints a JSON object per task; ``ratio`` is our loss over the published one.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import tasks
from benchmarks import _harness
from evaluate.report import reference

_BENCHMARK = "velodrome"
# Their name of a task, ours, and examples per batch.
TASKS: Mapping[str, tuple[str, int]] = {
    theirs: (f"sp-{ours}", 128) for theirs, ours in reference.TASKS.items()
}
DEFAULT = ("ImageMLP_Cifar10_8_Relu32", "ImageMLP_Cifar10_256x256_Relu")
# Half decades, as theirs; the ends of their grid (1e-7 … 1) are far from any optimum.
LEARNING_RATES = (1e-4, 3.162e-4, 1e-3, 3.162e-3, 1e-2)
_STEPS_BETWEEN, _BATCHES, _DECAY = 10, 5, 0.95


def moving_average(losses: np.ndarray, decay: float = _DECAY) -> np.ndarray:
    """Exponential moving average along the last axis, from its first value on."""
    averaged = np.array(losses, np.float64)
    for i in range(1, averaged.shape[-1]):
        averaged[..., i] = decay * averaged[..., i - 1] + (1 - decay) * losses[..., i]
    return averaged


def envelope(losses: np.ndarray) -> np.ndarray:
    """Lower envelope of training curves, as VeLOdrome draws it.

    Args:
      losses: (learning rates, seeds, measurements), nats; diverged ones are NaN.

    Returns:
      (measurements,), falling.
    """
    averaged = moving_average(np.mean(losses, axis=1))
    return np.minimum.accumulate(np.nanmin(averaged, axis=0))


def train(
    task: tasks.Task, rates: Sequence[float], num_seeds: int, num_steps: int
) -> np.ndarray:
    """Train with Adam; return (rates, seeds, measurements) losses, from step 0 on."""
    arrays = jax.device_put(dict(task.dataset.arrays("train")))

    @jax.jit
    def run(rate, key, arrays):
        optimizer = optax.adam(rate)
        init_key, key = jax.random.split(key)
        params = task.init(init_key)

        def mean_loss(params, key):
            keys = jax.random.split(key, _BATCHES)
            return jnp.mean(
                jax.lax.map(
                    lambda k: task.loss(params, k, task.sample(arrays, k)), keys
                )
            )

        def step(carry, key):
            params, state = carry
            grads = jax.grad(task.loss)(params, key, task.sample(arrays, key))
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        def measure(carry, key):
            loss_key, key = jax.random.split(key)
            loss = mean_loss(carry[0], loss_key)
            keys = jax.random.split(key, _STEPS_BETWEEN)
            return jax.lax.scan(step, carry, keys)[0], loss

        carry = params, optimizer.init(params)
        keys = jax.random.split(key, num_steps // _STEPS_BETWEEN + 1)
        return jax.lax.scan(measure, carry, keys)[1]

    losses = np.stack(
        [
            [np.asarray(run(rate, jax.random.key(s), arrays)) for s in range(num_seeds)]
            for rate in rates
        ]
    )
    # A curve is worth nothing once it has left the finite numbers.
    return np.where(np.isfinite(losses), losses, np.nan)


def compare(
    name: str, curve: Mapping[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """Run one task and set its envelope beside the published one."""
    ours, batch_size = TASKS[name]
    task = tasks.get(ours, batch_size=batch_size, data_dir=args.data_dir)
    losses = train(task, LEARNING_RATES, args.seeds, args.steps)
    steps = _STEPS_BETWEEN * np.arange(losses.shape[-1])
    found = envelope(losses)
    shown = [step for step in curve["steps"] if 0 < step <= args.steps]
    published = [curve["loss"][curve["steps"].index(step)] for step in shown]
    measured = np.interp(shown, steps, found)
    last = moving_average(np.mean(losses, axis=1))[:, -1]
    return {
        "benchmark": _BENCHMARK,
        "task": name,
        "ours": ours,
        "train_examples": task.dataset.num_examples(task.dataset.arrays("train")),
        "seeds": args.seeds,
        "best_learning_rate": LEARNING_RATES[int(np.nanargmin(last))],
        "steps": [round(step) for step in shown],
        "loss": [round(float(loss), 4) for loss in measured],
        "published": published,
        "ratio": [
            round(float(a / b), 4) for a, b in zip(measured, published, strict=True)
        ],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--curves", required=True, help="JSON file; see above.")
    parser.add_argument("--task", action="append", choices=TASKS, help="Repeatable.")
    parser.add_argument("--seeds", type=int, default=5, help="As theirs.")
    parser.add_argument("--steps", type=int, default=1_000, help="Training steps.")
    parser.add_argument("--data_dir", help="Of tensorflow-datasets.")
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.steps < _STEPS_BETWEEN:
        parser.error(f"--seeds must be at least 1, --steps at least {_STEPS_BETWEEN}.")
    try:
        curves = json.loads(pathlib.Path(args.curves).read_text())["curves"]
        for name in args.task or DEFAULT:
            _harness.say(name)
            _harness.print_line(compare(name, curves[name], args) | _harness.machine())
    except (KeyError, TypeError) as error:
        print(f"velodrome: {args.curves} holds no such curve: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"velodrome: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
