"""LSTM-FF's arithmetic: gradient clipping, loss features, tensor features, the MLP.

Feature names sort into the order in which the public code stacks them. The MLP's
features that all parameters of a tensor share (time, sizes, the LSTM's message) go into
its first bias, the normalizers of the others into its first weights; tensors of one
shape are stacked, and large ones go through the network in pieces.

Axis names: T tensors, L of them of one shape, N parameters of one, D decays, F
features, H units of the MLP.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mulo._learned import lstm as lstm_lib
from mulo._learned.features import TIMESCALES
from mulo._learned.stacks import Stack
from mulo._safe_sqrt import safe_sqrt

NUM_TENSOR = 18  # Features of one tensor for its LSTM, messages aside.

TRAIN_DECAY = 0.9
VALID_DECAY = 0.95
_CLIP_DECAY = 0.99
_CLIP_MULT = 10.0
_NUM_AXES = 4  # Whose sizes the LSTM sees.
_FULL = jax.lax.Precision.HIGHEST  # Accelerators would round factors otherwise.
_PIECE = 65_536  # Parameters in the network at once: 30 MB of activations.


class LeafState(NamedTuple):
    """Accumulators of one array, float32; in a rule's state, a tree in every field."""

    momentum: jax.Array  # (D, *shape). Moving averages of the gradient.
    rms: jax.Array  # (D, *shape). Moving averages of the squared gradient.


class ClipState(NamedTuple):
    """Usual size of the gradients."""

    count: jax.Array  # shape=(), float32. One more than the gradients seen.
    size: jax.Array  # shape=(), float32. Not corrected for its start.


class LossState(NamedTuple):
    """Moving mean and variance of a loss, not corrected for their zero start."""

    mean: jax.Array  # shape=(), float32.
    var: jax.Array  # shape=(), float32.
    count: jax.Array  # shape=(), int32. Losses taken in.


def num_features(num_decays: int) -> int:
    """Inputs of the MLP apart from the LSTM's message: 37 with five decays."""
    return 3 + 4 * num_decays + len(TIMESCALES) + 3


def init_leaf(param: jax.typing.ArrayLike, num_decays: int) -> LeafState:
    """Zero accumulators for one array."""
    zeros = jnp.zeros((num_decays, *jnp.shape(param)), jnp.float32)
    return LeafState(zeros, jnp.zeros_like(zeros))


def init_clip() -> ClipState:
    """A usual size of 1 before the first gradient."""
    return ClipState(
        jnp.ones((), jnp.float32), jnp.asarray(1.0 - _CLIP_DECAY, jnp.float32)
    )


def init_loss() -> LossState:
    """No loss seen yet."""
    zero = functools.partial(jnp.zeros, ())
    return LossState(zero(jnp.float32), zero(jnp.float32), zero(jnp.int32))


def clip_gradients(state: ClipState, grads: Any) -> tuple[ClipState, Any]:
    """Cut a tree to ten times its usual size; what is not a number is zero."""
    # Differs from the public code, where one NaN stays for good.
    usual = state.size / (1.0 - _CLIP_DECAY**state.count)
    limit = usual * _CLIP_MULT

    def cut(g):
        g = jnp.asarray(g, jnp.float32)
        return jnp.clip(jnp.where(jnp.isnan(g), 0.0, g), -limit, limit)

    grads = jax.tree.map(cut, grads)
    squares = [jnp.mean(jnp.square(g)) for g in jax.tree.leaves(grads) if g.size]
    size = jnp.sqrt(1e-8 + jnp.mean(jnp.stack(squares)))
    return ClipState(
        state.count + 1.0, state.size * _CLIP_DECAY + size * (1.0 - _CLIP_DECAY)
    ), grads


def update_loss(state: LossState, loss: jax.Array, decay: float) -> LossState:
    """Take in one loss; one whose square is not finite is left out."""
    mean = decay * state.mean + (1.0 - decay) * loss
    var = decay * state.var + (1.0 - decay) * jnp.square(mean - loss)
    new = LossState(mean, var, jnp.asarray(optax.safe_increment(state.count)))
    usable = jnp.isfinite(jnp.square(loss))
    return jax.tree.map(lambda a, b: jnp.where(usable, a, b), new, state)


def surprise(state: LossState, loss: jax.Array) -> jax.Array:
    """How far above its mean a training loss is, in standard deviations, cut at ±5."""
    correction = _correction(state, TRAIN_DECAY)
    above = loss - state.mean * correction
    above = above * jax.lax.rsqrt(state.var * correction + 1e-8)
    return jnp.where(jnp.isfinite(loss), jnp.clip(above, -5.0, 5.0), 5.0)


def valid_mean(state: LossState) -> jax.Array:
    """Mean validation loss; 0 if there was none."""
    return state.mean * _correction(state, VALID_DECAY)


def _correction(state, decay):
    # Without a loss mean and variance are zero, whatever they are multiplied by. The
    # public code divides by 0 + 1e-8 there, which compilers may turn into 0.
    start = 1.0 - decay ** jnp.maximum(state.count, 1).astype(jnp.float32)
    return 1.0 / (start + 1e-8)


def accumulate(
    decays: jax.Array, grad: jax.Array, old: jax.Array, power: int
) -> jax.Array:
    """New moving averages (D, *shape) of a power of the gradient."""
    decay = decays.reshape(-1, *(1,) * grad.ndim)
    return decay * old + (1.0 - decay) * (grad**power)[None]


def tensor_features(stack: Stack, surprises: jax.Array) -> jax.Array:
    """What the LSTM sees of tensors of one shape, messages aside: (L, 18).

    Args:
      stack: The tensors, with their new accumulators.
      surprises: Of the training and the validation loss, (2,).
    """
    named = _statistics(stack)
    count = len(stack.positions)
    named |= {
        "train_loss_feat": jnp.broadcast_to(surprises[0], (count,)),
        "valid_loss_feat": jnp.broadcast_to(surprises[1], (count,)),
    }
    return jnp.stack([named[name] for name in sorted(named)], axis=1)


def _statistics(stack):
    """Statistics and sizes by the public names, (L,) each."""
    count, shape = stack.grads.shape[0], stack.grads.shape[1:]
    g, p, m, v = (
        jnp.asarray(x, jnp.float32).reshape(count, -1)
        for x in (stack.grads, stack.params, stack.states.momentum, stack.states.rms)
    )

    def moments(x):
        mean = jnp.mean(x, axis=1)
        return mean, _clipped_log(jnp.mean(jnp.square(x - mean[:, None]), axis=1))

    mean_m, var_m = moments(m)
    mean_v, var_v = moments(v)
    mean_p, var_p = moments(p)
    sizes = (*shape, *(1,) * (_NUM_AXES - len(shape)))[:_NUM_AXES]
    constants = {f"shape_{k}": math.log(n) - 1.0 for k, n in enumerate(sizes)}
    constants["is_scalar"] = -1.0 if shape else 1.0
    return {
        name: jnp.full(count, value, jnp.float32) for name, value in constants.items()
    } | {
        "g_norm": _clipped_log(_norm(g)),
        "mean_ms_mag": _clipped_log(mean_m),
        "mean_ms_sign": jnp.sign(mean_m),
        "mean_rms": _clipped_log(mean_v),
        "mean_sign": jnp.sign(mean_v),
        "mean_v_mag": _clipped_log(mean_p),
        "mean_v_sign": jnp.sign(mean_p),
        "norm_weight": _clipped_log(_norm(p)),
        "var_ms": var_m,
        "var_rms": var_v,
        "var_v": var_p,
    }


def _norm(x):
    """Norms of vectors (…, N), with derivative 0 at zero."""
    return safe_sqrt(jnp.sum(jnp.square(x), axis=-1))


def _clipped_log(x):
    return jnp.clip(jnp.log(1e-8 + jnp.abs(x)), -5.0, 5.0)


def common(count: jax.Array, num_tensors: int) -> jax.Array:
    """Features of the MLP that all tensors share, (12,): time and number of tensors."""
    # The public code multiplies the time scale by π, rather than the time.
    periods = np.asarray(TIMESCALES, np.float32) * np.float32(np.pi)
    time = jnp.sin(count.astype(jnp.float32) / periods)
    return jnp.concatenate(
        [time, jnp.full(1, math.log(num_tensors) - 1.0, jnp.float32)]
    )


def run_mlp(
    params: Any,
    exp_mult: float,
    shared: jax.Array,
    grad: jax.Array,
    param: jax.Array,
    state: LeafState,
    to_ff: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The MLP on one tensor.

    Args:
      params: ``linear_0``, …: ``w`` (inputs, outputs) and ``b``.
      exp_mult: Scale of the magnitude inside the exponential.
      shared: As `common` returns it.
      grad: Gradient, float32, clipped.
      param: As grad.
      state: New accumulators.
      to_ff: The LSTM's message, (Z,).

    Returns:
      ``d * exp(exp_mult * m)``, as grad, and the mean of the last hidden layer, (H,).
    """
    g, p = grad.reshape(-1), jnp.asarray(param, jnp.float32).reshape(-1)
    m, v = (x.reshape(len(x), -1) for x in state)
    size = float(g.shape[0])  # An integer may be beyond int32.
    planes = _planes(g, p, m, v)
    mean_square = jnp.stack([jnp.mean(jnp.square(x)) for x in planes])
    log_norm = jnp.log(_norm(p) + 1e-8)
    tensor = jnp.stack([log_norm, jnp.asarray(math.log(size), jnp.float32)])
    first = params["linear_0"]
    split = mean_square.shape[0]
    weights = first["w"][:split] * jax.lax.rsqrt(1e-5 + mean_square)[:, None]
    of_tensor = jnp.matmul(
        jnp.concatenate([shared, tensor, to_ff]), first["w"][split:], precision=_FULL
    )
    bias = first["b"] + of_tensor
    layers = [
        (weights, bias),
        *(
            (params[f"linear_{i}"]["w"], params[f"linear_{i}"]["b"])
            for i in range(1, len(params) - 1)
        ),
    ]
    last = params[f"linear_{len(params) - 1}"]

    def run(g, p, m, v):
        """(n,), (n,), (D, n), (D, n) → (n,) and a sum (H,)."""
        x = jnp.stack(_planes(g, p, m, v))
        for w, b in layers:
            x = jnp.einsum("fn,fh->hn", x, w, precision=_FULL) + b[:, None]
            x = jnp.maximum(x, 0.0)
        direction, magnitude = (
            jnp.einsum("hn,h->n", x, last["w"][:, k], precision=_FULL) + last["b"][k]
            for k in (0, 1)
        )
        return direction * jnp.exp(exp_mult * magnitude), jnp.sum(x, axis=1)

    whole = g.shape[0] // _PIECE * _PIECE
    if whole <= _PIECE:
        out, total = run(g, p, m, v)
        return out.reshape(grad.shape), total / size
    pieces = tuple(
        jnp.moveaxis(x[..., :whole].reshape(*x.shape[:-1], -1, _PIECE), -2, 0)
        for x in (g, p, m, v)
    )
    out, total = jax.lax.map(lambda piece: run(*piece), pieces)
    out, total = out.reshape(-1), jnp.sum(total, axis=0)
    if whole < g.shape[0]:
        rest, more = run(g[whole:], p[whole:], m[:, whole:], v[:, whole:])
        out, total = jnp.concatenate([out, rest]), total + more
    return out.reshape(grad.shape), total / size


def messages(params: Any, means: jax.Array) -> jax.Array:
    """What the MLP says to the LSTMs, (T, Y), from the means of `run_mlp`, (T, H)."""
    last = params[f"linear_{len(params) - 1}"]
    return lstm_lib.linear({"w": last["w"][:, 2:], "b": last["b"][2:]}, means)


def _planes(g, p, m, v):
    """Features that vary from parameter to parameter, 3 + 4 D arrays like g."""
    inverse = jax.lax.rsqrt(v + 1e-6)
    return [g, p, jnp.log(jnp.abs(p) + 1e-8), *m, *v, *(m * inverse), *inverse]
