"""One update of every optimizer at the shapes of ViT-B/16, 86 million parameters.

    python -m benchmarks.device_step [--names NAME ...] [--count] [--tree vit_b16|small]

For accelerators: one command that prints a JSON object per optimizer, milliseconds per
update beside optax.adam's (median over repeats, sides take turns), the peak of memory
where the device tells it, and the seconds of the first call. Learned ones have their
published sizes and a random theta.

``--count`` runs nothing and needs no GPU, but the ``cuda`` extra: it compiles for an
H100 and counts kernels, the floats that they read and write per parameter (four bytes
each; optax.adam's three and three are the least there can be with two moments), and
bytes per parameter that a step needs besides its arguments and results.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mulo
from benchmarks import _gpu_programs

_UPDATES = 5  # Per call.
_LAYERS, _WIDTH = 12, 768


def shapes(name: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a tree: ``vit_b16``, or ``small`` of the same kind to try it out."""
    layers, width = (_LAYERS, _WIDTH) if name == "vit_b16" else (2, 32)
    found: dict[str, tuple[int, ...]] = {
        "patch/kernel": (16, 16, 3, width),
        "patch/bias": (width,),
        "cls": (1, 1, width),
        "position": (1, 197, width),
        "norm/scale": (width,),
        "norm/bias": (width,),
        "head/kernel": (width, 1000),
        "head/bias": (1000,),
    }
    for i in range(layers):
        for part, (rows, columns) in {
            "qkv": (width, 3 * width),
            "out": (width, width),
            "up": (width, 4 * width),
            "down": (4 * width, width),
        }.items():
            found[f"{i}/{part}/kernel"] = (rows, columns)
            found[f"{i}/{part}/bias"] = (columns,)
        for part in ("norm1", "norm2"):
            found[f"{i}/{part}/scale"] = found[f"{i}/{part}/bias"] = (width,)
    return {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in found.items()}


def make(name: str) -> optax.GradientTransformationExtraArgs:
    """Make an optimizer in standard parametrization; ``optax.adam`` is optax's own."""
    if name == "optax.adam":
        return optax.with_extra_args_support(optax.adam(1e-3))
    info = mulo.optimizers.info(name)
    if not info.learned:
        return mulo.optimizers.get(name, learning_rate=1e-3)
    rule = info.make(**info.fixed)
    theta = rule.init(jax.random.key(0))
    return mulo.optimizers.get(name, theta=theta, num_steps=1_000)


def counted(name: str, tree: Any) -> dict[str, Any]:
    """Counts of an update's program for an H100."""
    tx = make(name)
    state = jax.eval_shape(tx.init, tree)

    def update(grads, state, params):
        return tx.update(grads, state, params, value=jnp.float32(1.0))

    start = time.perf_counter()
    program = _gpu_programs.compile_for_h100(update, tree, state, tree, donate=1)
    seconds = time.perf_counter() - start
    counts = _gpu_programs.count(program.as_text())
    params = sum(x.size for x in tree.values())
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    return {
        "kernels": counts.kernels,
        "floats_read": counts.read_bytes / 4 / params,
        "floats_written": counts.written_bytes / 4 / params,
        "state_bytes": held / params,
        "other_bytes": program.memory_analysis().temp_size_in_bytes / params,
        "compile_s": seconds,
    }


class Side:
    """One optimizer's program, its state and its times."""

    def __init__(self, name: str, tree: Any):
        """Compile it and make the first call."""
        tx = make(name)
        self.params = jax.tree.map(lambda x: jnp.full(x.shape, 0.01), tree)
        self.grads = jax.tree.map(lambda x: jnp.full(x.shape, 1e-3), tree)
        self.state = jax.jit(tx.init)(self.params)

        def call(params, state, grads):
            def one(carry, _):
                params, state = carry
                updates, state = tx.update(grads, state, params, value=jnp.float32(1.0))
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(one, (params, state), None, _UPDATES)[0]

        self._call = jax.jit(call, donate_argnums=(0, 1))
        self.first_call_s = self.run()
        self.seconds: list[float] = []

    def run(self) -> float:
        """Seconds of a call."""
        start = time.perf_counter()
        self.params, self.state = self._call(self.params, self.state, self.grads)
        jax.block_until_ready(self.params)
        return time.perf_counter() - start


def race(name: str, tree: Any, repeats: int) -> dict[str, Any]:
    """Time an optimizer and optax.adam in turns."""
    own, adam = Side(name, tree), Side("optax.adam", tree)
    for _ in range(repeats):
        for side in (own, adam):
            side.seconds.append(side.run())
    ms, adam_ms = (
        1e3 * statistics.median(side.seconds) / _UPDATES for side in (own, adam)
    )
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "ms": ms,
        "adam_ms": adam_ms,
        "over_adam": ms / adam_ms,
        "first_call_s": own.first_call_s,
        "peak_bytes": stats.get("peak_bytes_in_use"),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ("optax.adam", *mulo.optimizers.names())
    parser.add_argument("--names", nargs="+", choices=names, default=names)
    parser.add_argument("--tree", choices=("vit_b16", "small"), default="vit_b16")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--count", action="store_true", help="run nothing")
    options = parser.parse_args(argv)
    tree = shapes(options.tree)
    device = "compiled for an H100" if options.count else jax.devices()[0].device_kind
    for name in options.names:
        if options.count:
            try:
                row = counted(name, tree)
            except _gpu_programs.CompilerMissing as error:
                parser.error(str(error))
        else:
            row = race(name, tree, options.repeats)
        print(json.dumps({"device": device, "optimizer": name, **row}), flush=True)


if __name__ == "__main__":
    main()
