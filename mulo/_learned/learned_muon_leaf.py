"""LearnedMuon's step of one array at rate one."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mulo._designed import muon_kinds as kinds_lib
from mulo._designed import newton_schulz
from mulo._learned import scalar_network
from mulo._safe_sqrt import safe_sqrt

MLP_FEATURES = 5  # Beside the gradient and the momenta.
# Gradient units. Below the floor, where squares leave float32, steps fade to zero.
_FLOOR = 1e-16
_TINY = 1e-30  # Its like for squares.


class Corrections(NamedTuple):
    """Factors that undo the zero start of moving averages, shape=()."""

    momenta: tuple[jax.Array, ...]
    rms: jax.Array


def corrections(rule, t):
    """Corrections of update t."""

    def undo(decay):
        return 1.0 / (1.0 - jnp.float32(decay) ** t)

    return Corrections(
        tuple(undo(decay) for decay in rule.initial_momentum_decays),
        undo(rule.initial_rms_decay),
    )


def direction(rule, theta, corrections, kind, grad, param, leaf):
    """One array's step at rate one, its log s, and its new moments.

    Args:
      rule: A LearnedMuon.
      theta: Its meta-parameters.
      corrections: Of this step.
      kind: What the array is.
      grad: shape=S.
      param: As grad.
      leaf: The momenta and the second moment, each as grad, float32.

    Returns:
      shape=S, parameter units; shape=(); as ``leaf``. All float32.
    """
    momenta, rms = leaf
    grad = jnp.asarray(grad, jnp.float32)
    momenta = tuple(
        decay * old + (1.0 - decay) * grad
        for decay, old in zip(rule.initial_momentum_decays, momenta, strict=True)
    )
    keep = rule.initial_rms_decay
    rms = keep * rms + (1.0 - keep) * jnp.square(grad)
    role = kind.role
    matrix = role in (kinds_lib.HIDDEN, kinds_lib.INPUT)
    base = rule.initial_matrix_mix if matrix else rule.initial_mix
    averages = (
        grad,
        *(m * c for m, c in zip(momenta, corrections.momenta, strict=True)),
    )
    d = jnp.zeros_like(grad)
    for k, (weight, average) in enumerate(zip(base, averages, strict=True)):
        d += (weight + theta["mix"][role, k]) * average
    scale = 1.0 / (safe_sqrt(rms * corrections.rms) + _FLOOR)
    a = d * scale
    signal = _rms(a)
    gamma = rule.initial_exponents[role] + theta["exponent"][role]
    if rule.mlp_units:
        correction = _mlp(theta["mlp"], averages, rms, scale, param, a)
        a = a + correction
        d = d + _rms(d, _TINY) * correction
    if kind.view:
        step = newton_schulz.orthogonalize(
            d.reshape(kind.view), steps=rule.ns_steps, eps=_FLOOR
        )
        unit = math.sqrt(max(kind.view[-2:]))
        step = step.reshape(d.shape) * (unit * signal ** (1.0 - gamma))
    else:
        step = a * signal**-gamma
    # What points against the latest gradient counts less, the rest a little more.
    caution = rule.initial_cautions[role] + theta["caution"][role]
    weight = 1.0 - caution * (step * grad < 0.0)
    step = step * weight / jnp.maximum(jnp.mean(weight), 0.1)
    return step * kind.multiplier, jnp.log(signal), (momenta, rms)


def _mlp(weights, averages, rms, scale, param, a):
    """The per-parameter MLP's correction, in units of a."""
    param = jnp.asarray(param, jnp.float32)
    normalized = [m * scale for m in averages]
    features = [*normalized, a, jnp.abs(a), jnp.square(a), safe_sqrt(rms), param]
    features = [f / _rms(f, _TINY) for f in features]
    (out,) = scalar_network.mlp(
        list(weights["b0"]),
        features,
        weights["w0"],
        [(weights["w1"], weights["b1"]), (weights["w2"], weights["b2"])],
        1,
    )
    return out


def _rms(x, floor=1e-12):
    """Root mean square; the floor, of its square, is for arrays without a gradient."""
    return jnp.sqrt(jnp.mean(jnp.square(x)) + floor)
