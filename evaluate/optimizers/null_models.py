"""Null models: what a learned rule must beat to have learned anything.

Two hand-designed steps of fixed size, with one learning rate for every task, width,
depth and horizon, never tuned; sweeps give them a cosine schedule. Each tensor's step
has a root mean square of one before the learning rate and the μP multiplier.

The rates were chosen once, on ``mlp-w32-d3-cifar10:8x8:gray`` over 1,000 steps.

Reference for the idea: OptDistil's baseline, and facts about μP with orthogonalized
steps in :func:`mulo.mup.update_multipliers`.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mulo

_B1, _B2 = 0.9, 0.99

LEARNING_RATES: Mapping[str, float] = {"null_adam": 0.03, "null_muon": 0.03}


def null_adam(
    learning_rate: optax.ScalarOrSchedule, *, mup: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Adam with every tensor's step brought to root mean square one.

    Args:
      learning_rate: Root mean square of a step at fan_in 1; float or schedule.
      mup: Tree of :class:`mulo.mup.Scaling`; None for the standard parametrization.

    Returns:
      A transformation whose updates are added to the parameters.
    """
    chain = optax.chain(
        optax.scale_by_adam(_B1, _B2),
        _to_unit_rms(),
        mulo.scale_by_mup(mup, optimizer="adam", base_width=1.0),
        optax.scale_by_learning_rate(learning_rate),
    )
    return optax.with_extra_args_support(chain)


def null_muon(
    learning_rate: optax.ScalarOrSchedule, *, mup: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Muon on hidden matrices, Adam on the rest, steps of root mean square one.

    Args:
      learning_rate: Root mean square of a step at fan_in 1; float or schedule.
      mup: As in :func:`null_adam`; without it every matrix counts as hidden.

    Returns:
      As :func:`null_adam`.
    """

    def labels(params):
        if mup is None:
            return jax.tree.map(lambda p: "muon" if p.ndim == 2 else "rest", params)
        return jax.tree.map(
            lambda p, s: "muon" if s.role == "hidden" and not s.finite else "rest",
            params,
            mulo.mup.align(mup, params, scalings=mup),
        )

    parts: dict[Hashable, optax.GradientTransformation] = {
        "muon": mulo.muon(learning_rate, mup=mup, consistent_rms=1.0),
        "rest": null_adam(learning_rate, mup=mup),
    }
    return optax.with_extra_args_support(optax.partition(parts, labels))


NULL_MODELS: Mapping[str, Callable[..., optax.GradientTransformationExtraArgs]] = {
    "null_adam": null_adam,
    "null_muon": null_muon,
}


def _to_unit_rms() -> optax.GradientTransformation:
    def update_fn(updates, state, params=None):
        del params

        def unit(x):
            mean_square = jnp.mean(jnp.square(x))
            return jnp.where(mean_square > 0, x * jax.lax.rsqrt(mean_square), x)

        return jax.tree.map(unit, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)
