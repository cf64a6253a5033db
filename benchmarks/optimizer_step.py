"""Time, memory and compile time of one update, optimizer by optimizer.

    python -m benchmarks.optimizer_step [--tree matrix|transformer|small ...]
        [--names NAME ...] [--peer] [--layers]

Trees: one 1024×1024 matrix; a transformer of 10 million parameters; 200 small tensors.
Optimizers: all of :mod:`mulo.optimizers` under the standard parametrization, learned
ones with their published sizes and a random theta; `optax.adam`, which all figures are
relative to; SmallFC in the straightforward feature-last form that the tests use as
their oracle (not on the transformer, where it would need 2 GB for its features); with
``--peer``, google/learned_optimization's own rules.

A call makes ten updates, since SOAP and Shampoo renew their matrices once in ten or
more; sides take turns. State is donated, gradients and parameters stay the same. Prints
one JSON object per tree and optimizer: milliseconds per update (median over repeats),
nanoseconds per parameter, both as ratio to optax.adam, the bytes of state per parameter
and the seconds of the first call.

``--layers`` compares instead how long each optimizer takes to compile for a transformer
of 24 layers and for one of 2.
"""

import argparse
import importlib.util
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mulo
import tasks
from benchmarks import _harness
from benchmarks import _peer_rules as peer_rules

_BENCHMARK = "optimizer_step"
_SEED = 0
_UPDATES = 10  # Per call.
_BASELINE = "optax.adam"
_NAIVE = "small_fc feature-last"
_SMALL_HIDDEN = {"small_fc": {"hidden_size": 4}, "elo": {"hidden_size": 4}}
_TESTS = pathlib.Path(__file__).parent.parent / "tests"
_ORACLE = _TESTS / "helpers" / "small_fc_oracle.py"

Shapes = Any  # A pytree of jax.ShapeDtypeStruct.
# (init(params) -> state, update(grads, state, params) -> (updates, state)).
Optimizer = tuple[Callable[[Any], Any], Callable[[Any, Any, Any], Any]]


def tree(name: str) -> Shapes:
    """Return the shapes of a tree: ``matrix``, ``transformer`` or ``small``."""
    if name == "matrix":
        return {"w": _shape(1024, 1024)}
    if name == "transformer":
        return layers(8, width=320)
    if name == "small":
        block = {
            "kernel": _shape(32, 48),
            "bias": _shape(48),
            "gain": _shape(32),
            "out": _shape(48, 16),
        }
        return {f"layer_{i}": block for i in range(50)}
    raise ValueError(f"tree must be one of {TREES}, got {name!r}.")


TREES = ("matrix", "transformer", "small")


def layers(depth: int, *, width: int) -> Shapes:
    """Return the shapes of a transformer on bytes."""
    task = tasks.get(f"transformer-w{width}-d{depth}-pystdlib")
    return jax.eval_shape(task.init, jax.random.key(_SEED))


def optimizer(name: str, sizes: Mapping[str, Any]) -> Optimizer:
    """Make an optimizer by the name it has in this benchmark's output.

    Args:
      name: ``optax.adam``, a name of :mod:`mulo.optimizers`, the oracle's, or
        ``peer …``.
      sizes: Fields of a learned architecture that differ from its defaults.
    """
    if name.startswith("peer "):
        return peer_rules.make(name.removeprefix("peer "), _UPDATES)
    if name.startswith(_NAIVE):
        return _naive(sizes)
    if name == _BASELINE:
        tx = optax.with_extra_args_support(optax.adam(1e-3))
    else:
        name = name.partition(" ")[0]
        info = mulo.optimizers.info(name)
        theta, rate = None, 1e-3
        if info.learned:
            rule = info.make(**info.fixed, **sizes)
            theta = mulo.Pretrained(rule, rule.init(jax.random.key(_SEED)), {})
            rate = None  # Its own.
        tx = mulo.optimizers.get(name, learning_rate=rate, theta=theta, num_steps=1_000)
    return tx.init, lambda grads, state, params: tx.update(
        grads, state, params, value=jnp.ones(())
    )


def _naive(sizes: Mapping[str, Any]) -> Optimizer:
    spec = importlib.util.spec_from_file_location("small_fc_oracle", _ORACLE)
    assert spec is not None
    assert spec.loader is not None
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    rule = mulo.SmallFC(**sizes)
    theta = rule.init(jax.random.key(_SEED))

    # The oracle reads flat dicts.
    def init(params):
        flat = _flat(params)
        return jnp.zeros((), jnp.int32), oracle.init(flat)

    def update(grads, state, params):
        count, state = state
        updates, state = oracle.update(
            rule, theta, count, _flat(grads), state, _flat(params)
        )
        return updates, (count + 1, state)

    return init, update


class Side:
    """An optimizer on a tree, compiled; a call makes ten updates and blocks."""

    def __init__(self, name: str, shapes: Shapes, sizes: Mapping[str, Any]):
        """Compile, and make the state."""
        init, update = optimizer(name, sizes)
        self._params = draw(shapes, 1, 0.1)
        self._grads = draw(shapes, 2, 1e-3)
        start = time.perf_counter()
        self._state = jax.jit(init)(self._params)
        self._step = jax.jit(update, donate_argnums=1)
        self._update()
        self.compile_secs = time.perf_counter() - start
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        state = jax.tree.leaves(self._state)
        self.bytes_per_parameter = sum(leaf.nbytes for leaf in state) / count

    def _update(self) -> None:
        updates, self._state = self._step(self._grads, self._state, self._params)
        jax.block_until_ready((updates, self._state))

    def __call__(self, key: jax.Array) -> None:
        """Make ten updates."""
        del key
        for _ in range(_UPDATES):
            self._update()


def measure(
    tree_name: str, names: Sequence[tuple[str, Mapping[str, Any]]], repeats: int
) -> None:
    """Time optimizers on one tree in turn and print a line for each."""
    shapes = tree(tree_name)
    leaves = jax.tree.leaves(shapes)
    count = sum(leaf.size for leaf in leaves)
    sides = {}
    for name, sizes in names:
        sides[name] = Side(name, shapes, sizes)
        _harness.say(f"{tree_name}: {name}, {sides[name].compile_secs:.1f} s")
    secs = _harness.interleave(sides, repeats=repeats, key=jax.random.key(_SEED))
    medians = {name: statistics.median(s) / _UPDATES for name, s in secs.items()}
    facts = _harness.machine()
    for name, side in sides.items():
        _harness.print_line(
            {
                "benchmark": _BENCHMARK,
                "tree": tree_name,
                "parameters": count,
                "tensors": len(leaves),
                "optimizer": name,
                "update_ms": 1e3 * medians[name],
                "ns_per_parameter": 1e9 * medians[name] / count,
                "ratio_to_adam": medians[name] / medians[_BASELINE],
                "state_bytes_per_parameter": side.bytes_per_parameter,
                "first_call_secs": side.compile_secs,
                "repeats": repeats,
                **facts,
            }
        )


def measure_layers(names: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Print how long compiling takes for 2 and for 24 layers."""
    facts = _harness.machine()
    for name, sizes in names:
        secs = {}
        for depth in (2, 24):
            init, update = optimizer(name, sizes)
            params = layers(depth, width=128)
            state = jax.eval_shape(init, params)
            lowered = time.perf_counter()
            jax.jit(update).lower(params, state, params).compile()
            secs[depth] = time.perf_counter() - lowered
        _harness.print_line(
            {
                "benchmark": _BENCHMARK,
                "optimizer": name,
                "compile_secs_2_layers": secs[2],
                "compile_secs_24_layers": secs[24],
                "ratio": secs[24] / secs[2],
                **facts,
            }
        )


def chosen(tree_name: str, given: Sequence[str], peer: bool) -> list[Any]:
    """Names to time on a tree with the sizes of learned rules; optax.adam first."""
    names: list[Any] = [(_BASELINE, {})]
    for name in given or mulo.optimizers.names():
        mulo.optimizers.info(name)  # A typo ends it here.
        names.append((name, {}))
        if name in _SMALL_HIDDEN:
            names.append((f"{name} hidden 4", _SMALL_HIDDEN[name]))
        if name == "learned_muon":
            names.append((f"{name} decay", {"weight_decay_unit": 0.003}))
        if name == "small_fc" and tree_name != "transformer":
            names.append((_NAIVE, {}))
            names.append((f"{_NAIVE} hidden 4", _SMALL_HIDDEN[name]))
    if peer:
        names += [(f"peer {name}", {}) for name in peer_rules.NAMES]
    return names


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tree", nargs="+", choices=TREES, default=TREES)
    parser.add_argument("--names", nargs="+", default=(), help="Default: all.")
    parser.add_argument("--peer", action="store_true", help="Race the peer's rules.")
    parser.add_argument("--layers", action="store_true", help="Compile time by depth.")
    parser.add_argument("--repeats", type=int, default=5, help="Median of so many.")
    flags = parser.parse_args(argv)
    if flags.repeats < 1:
        parser.error("--repeats must be at least 1.")
    try:
        chosen("transformer", flags.names, False)
    except ValueError as error:
        parser.error(f"--names: {error}")
    if flags.peer and (reason := peer_rules.why_missing()):
        parser.error(reason)
    if flags.layers:
        # What was compiled before would be found again, and cost nothing.
        jax.config.update("jax_enable_compilation_cache", False)
        measure_layers(chosen("transformer", flags.names, False))
        return
    jax.config.update("jax_enable_compilation_cache", False)
    for name in flags.tree:
        measure(name, chosen(name, flags.names, flags.peer), flags.repeats)


def _shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _flat(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def draw(shapes: Shapes, seed: int, scale: float) -> Any:
    """Draw arrays of these shapes, normal."""
    leaves, treedef = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    draws = [
        scale * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return treedef.unflatten(draws)


if __name__ == "__main__":
    main(sys.argv[1:])
