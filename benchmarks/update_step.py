"""Time of one update of a square matrix, optimizer by optimizer.

    python -m benchmarks.update_step [--names celo2_base small_fc ...] [--size 1024]

Every optimizer of :mod:`mulo.optimizers` by default, learned ones with their published
sizes and a random theta. Sides take turns. Prints one JSON object per optimizer, in
the order of the names: the median wall-clock milliseconds of an update, the
processor's, and both relative to the first name.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import jax

import mulo
from benchmarks import _harness

_BENCHMARK = "update_step"
_SEED = 0


def update_step(name: str, size: int) -> _harness.Step:
    """Build the update of one matrix; a call makes one and blocks."""
    info = mulo.optimizers.info(name)
    theta = None
    if info.learned:
        theta = info.make(**info.fixed).init(jax.random.key(_SEED))
    tx = mulo.optimizers.get(name, learning_rate=0.01, theta=theta, num_steps=1_000)
    param_key, grad_key = jax.random.split(jax.random.key(_SEED + 1))
    params = jax.random.normal(param_key, (size, size))
    grads = jax.random.normal(grad_key, (size, size))
    state = tx.init(params)
    update = jax.jit(
        lambda state: tx.update(grads, state, params, value=1.0), donate_argnums=0
    )

    def step(key):
        del key
        nonlocal state
        updates, state = update(state)
        jax.block_until_ready((updates, state))

    return step


def main(argv: Sequence[str] | None = None) -> None:
    """Time the given optimizers in turn and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", nargs="+", default=list(mulo.optimizers.names()))
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=10)
    flags = parser.parse_args(argv)
    key = jax.random.key(_SEED)
    steps, compiled, processor = {}, {}, {}
    for name in flags.names:
        step = update_step(name, flags.size)
        compiled[name] = _harness.compile_secs(step, key)
        processor[name] = []
        steps[name] = _with_processor_secs(step, processor[name])
        _harness.say(f"{name} compiled in {compiled[name]:.1f} s")
    secs = _harness.interleave(steps, repeats=flags.repeats, key=key)
    medians = {name: statistics.median(times) for name, times in secs.items()}
    work = {
        name: statistics.median(times[-flags.repeats :])
        for name, times in processor.items()
    }
    first, facts = flags.names[0], _harness.machine()
    for name in flags.names:
        _harness.print_line(
            {
                "benchmark": _BENCHMARK,
                "name": name,
                "size": flags.size,
                "update_ms": 1e3 * medians[name],
                "processor_ms": 1e3 * work[name],
                "relative": medians[name] / medians[first],
                "relative_processor": work[name] / work[first],
                "compile_secs": compiled[name],
                "repeats": flags.repeats,
                **facts,
            }
        )


def _with_processor_secs(step: _harness.Step, secs: list[float]) -> _harness.Step:
    """The same step, adding this process's processor seconds, all threads, to a list.

    They tell more than the clock does where other programs share the machine.
    """

    def timed(key):
        start = time.process_time()
        step(key)
        secs.append(time.process_time() - start)

    return timed


if __name__ == "__main__":
    main(sys.argv[1:])
