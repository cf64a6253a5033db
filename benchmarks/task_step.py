"""Time of an inner step, task by task, and its share spent outside matmuls.

    python -m benchmarks.task_step [--task NAME ...] [--repeats N]

A step is a batch drawn on the device, the loss and its gradient, and an update: by
μAdam, and by SmallFC (hidden size 32, random theta). Matmuls are the task's matrix
products and convolutions, forward and backward: each distinct one is compiled and timed
alone on arrays of its shapes, less the time of calling an empty program, and their
times are added up. ``outside`` is what is left of the step: the optimizer, activation
functions, norms, data, and what XLA loses (or wins) between operations.
Prints one JSON object per task.
"""

import argparse
import collections
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend import core

import mulo
import tasks
from benchmarks import _harness

_BENCHMARK = "task_step"
_SEED = 0
# (name, examples per batch). Sizes as in meta-training and in small evaluations.
TASKS = (
    ("mlp-w32-d3-synthetic:8x8x1:10", 128),
    ("mlp-w128-d3-synthetic:32x32x3:10", 128),
    ("mlp-w512-d3-synthetic:32x32x3:10", 128),
    ("mlp-w128-d3-tanh-ln-synthetic:32x32x3:10", 128),
    ("mlpae-w128-d3-synthetic:28x28x1:10", 128),
    ("conv-w32-d3-synthetic:32x32x3:10", 128),
    ("resnet-w16-d3-synthetic:32x32x3:10", 64),
    ("vit-w64-d3-p4-synthetic:32x32x3:10", 32),
    ("vit-w192-d3-p4-synthetic:32x32x3:10", 32),
    ("transformer-w64-d3-s64-pystdlib", 16),
    ("transformer-w192-d3-s64-pystdlib", 16),
    ("transformer-w192-d3-s64-bf16-pystdlib", 16),
)
_MATMULS = ("dot_general", "conv_general_dilated")
_MIN_SECS = 0.05  # Calls are repeated until a measurement takes this long.


@dataclasses.dataclass(frozen=True)
class Matmul:
    """A matrix product or convolution of a program, and how often it occurs."""

    run: Callable[[], Any]
    count: int


def matmuls_of(function: Callable[..., Any], *args: Any) -> list[Matmul]:
    """List the distinct matmuls of a traced function.

    Args:
      function: What is differentiated, compiled, … already.
      *args: Arrays or shapes to trace it with.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    counts: collections.Counter[str] = collections.Counter()
    samples: dict[str, Any] = {}
    for eqn in _equations(jaxpr):
        if eqn.primitive.name in _MATMULS:
            shapes = [var.aval.str_short() for var in eqn.invars]
            key = f"{eqn.primitive.name} {shapes} {eqn.params}"
            counts[key] += 1
            samples[key] = eqn
    return [Matmul(_alone(samples[key]), count) for key, count in counts.items()]


def secs_per_call(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, each measurement long enough to trust the clock."""
    jax.block_until_ready(call())
    begin = time.perf_counter()
    jax.block_until_ready(call())
    number = max(1, int(_MIN_SECS / max(time.perf_counter() - begin, 1e-7)))
    secs = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(number - 1):
            call()
        jax.block_until_ready(call())  # In order, so the others are done as well.
        secs.append((time.perf_counter() - begin) / number)
    return statistics.median(secs)


def measure(name: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """Time one task; milliseconds."""
    task = tasks.get(name, batch_size=batch_size)
    arrays = jax.device_put(dict(task.dataset.arrays("train")))
    key = jax.random.key(_SEED)
    params = jax.jit(task.init)(key)
    rule = mulo.SmallFC(hidden_size=32)
    steps = {
        "mu_adam": mulo.adam(1e-3, mup=task.scalings(), base_width=1.0),
        "small_fc": rule.transform(rule.init(key), mup=task.scalings()),
    }

    def gradient(params):
        batch = task.sample(arrays, key)
        return jax.value_and_grad(task.loss)(params, key, batch)

    empty = secs_per_call(_empty_program(), repeats)
    matmul_secs = sum(
        found.count * max(0.0, secs_per_call(found.run, repeats) - empty)
        for found in matmuls_of(gradient, params)
    )
    result: dict[str, Any] = {
        "benchmark": _BENCHMARK,
        "task": name,
        "batch": batch_size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "matmul_ms": 1e3 * matmul_secs,
    }
    for label, transform in steps.items():
        secs = _step_secs(task, transform, params, arrays, repeats)
        result[f"{label}_ms"] = 1e3 * secs
        result[f"{label}_outside"] = 1.0 - matmul_secs / secs
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", action="append", help="Only this one; repeatable.")
    parser.add_argument("--batch", type=int, default=128, help="For --task, examples.")
    parser.add_argument("--repeats", type=int, default=5, help="Median of so many.")
    args = parser.parse_args(argv)
    if min(args.repeats, args.batch) < 1:
        parser.error("--repeats and --batch must be at least 1.")
    chosen = [(name, args.batch) for name in args.task or ()] or TASKS
    machine = _harness.machine()
    for name, _ in chosen:
        try:
            tasks.names.parse(name)
        except ValueError as error:
            parser.error(str(error))
    for name, batch_size in chosen:
        _harness.say(f"{name}, batch {batch_size}")
        _harness.print_line(measure(name, batch_size, args.repeats) | machine)


def _step_secs(
    task: tasks.Task, transform: Any, params: Any, arrays: Any, repeats: int
) -> float:
    """Seconds of a whole inner step, state handed on from call to call."""

    def step(carry, arrays):
        params, state, key = carry
        key, data_key = jax.random.split(key)
        batch = task.sample(arrays, data_key)
        loss, grads = jax.value_and_grad(task.loss)(params, data_key, batch)
        updates, state = transform.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state, key)

    compiled = jax.jit(step, donate_argnums=0)
    carry = (
        jax.tree.map(jnp.copy, params),
        transform.init(params),
        jax.random.key(_SEED),
    )

    def call():
        nonlocal carry
        carry = compiled(carry, arrays)
        return carry

    return secs_per_call(call, repeats)


def _equations(jaxpr: core.Jaxpr) -> Iterator[Any]:
    """Every equation of a program, those of the programs inside it included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for param in eqn.params.values():
            for inner in param if isinstance(param, tuple | list) else (param,):
                if isinstance(inner, core.ClosedJaxpr):
                    yield from _equations(inner.jaxpr)
                elif isinstance(inner, core.Jaxpr):
                    yield from _equations(inner)


def _alone(eqn: Any) -> Callable[[], Any]:
    """One operation as a program of its own, on random arrays of its shapes."""
    keys = jax.random.split(jax.random.key(_SEED), len(eqn.invars))
    arrays = [
        jax.random.normal(key, var.aval.shape, var.aval.dtype)
        for key, var in zip(keys, eqn.invars, strict=True)
    ]
    compiled = jax.jit(lambda *xs: eqn.primitive.bind(*xs, **eqn.params))
    return lambda: compiled(*arrays)


def _empty_program() -> Callable[[], Any]:
    compiled, array = jax.jit(lambda x, y: x), jnp.zeros((2, 2))
    return lambda: compiled(array, array)


if __name__ == "__main__":
    main()
