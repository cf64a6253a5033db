"""What the first call of a rule costs: tracing, compiling, running once.

    python -m benchmarks.first_call [--tree layers|small ...] [--names NAME ...]

Trees: a transformer of 24 layers of width 256, 19 million parameters in 390 tensors;
200 small tensors. Rules: `optax.adam`, which the others are beside, and all learned
ones of :mod:`mulo.optimizers` with their published sizes and a random theta, and
small_fc and elo with 4 hidden units as well. Nothing is read from, or written to, a
cache of compiled programs.

Prints one JSON object per tree and rule: seconds of tracing and lowering, of compiling,
of the first step, of the three together on the clock and on the processor (all threads
of the process; the two differ where others use the machine), and milliseconds of a
later step, the median over repeats. State is donated.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

import mulo
from benchmarks import _harness
from benchmarks import optimizer_step as steps_lib

_BENCHMARK = "first_call"
TREES = ("layers", "small")


def tree(name: str) -> steps_lib.Shapes:
    """Return the shapes of a tree: ``layers`` or ``small``."""
    if name == "layers":
        return steps_lib.layers(24, width=256)
    return steps_lib.tree("small")


def measure(
    name: str, shapes: steps_lib.Shapes, sizes: Mapping[str, Any], repeats: int
) -> dict[str, Any]:
    """Time one rule on one tree from nothing compiled.

    Args:
      name: As :func:`benchmarks.optimizer_step.optimizer` takes it.
      shapes: The tree.
      sizes: Fields of a learned architecture that differ from its defaults.
      repeats: Steps after the first, at least 1.
    """
    init, update = steps_lib.optimizer(name, sizes)
    params = steps_lib.draw(shapes, 1, 0.1)
    grads = steps_lib.draw(shapes, 2, 1e-3)
    state = jax.block_until_ready(jax.jit(init)(params))
    step = jax.jit(update, donate_argnums=1)
    clock, processor = [time.perf_counter()], time.process_time()
    lowered = step.lower(grads, state, params)
    clock.append(time.perf_counter())
    compiled = lowered.compile()
    clock.append(time.perf_counter())
    for turn in range(1 + repeats):
        updates, state = compiled(grads, state, params)
        jax.block_until_ready((updates, state))
        clock.append(time.perf_counter())
        if turn == 0:
            processor = time.process_time() - processor
    secs = [end - start for start, end in itertools.pairwise(clock)]
    return {
        "trace_secs": secs[0],
        "compile_secs": secs[1],
        "first_step_secs": secs[2],
        "first_call_secs": sum(secs[:3]),
        "first_call_processor_secs": processor,
        "step_ms": 1e3 * statistics.median(secs[3:]),
        "repeats": repeats,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tree", nargs="+", choices=TREES, default=TREES)
    parser.add_argument("--names", nargs="+", default=(), help="Default: learned ones.")
    parser.add_argument("--repeats", type=int, default=9, help="Median of so many.")
    flags = parser.parse_args(argv)
    if flags.repeats < 1:
        parser.error("--repeats must be at least 1.")
    known = mulo.optimizers.names()
    learned = [x for x in known if mulo.optimizers.info(x).learned]
    try:
        rules = steps_lib.chosen("transformer", flags.names or learned, False)
    except ValueError as error:
        parser.error(f"--names: {error}")
    jax.config.update("jax_enable_compilation_cache", False)
    for tree_name in flags.tree:
        shapes = tree(tree_name)
        for name, sizes in rules:
            jax.clear_caches()
            _harness.print_line(
                {
                    "benchmark": _BENCHMARK,
                    "tree": tree_name,
                    "rule": name,
                    **measure(name, shapes, sizes, flags.repeats),
                    **_harness.machine(),
                }
            )


if __name__ == "__main__":
    main(sys.argv[1:])
