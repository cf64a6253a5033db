"""google/learned_optimization as a peer: its own PES on its own image MLP.

Nothing of it is copied: every class is imported from whatever checkout is on
``PYTHONPATH``, and only its inputs are built here. The batches come from random
arrays that are ready in memory, so no data pipeline is timed.

The peer races with the settings of :func:`best_settings`, picked on a shared 2-core
machine. ``python -m benchmarks.meta_train_throughput --tune_peer`` times the others
again, save the optimizer's scalar arithmetic (``concat_weights=False``): in the small
case that took 327 seconds to compile and 1.6 times the CPU time per estimate; in the
large case it has not been measured.
"""

import dataclasses
import importlib
import itertools
import logging
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _harness

HOW_TO_ADD = """\
google/learned_optimization is not importable, so there is no race. To add it:
  pip install --no-deps git+https://github.com/google/learned_optimization
  pip install dm-haiku gin-config chex tensorboard tensorflow-cpu tensorflow-datasets
or put a checkout of it on PYTHONPATH. (The release on the package index is from 2022
and does not run on today's JAX.)"""

# Batches made beforehand and served in turn: enough that they do not sit in cache.
_POOL_BATCHES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerSettings:
    """Choices that the peer leaves to its user and that change only its speed.

    Attributes:
      steps_per_jit: Inner steps in one compiled scan; divides the truncation.
      stack_antithetic: Run both signs in one batch, not one after the other.
      concat_weights: The LO's network as matrix products, else as scalar arithmetic,
        which the peer offers for small hidden sizes.
      jit_estimate: Compile the whole estimate, not the unrolls alone. Its own trainer
        does the latter.
    """

    steps_per_jit: int = 50
    stack_antithetic: bool = True
    concat_weights: bool = True
    jit_estimate: bool = False


def why_missing() -> str | None:
    """None where the peer can be imported, else the reason it cannot."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # It imports TensorFlow.
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.CRITICAL)  # "Oryx not found": only its summaries need it.
    try:
        _load("outer_trainers.truncated_pes")
        _load("tasks.fixed.image_mlp")
    except ImportError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        absl.setLevel(level)
    return None


def estimator_step(
    case: _harness.Case, settings: PeerSettings, key: jax.Array
) -> _harness.Step:
    """Build the peer's TruncatedPES for ``case``.

    Args:
      case: The workload.
      settings: How the peer runs it.
      key: PRNG key for theta, the particles and the data.

    Returns:
      A callable that makes one full gradient estimate, moves the particles on and
      blocks. Theta stays as it is.

    Raises:
      ImportError: If the peer is not importable; see :func:`why_missing`.
    """
    theta_key, particles_key = jax.random.split(key)
    family = _load("tasks.base").single_task_to_family(_task(case))
    lopt = _load("learned_optimizers.adafac_mlp_lopt").AdafacMLPLOpt(
        hidden_size=case.hidden_size,
        step_mult=case.step_mult,
        concat_weights=settings.concat_weights,
    )
    schedule = _load("outer_trainers.truncation_schedule").LogUniformLengthSchedule(
        min_length=case.min_steps, max_length=case.max_steps
    )
    truncated_step = _load(
        "outer_trainers.lopt_truncated_step"
    ).VectorizedLOptTruncatedStep(
        family,
        lopt,
        schedule,
        num_tasks=case.num_pairs,
        random_initial_iteration_offset=case.max_steps,
    )
    estimator = _load("outer_trainers.truncated_pes").TruncatedPES(
        truncated_step,
        trunc_length=case.trunc_steps,
        std=case.sigma,
        steps_per_jit=settings.steps_per_jit,
        stack_antithetic_samples=settings.stack_antithetic,
    )
    learner = _load("outer_trainers.gradient_learner")
    weights = learner.WorkerWeights(
        theta=truncated_step.outer_init(theta_key),
        theta_model_state=None,
        outer_state=learner.OuterState(outer_iteration=np.int32(0)),
    )
    state = estimator.init_worker_state(weights, particles_key)
    # Both signs start in the same buffers, which the stacked path donates twice.
    state = state.replace(neg_state=jax.tree.map(jnp.copy, state.neg_state))

    def estimate_fn(weights, key, state, datas):
        out, _ = estimator.compute_gradient_estimate(
            weights, key, state, datas_list=datas
        )
        return out.grad, out.mean_loss, out.unroll_state

    if settings.jit_estimate:
        estimate_fn = jax.jit(estimate_fn)

    def step_fn(key):
        nonlocal state
        datas = estimator.get_datas()
        grad, mean_loss, state = estimate_fn(weights, key, state, datas)
        return jax.block_until_ready((grad, mean_loss, state))

    return step_fn


def _load(module: str) -> Any:
    """A module of the peer; untyped, since it is not there to be checked."""
    return importlib.import_module(f"learned_optimization.{module}")


def _task(case: _harness.Case) -> Any:
    """The class behind the peer's ImageMLP tasks, on batches that lie in memory."""
    batches = _batches(case)
    datasets = _load("tasks.datasets.base").Datasets(
        train=itertools.cycle(batches),
        inner_valid=itertools.cycle(batches),
        outer_valid=itertools.cycle(batches),
        test=itertools.cycle(batches),
        extra_info={"num_classes": case.num_classes},
        abstract_batch=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batches[0]
        ),
    )
    return _load("tasks.fixed.image_mlp")._MLPImageTask(datasets, list(case.widths))


def _batches(case: _harness.Case) -> list[dict[str, np.ndarray]]:
    """Random batches as the peer wants them: image float32, label int32."""
    rng = np.random.default_rng(0)
    shape = (case.batch_size, *case.image_shape)
    return [
        {
            "image": rng.standard_normal(shape, dtype=np.float32),
            "label": rng.integers(case.num_classes, size=shape[:1], dtype=np.int32),
        }
        for _ in range(_POOL_BATCHES)
    ]


def best_settings(case: _harness.Case) -> PeerSettings:
    """What served the peer best; the differences were small beside the noise.

    In CPU seconds per estimate: small, 0.40 stacked and 0.42 not; large, 22.5 stacked
    and 21.6 not. Compiling the whole estimate changed neither by more than 4 %.
    """
    return PeerSettings(
        steps_per_jit=case.trunc_steps, stack_antithetic=case.name == "small"
    )


def all_settings(case: _harness.Case) -> Iterator[PeerSettings]:
    """Every setting that --tune_peer times; they differ in speed, not in meaning."""
    for stack, jit, steps in itertools.product(
        (True, False), (False, True), (case.trunc_steps, 10)
    ):
        if stack and not jit and steps < case.trunc_steps:
            continue  # The peer donates theta in its first scan, then needs it again.
        yield PeerSettings(
            stack_antithetic=stack, jit_estimate=jit, steps_per_jit=steps
        )
