"""What a sweep will cost: guesses of time and memory before anything has run.

Good to a factor of two or three. Where results of a program are there, their measured
time per step takes the place of the guess.
"""

import dataclasses
import functools
import math
from typing import Any

import jax

import mulo
import tasks
from evaluate.optimizers import names
from evaluate.sweep import axes, plan

# Of one core of the CPUs this was measured on, and of the compilation of a program.
_FLOPS_PER_SEC = 35e9
_COMPILE_SECS = {False: 8.0, True: 14.0}  # Hand-designed; learned.
_STEP_SECS = 5e-5  # What a step takes however small it is.
# Nanoseconds per parameter and update on a core (docs/performance.md); Adam otherwise.
_NANOSECS = {
    "muon": 60.0,
    "learned_muon": 60.0,
    "soap": 60.0,
    "shampoo": 40.0,
    "null_muon": 60.0,
    "celo2": 80.0,
    "celo2_base": 15.0,
    "celo": 20.0,
    "velo": 30.0,
    "small_fc": 90.0,
    "annealed_fc": 90.0,
    "elo": 15.0,
    "lstm_ff": 250.0,
}
_ORTHOGONAL = ("muon", "learned_muon", "celo2", "null_muon")
_NEWTON_SCHULZ_PRODUCTS = 15  # Five iterations of three.


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a unit, on one core."""

    secs_per_step: float
    compile_secs: float
    bytes_per_run: float  # Parameters, gradients, optimizer state, activations.


@functools.cache
def of_task(
    name: tasks.names.TaskName, batch_size: int, data_dir: str, data_budget_bytes: int
) -> tuple[float, float, int]:
    """Return FLOPs of loss and gradient, cubes of matrices, and parameters.

    The second is what orthogonalizing every hidden matrix once costs, in FLOPs.
    """
    task = tasks.get(
        name,
        batch_size=batch_size,
        data_dir=data_dir or None,
        data_budget_bytes=data_budget_bytes,
    )
    params = jax.eval_shape(task.init, jax.random.key(0))
    index = jax.ShapeDtypeStruct((batch_size,), "int32")
    arrays = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        dict(task.dataset.arrays("train")),
    )

    def loss(params, arrays, index):
        return task.loss(
            params, jax.random.key(0), task.dataset.examples(arrays, index)
        )

    lowered = jax.jit(jax.grad(loss)).lower(params, arrays, index)
    analysis: Any = lowered.cost_analysis() or {}
    leaves = jax.tree.leaves(params)
    cubes = sum(
        2.0
        * _NEWTON_SCHULZ_PRODUCTS
        * math.prod(leaf.shape)
        * min(leaf.shape[-2:])
        * (min(leaf.shape[-2:]) > 16)
        for leaf in leaves
        if len(leaf.shape) >= 2
    )
    count = sum(math.prod(leaf.shape) for leaf in leaves)
    return float(analysis.get("flops", 0.0)), cubes, count


def of_unit(
    config: axes.SweepConfig, unit: plan.Unit, measured: float | None = None
) -> Cost:
    """Guess what a unit costs.

    Args:
      config: The sweep.
      unit: Of it.
      measured: Seconds per step of runs that are there, if any.
    """
    program = unit.program
    flops, cubes, count = of_task(
        program.task, program.batch_size, config.data_dir, config.data_budget_bytes
    )
    rule = _rule(unit)
    orthogonal = cubes if rule in _ORTHOGONAL else 0.0
    secs = (
        _STEP_SECS
        + (flops + orthogonal) / _FLOPS_PER_SEC
        + 1e-9 * _NANOSECS.get(rule, 3.0) * count
    )
    learned = unit.contender.spec.learned
    activations = 8.0 * flops / 1e3  # A float or two for every thousand operations.
    return Cost(
        secs_per_step=measured or secs,
        compile_secs=_COMPILE_SECS[learned],
        bytes_per_run=4.0 * count * (14 if learned else 10) + activations,
    )


def _rule(unit: plan.Unit) -> str:
    spec, pretrained = unit.contender.spec, unit.contender.pretrained
    if pretrained is not None and spec.rule is None:
        rules = [x for x in mulo.optimizers.names() if names.takes(x, pretrained)]
        return rules[0] if rules else "small_fc"
    return spec.rule or spec.name


def span(secs: float) -> str:
    """Write a duration for people.

    >>> span(42), span(150), span(8000)
    ('42 s', '2.5 min', '2.2 h')
    """
    if secs < 100:
        return f"{secs:.0f} s"
    if secs < 6000:
        return f"{secs / 60:.2g} min" if secs < 600 else f"{secs / 60:.0f} min"
    return f"{secs / 3600:.1f} h"


def size(num_bytes: float) -> str:
    """Write a size for people.

    >>> size(2_500_000)
    '2.4 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    raise AssertionError
