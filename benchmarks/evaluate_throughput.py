"""A sweep's engine against a plain loop: training runs finished per second.

    python -m benchmarks.evaluate_throughput [--widths 32,128] [--repeats 5]

Three ways to train the same cells (seeds × learning rates of one optimizer on
``mlp-w<width>-d3`` with 8x8x1 images, batches of 128):

* ``loop``: one run after the other, a jitted step per iteration, losses left on the
  device: what a user writes.
* ``scan``: one run after the other, hundreds of steps per call (what sweeps did before
  they had workers).
* ``engine``: a process per core, each pinned to its core, each like ``scan``.

They take turns in one session, so that all meet the same weather; compilation is left
out. Prints a JSON object per case; rates are optimizer steps per second over all runs.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

import tasks
from benchmarks import _harness
from evaluate.optimizers import names
from evaluate.sweep import training
from mulo import _cores

_TASK = "mlp-w{width}-d3-synthetic:8x8x1:10"
_BATCH, _RATE = 128, 0.01
_made: dict[Any, Any] = {}


def loop(width: int, optimizer: str, steps: int) -> float:
    """Return the steps per second of a loop over a jitted step."""
    key = ("loop", width, optimizer)
    if key not in _made:
        task = _task(width)
        tx = names.build(optimizer, _RATE, scalings=task.scalings())
        arrays = jax.device_put(dict(task.dataset.arrays("train")))

        @jax.jit
        def step(params, state, count, arrays):
            batch = task.sample(arrays, jax.random.fold_in(jax.random.key(0), count))
            loss, grads = jax.value_and_grad(task.loss)(
                params, jax.random.key(1), batch
            )
            updates, state = tx.update(grads, state, params, value=loss)
            return optax.apply_updates(params, updates), state, loss

        params = task.init(jax.random.key(0))
        _made[key] = step, params, tx.init(params), arrays
        step(params, tx.init(params), jnp.asarray(0), arrays)
    step, params, state, arrays = _made[key]
    begin = time.perf_counter()
    losses = []
    for count in range(steps):
        params, state, loss = step(params, state, jnp.asarray(count), arrays)
        losses.append(loss)
    jax.block_until_ready(losses)
    return steps / (time.perf_counter() - begin)


def scan(width: int, optimizer: str, steps: int) -> float:
    """Return the steps per second of one run at a time, in one program."""
    key = ("scan", width, optimizer, steps)
    if key not in _made:
        task = _task(width)
        programs = training.TaskPrograms(task, training.Data.put(task.dataset))
        _made[key] = training.TrainingProgram(
            programs, optimizer, horizon_steps=steps, hyper={}
        )
        _made[key].run([_RATE], [0])
    begin = time.perf_counter()
    _made[key].run([_RATE], [0])
    return steps / (time.perf_counter() - begin)


def _pinned(core: int) -> None:
    os.sched_setaffinity(0, {core})


def _task(width: int) -> tasks.Task:
    return tasks.get(_TASK.format(width=width), batch_size=_BATCH)


def race(width: int, optimizer: str, *, steps: int, repeats: int) -> dict[str, Any]:
    """Time the three, in turn."""
    context = multiprocessing.get_context("spawn")
    cores = _cores.usable()
    pools = [
        concurrent.futures.ProcessPoolExecutor(
            1, mp_context=context, initializer=_pinned, initargs=(core,)
        )
        for core in cores
    ]

    def all_cores() -> float:
        futures = [pool.submit(scan, width, optimizer, steps) for pool in pools]
        return sum(future.result() for future in futures)

    rates: dict[str, list[float]] = {"loop": [], "scan": [], "engine": []}
    all_cores()
    scan(width, optimizer, steps)
    loop(width, optimizer, 10)
    for _ in range(repeats):
        rates["loop"].append(loop(width, optimizer, steps))
        rates["scan"].append(scan(width, optimizer, steps))
        rates["engine"].append(all_cores())
    for pool in pools:
        pool.shutdown()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "width": width,
        "optimizer": optimizer,
        **{f"{name}_steps_per_sec": value for name, value in medians.items()},
        "engine_over_loop": medians["engine"] / medians["loop"],
        "engine_over_scan": medians["engine"] / medians["scan"],
        "jobs": len(cores),
        "repeats": repeats,
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", default="32,128")
    parser.add_argument("--optimizers", default="mu_adam,mu_muon,mu_soap_blocked")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(arguments)
    for width in map(int, given.widths.split(",")):
        for name in given.optimizers.split(","):
            _harness.say(f"width {width}, {name}")
            found = race(width, name, steps=given.steps, repeats=given.repeats)
            _harness.print_line(found | _harness.machine())
    return 0


if __name__ == "__main__":
    sys.exit(main())
