"""Runs that begin where an earlier one struggled, instead of anew.

Each pair of runs is watched by a cumulative sum of its losses' increases from one
truncation to the next,

    C ← max(0, C + increase - slack),

and the state in which it was largest, above a threshold, is kept. When the runs end,
the next begin from that state with the given probability: parameters, the optimizer's
state, steps done, and what the estimator credits, ξ and ε, as they were. They go on for
a newly drawn length, so that runs of moderate lengths chain into long ones, and the
learned optimizer sees what it cannot yet do more often. A kept state is used once.

Biased: which states are kept depends on the losses, and so on how large the ε were that
are credited again. On a problem where a third of the runs begin from kept states, noise
reuse overestimated the gradient by half, PES by 4 %.

Rules that must know how long a run is are told the new length, at which their schedules
jump; the weights of ``late`` and ``last`` average to more than one over such a run.

Reference: Huang et al., `Efficient Long-Horizon Learning for Learned Optimization
<https://arxiv.org/abs/2607.06772>`_, 2026, whose public code does not restore ξ.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from meta_train import unroll

if TYPE_CHECKING:
    from meta_train.estimators import config as config_lib
    from meta_train.estimators import pairs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Watch:
    """What is known of how a pair's runs fare, and the state that is kept."""

    last_loss: jax.Array  # shape=(), float32. Of the truncation before; NaN at first.
    sum: jax.Array  # shape=(), float32. C.
    kept_sum: jax.Array  # shape=(), float32. C of the kept state; 0: there is none.
    kept: Any  # inner, pert_sum, pert and step of it.


def start(state: "pairs.PairsState") -> Watch:
    """Watch of runs that begin; whatever is kept is the state they begin with."""
    zero = jnp.zeros(())
    return Watch(
        last_loss=jnp.full((), jnp.nan), sum=zero, kept_sum=zero, kept=_of(state)
    )


def begin(
    config: "config_lib.EstimatorConfig",
    key: jax.Array,
    old: "pairs.PairsState",
    new: "pairs.PairsState",
) -> "pairs.PairsState":
    """The state after runs have ended: a kept one, or the new one.

    Args:
      config: Says how probable a kept one is.
      key: Decides.
      old: State of the runs that ended.
      new: State of new runs; its length is how long they go on.
    """
    watch = old.watch
    again = jax.random.bernoulli(key, config.restart_prob) & (watch.kept_sum > 0.0)
    kept = dataclasses.replace(
        new, **watch.kept, length=watch.kept["step"] + new.length
    )
    state = _choose(again, kept, new)
    # New runs do not lose what is kept from earlier ones.
    left = jnp.where(again, 0.0, watch.kept_sum)
    watch = dataclasses.replace(start(new), kept_sum=left, kept=watch.kept)
    return dataclasses.replace(state, watch=watch)


def follow(
    config: "config_lib.EstimatorConfig", state: "pairs.PairsState", loss: jax.Array
) -> Watch:
    """The watch after a truncation.

    Args:
      config: Slack and threshold, nats.
      state: After the truncation.
      loss: shape=(), float32. Mean loss of both runs over it.
    """
    watch = state.watch
    rise = jnp.where(jnp.isnan(watch.last_loss), 0.0, loss - watch.last_loss)
    total = jnp.maximum(0.0, watch.sum + rise - config.restart_slack)
    worst = total > jnp.maximum(watch.kept_sum, config.restart_threshold)
    worst &= unroll.is_finite(state.inner.params)
    return Watch(
        last_loss=loss,
        sum=total,
        kept_sum=jnp.where(worst, total, watch.kept_sum),
        kept=_choose(worst, _of(state), watch.kept),
    )


def _of(state):
    return {
        "inner": state.inner,
        "pert_sum": state.pert_sum,
        "pert": state.pert,
        "step": state.step,
    }


def _choose(condition, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
