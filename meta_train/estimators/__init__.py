"""Estimators of meta-gradients: one file each, by the name a config gives.

`pes` and `noise_reuse_es` are unbiased up to the smoothing, `gpes` lies between them;
`pes_a` is PES with an analytic part; `full_es` trains whole runs; `truncated_es` and
`truncated_backprop` are biased by truncation.
"""

from collections.abc import Mapping

from jax.sharding import Mesh

from meta_train import objective as objective_lib
from meta_train import unroll
from meta_train.estimators import (
    full_es,
    gpes,
    noise_reuse_es,
    pes,
    pes_a,
    truncated_backprop,
    truncated_es,
)
from meta_train.estimators.base import HORIZONS, Estimator, Metrics
from meta_train.estimators.config import EstimatorConfig
from mulo import _hints as hints

__all__ = [
    "HORIZONS",
    "Estimator",
    "EstimatorConfig",
    "Metrics",
    "find",
    "make",
    "names",
]

_ESTIMATORS: Mapping[str, type[Estimator]] = {
    "pes": pes.PES,
    "truncated_es": truncated_es.TruncatedES,
    "noise_reuse_es": noise_reuse_es.NoiseReuseES,
    "gpes": gpes.GPES,
    "full_es": full_es.FullES,
    "truncated_backprop": truncated_backprop.TruncatedBackprop,
    "pes_a": pes_a.PESAnalytic,
}


def names() -> tuple[str, ...]:
    """Names that ``config.estimator.name`` may be."""
    return tuple(_ESTIMATORS)


def find(name: str) -> type[Estimator]:
    """The estimator of that name.

    Raises:
      ValueError: If there is none; says the nearest.
    """
    if name not in _ESTIMATORS:
        raise ValueError(
            f"estimator.name must be one of {', '.join(_ESTIMATORS)}, got {name!r}."
            f"{hints.question(name, names())}"
        )
    return _ESTIMATORS[name]


def make(
    config: EstimatorConfig,
    inner: unroll.Inner,
    mesh: Mesh,
    objective: objective_lib.ObjectiveConfig = objective_lib.MEAN_LOSS,
    particles_at_once: int = 0,
) -> Estimator:
    """Build the estimator a config names.

    Args:
      config: Its settings.
      inner: The task and the rule that trains it.
      mesh: From :func:`meta_train.devices.make_mesh`.
      objective: What is made small.
      particles_at_once: Runs side by side on a device, at most; 0: automatic.

    Raises:
      ValueError: As `find`.
    """
    return find(config.name)(inner, config, mesh, objective, particles_at_once)
