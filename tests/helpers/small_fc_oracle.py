"""SmallFC written out the straightforward way, feature-last: the tests' oracle.

Every parameter gets its 39 inputs as a row of one array, in the order of the public
code; nothing is folded, factored out or blocked.
"""

import jax
import jax.numpy as jnp
import numpy as np

TIMESCALES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)


def init(params):
    """Zero accumulators for a dict of arrays."""

    def leaf(p):
        zeros = jnp.zeros((*p.shape, 3))
        if p.ndim < 2:
            return {"m": zeros, "v": jnp.zeros((*p.shape, 1)), "diag": zeros}
        d1, d0 = np.argsort(p.shape, kind="stable")[-2:]
        row = (*tuple(np.delete(p.shape, d0)), 3)
        col = (*tuple(np.delete(p.shape, d1)), 3)
        return {
            "m": zeros,
            "v": jnp.zeros((*p.shape, 1)),
            "row": jnp.zeros(row),
            "col": jnp.zeros(col),
        }

    return {name: leaf(p) for name, p in params.items()}


def update(rule, theta, count, grads, state, params, multipliers=None):
    """One step: updates to be added and the new state, both dicts."""
    with jax.numpy_rank_promotion("allow"):
        results = {
            name: _leaf(rule, theta, count, grads[name], state[name], params[name])
            for name in params
        }
    scale = multipliers or dict.fromkeys(params, 1.0)
    steps = {name: -scale[name] * step for name, (step, _) in results.items()}
    return steps, {name: new for name, (_, new) in results.items()}


def _decays(initial, offset):
    return 1 - (1 - jnp.asarray(initial)) * jnp.exp(10 * offset)


def _leaf(rule, theta, count, g, s, p):
    momentum_decay = _decays(rule.initial_momentum_decays, theta["momentum_decays"])
    rms_decay = jnp.clip(_decays(rule.initial_rms_decays, theta["rms_decays"]), 0, 1)
    fac_decay = jnp.clip(
        _decays(rule.initial_adafactor_decays, theta["adafactor_decays"]), 0, 1
    )
    shape = g.shape
    if g.ndim == 0:
        g, p = g[None], p[None]
        s = {k: x[None] for k, x in s.items()}
    ge = g[..., None]
    m = momentum_decay * s["m"] + (1 - momentum_decay) * ge
    v = rms_decay * s["v"] + (1 - rms_decay) * ge**2
    new = {"m": m, "v": v}
    inverse = jax.lax.rsqrt(v + 1e-6)
    square = ge**2 + 1e-30

    def floor_rsqrt(x):
        return jax.lax.rsqrt(jnp.maximum(x, 1e-9))

    if g.ndim >= 2:
        d1, d0 = (int(d) for d in np.argsort(shape, kind="stable")[-2:])
        row = fac_decay * s["row"] + (1 - fac_decay) * square.mean(d0)
        col = fac_decay * s["col"] + (1 - fac_decay) * square.mean(d1)
        new |= {"row": row, "col": col}
        mean = row.mean(d1 - 1 if d1 > d0 else d1, keepdims=True)
        factor = jnp.expand_dims(floor_rsqrt(row / (mean + 1e-9)), d0)
        factor = factor * jnp.expand_dims(floor_rsqrt(col), d1)
        row_feature = jnp.broadcast_to(jnp.expand_dims(row, d0), (*g.shape, 3))
        col_feature = jnp.broadcast_to(jnp.expand_dims(col, d1), (*g.shape, 3))
        fac_g, fac_m = ge * factor, m * factor
    else:
        diag = fac_decay * s["diag"] + (1 - fac_decay) * square
        new["diag"] = diag
        row_feature = col_feature = diag
        fac_g, fac_m = ge * floor_rsqrt(diag + 1e-9), m * (diag + 1e-6) ** -0.5
    features = jnp.concatenate(
        [
            ge,
            p[..., None],
            m,
            v,
            m * inverse,
            inverse,
            fac_g,
            row_feature,
            col_feature,
            jax.lax.rsqrt(row_feature + 1e-8),
            jax.lax.rsqrt(col_feature + 1e-8),
            fac_m,
        ],
        axis=-1,
    )
    axes = tuple(range(g.ndim))
    features = features * jax.lax.rsqrt(
        1e-5 + jnp.mean(features**2, axis=axes, keepdims=True)
    )
    time = jnp.tanh(count / jnp.asarray(TIMESCALES, jnp.float32) - 1)
    time = jnp.broadcast_to(time, (*g.shape, len(TIMESCALES)))
    net = jnp.concatenate([features, time], axis=-1)
    for i in range(rule.hidden_layers + 1):
        net = net @ theta["nn"][f"w{i}"] + theta["nn"][f"b{i}"]
        if i < rule.hidden_layers:
            net = jax.nn.relu(net)
    step = rule.step_mult * net[..., 0] * jnp.exp(rule.exp_mult * net[..., 1])
    if not shape:
        new = {k: x[0] for k, x in new.items()}
    return step.reshape(shape), new
