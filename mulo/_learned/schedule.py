"""LearnedMuon's schedule: rates of all arrays from progress, horizon, noise and depth.

What it is made of is annealed linearly; a network of one hidden layer multiplies that
for every role, and says how much of every matrix decays.

Axis names: F features, L arrays, R roles.
"""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from mulo._designed import muon_kinds as kinds_lib

if TYPE_CHECKING:  # It calls what is here.
    from mulo._learned.learned_muon import LearnedMuon

NUM_FEATURES = 10  # F.
# Whose weight decay is learned; biases and gains have none.
DECAYED = tuple(role for role in kinds_lib.ROLES if role != "vector")

# Without a horizon: a run of _OPEN_STEPS steps that stays at this progress.
_OPEN_PROGRESS = 0.25
_OPEN_STEPS = 1_000.0
_OPEN_WARMUP_STEPS = 20.0


def rates(
    rule: "LearnedMuon",
    network: Any,
    t: jax.Array,
    horizon: jax.Array | None,
    log_signals: jax.Array,
    roles: Sequence[int],
) -> tuple[jax.Array, jax.Array | None]:
    """Rate and weight decay of every array.

    Args:
      rule: The optimizer.
      network: ``w0`` (F, units), ``b0``, ``w1`` (units, R), ``b1``; with a decay R is
        followed by one for each of `DECAYED`.
      t: shape=(), float32. Updates, this one included.
      horizon: shape=(), float32. Updates of the run; None for a constant rate.
      log_signals: (L,). Logarithm of s, what of an array's direction is no noise.
      roles: L of them.

    Returns:
      (L,), float32, parameter units at fan_in 1; and (L,), the share of the array that
      this step takes away, or None for a rule without weight decay.
    """
    if horizon is None:
        x, steps = jnp.float32(_OPEN_PROGRESS), jnp.float32(_OPEN_STEPS)
        annealed = jnp.minimum(t / _OPEN_WARMUP_STEPS, 1.0)
    else:
        x, steps = jnp.minimum(t / horizon, 1.0), horizon
        warmup = jnp.minimum(1.0, t / jnp.maximum(rule.warmup_frac * steps, 1.0))
        annealed = warmup * (1.0 - (1.0 - rule.final_frac) * x)
    hidden = sum(role == kinds_lib.HIDDEN for role in roles)
    shared = [
        x,
        jnp.square(x),
        jnp.sqrt(x),
        jnp.exp(-x / 0.02),
        jnp.exp(-x / 0.1),
        jnp.exp((x - 1.0) / 0.1),
        jnp.sqrt(1.0 - x),
        jnp.log(steps / 1_000.0) / math.log(10.0),
        jnp.float32(math.log2((1 + hidden) / 3.0)),
    ]
    own = jnp.clip(log_signals, -4.0, 1.0)
    assert len(shared) + 1 == NUM_FEATURES
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    units = product(jnp.stack(shared), network["w0"][:-1]) + network["b0"]  # (units,)
    units = jnp.tanh(units[None, :] + own[:, None] * network["w0"][-1][None, :])
    out = product(units, network["w1"]) + network["b1"][None, :]  # (L, R)
    rows = jnp.arange(len(roles))
    factors = jnp.asarray([rule.role_factors[role] for role in roles], jnp.float32)
    factors *= jnp.exp(out[rows, jnp.asarray(roles)])
    decays = None
    if rule.weight_decay_unit:
        names = [kinds_lib.ROLES[role] for role in roles]
        columns = [
            len(kinds_lib.ROLES) + DECAYED.index(name) if name in DECAYED else -1
            for name in names
        ]
        decayed = jnp.asarray([column >= 0 for column in columns], jnp.float32)
        decays = rule.weight_decay_unit * annealed * decayed
        decays *= jnp.clip(
            out[rows, jnp.asarray(columns)], 0.0, 0.5 / rule.weight_decay_unit
        )
    return rule.step_size * annealed * factors, decays
