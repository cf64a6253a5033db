"""Race our PES against google/learned_optimization's, in inner steps per second.

    python -m benchmarks.meta_train_throughput [--case small] [--repeats N]

Both sides make whole gradient estimates of the same workload (8 antithetic pairs,
truncation 50, small_fc_lopt with hidden size 32, lengths log-uniform in 100-1000) on
the same MLP, image shape and batch size, in one process and in turn. An inner step is
one step of one particle. Prints one JSON object per case; ``ratio`` is ours over the
peer's, null where the peer is not importable. ``--tune_peer`` races the peer against
itself instead, one line per setting. On 2 CPU cores the small case takes about a
minute, the large one a quarter of an hour, the one of color images more, mostly the
peer's.
"""

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Sequence

import jax
import numpy as np

import mulo
import tasks
from benchmarks import _harness
from benchmarks import _peer_learned_optimization as peer
from meta_train import devices, estimators, unroll

_BENCHMARK = "meta_train_throughput"
_SEED = 0


def our_estimator_step(case: _harness.Case) -> _harness.Step:
    """Build our PES estimator for ``case``; a call makes one estimate and blocks."""
    height, width, channels = case.image_shape
    (units,) = set(case.widths)
    data = f"synthetic:{height}x{width}x{channels}:{case.num_classes}"
    rule = mulo.SmallFC(hidden_size=case.hidden_size, step_mult=case.step_mult)
    task = tasks.get(
        f"sp-mlp-w{units}-d{len(case.widths)}-{data}", batch_size=case.batch_size
    )
    config = estimators.EstimatorConfig(
        sigma=case.sigma,
        num_pairs=case.num_pairs,
        trunc_steps=case.trunc_steps,
        min_length_steps=case.min_steps,
        max_length_steps=case.max_steps,
    )
    inner = unroll.Inner(
        rule=rule, family=tasks.TaskFamily(task), loss_ceiling=math.inf
    )
    estimator = estimators.make(config, inner, devices.make_mesh(case.num_pairs))
    theta_key, init_key = jax.random.split(jax.random.key(_SEED))
    theta = jax.device_put(rule.init(theta_key), estimator.replicated)
    arrays = jax.device_put(dict(task.dataset.arrays("train")), estimator.replicated)
    state = estimator.init(theta, init_key)

    def step(key):
        nonlocal state
        grad, state, _ = estimator.estimate(theta, state, key, arrays, np.int32(0))
        jax.block_until_ready((grad, state))

    return step


def peer_estimator_step(
    case: _harness.Case, settings: peer.PeerSettings | None = None
) -> _harness.Step:
    """Build the peer's PES estimator, by default with its best settings."""
    settings = settings or peer.best_settings(case)
    return peer.estimator_step(case, settings, jax.random.key(_SEED))


def race(case: _harness.Case, *, repeats: int, with_peer: bool) -> dict[str, object]:
    """Time one case and return the fields of its line, the machine's facts aside."""
    steps = {"ours": our_estimator_step(case)}
    if with_peer:
        steps["peer"] = peer_estimator_step(case)
    warm_key, timed_key = jax.random.split(jax.random.key(_SEED + 1))
    compiled = {
        name: _harness.compile_secs(step, warm_key) for name, step in steps.items()
    }
    secs = _harness.interleave(steps, repeats=repeats, key=timed_key)
    rates = {
        name: _harness.rate(times, inner_steps=case.inner_steps)
        for name, times in secs.items()
    }
    peer_rate = rates.get("peer")
    return {
        "benchmark": _BENCHMARK,
        "case": case.name,
        "ours_inner_steps_per_s": rates["ours"],
        "peer_inner_steps_per_s": peer_rate,
        "ratio": None if peer_rate is None else rates["ours"] / peer_rate,
        "ours_compile_secs": compiled["ours"],
        "peer_compile_secs": compiled.get("peer"),
        "repeats": repeats,
        **_harness.machine(),
    }


def tune_peer(case: _harness.Case, *, repeats: int) -> None:
    """Race the peer's settings against each other; print one line for each."""
    settings = {str(i): s for i, s in enumerate(peer.all_settings(case))}
    steps = {name: peer_estimator_step(case, s) for name, s in settings.items()}
    warm_key, timed_key = jax.random.split(jax.random.key(_SEED + 1))
    compiled = {
        name: _harness.compile_secs(step, warm_key) for name, step in steps.items()
    }
    secs = _harness.interleave(steps, repeats=repeats, key=timed_key)
    facts = _harness.machine()
    for name, times in secs.items():
        _harness.print_line(
            {
                "benchmark": f"{_BENCHMARK}:tune_peer",
                "case": case.name,
                **dataclasses.asdict(settings[name]),
                "peer_inner_steps_per_s": _harness.rate(
                    times, inner_steps=case.inner_steps
                ),
                "peer_compile_secs": compiled[name],
                "repeats": repeats,
                **facts,
            }
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", choices=[*_harness.CASES, "all"], default="all")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls per side")
    parser.add_argument(
        "--tune_peer", action="store_true", help="race the peer's settings instead"
    )
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}.")
    missing = peer.why_missing()
    if missing is not None:
        _harness.say(f"{peer.HOW_TO_ADD}\nReason: {missing}.")
        if args.tune_peer:
            return 1
    names = list(_harness.CASES) if args.case == "all" else [args.case]
    for case in (_harness.CASES[name] for name in names):
        if args.tune_peer:
            tune_peer(case, repeats=args.repeats)
        else:
            _harness.say(f"{case.name}: compiling, then {args.repeats} repeats.")
            _harness.print_line(
                race(case, repeats=args.repeats, with_peer=missing is None)
            )
    return 0


if __name__ == "__main__":
    # As `python -m meta_train` does. The peer runs on the first device, with the
    # thread pool of all cores.
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    sys.exit(main())
