"""What a learned update does, measured from outside: through the optimizer alone.

The optimizer updates one fixed pair of parameters, a square matrix ``w`` and a vector
``b``, in the standard parametrization, and sees gradients that are drawn from a normal
distribution of variance 1. Its updates are never applied, and the loss it is told is
always 1: what comes out depends on the gradients only. `inspect` measures

* slices: one entry of ``w``, a parameter of zero, gets the same gradient m at every
  step of a history and then g, among others that are always the same;
* the root mean square of the update over time;
* the same at the end of a short run, with every gradient multiplied by a constant.

Axis names: F values held fixed, X values on the axis of a plot.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mulo

SIZE = 32  # Of w's sides and of b.
PROBE = (SIZE // 2, SIZE // 2)  # The entry of the slices.
FIXED = (-1.0, -0.1, 0.0, 0.1, 1.0)  # (F,), of the gradients' standard deviation.
VARIED = tuple(np.linspace(-3.0, 3.0, 25).tolist())  # (X,), likewise.
SCALES = tuple(10.0**power for power in range(-6, 7))
_HISTORY_STEPS = 100
_SCALE_STEPS = 20
_LOSS = 1.0


@dataclasses.dataclass(frozen=True)
class Slices:
    """Updates of single entries along one line for every value held fixed."""

    fixed: Sequence[float]  # (F,). Gradient, or gradient of the history.
    varied: Sequence[float]  # (X,). The other one.
    updates: np.ndarray  # (F, X). Parameter units.


@dataclasses.dataclass(frozen=True)
class Curve:
    """Root mean square of the update of each leaf."""

    at: Sequence[float]  # (X,). Steps, from 1, or factors on the gradients.
    rms: Mapping[str, np.ndarray]  # By leaf, (X,). Parameter units.

    def ratio(self, leaf: str) -> float:
        """Largest over smallest; inf if an update is zero, nan if one is not finite."""
        low, high = self.rms[leaf].min(), self.rms[leaf].max()
        return float(high / low) if low != 0 else float("inf")


@dataclasses.dataclass(frozen=True)
class Decay:
    """Decay rates per step of one kind of moving average."""

    name: str
    values: tuple[float, ...]
    learned: bool  # Whether theta holds them.


@dataclasses.dataclass(frozen=True)
class Inspection:
    """All that `inspect` measures."""

    history_steps: int
    against_gradient: Slices  # Fixed: the history.
    against_history: Slices  # Fixed: the gradient.
    over_time: Curve
    over_scale: Curve
    decays: tuple[Decay, ...]


def inspect(
    pretrained: mulo.Pretrained,
    num_steps: int,
    *,
    varied: Sequence[float] = VARIED,
    fixed: Sequence[float] = FIXED,
) -> Inspection:
    """Measure what the updates of a learned optimizer depend on.

    Args:
      pretrained: The rule and its theta.
      num_steps: Length of the run, of which rules that need it are told.
      varied: Values along a slice, in standard deviations of a gradient.
      fixed: Values held fixed, likewise.

    Raises:
      ValueError: If there are fewer than 2 steps.
    """
    if num_steps < 2:
        raise ValueError(f"steps must be >= 2, got {num_steps}.")
    history_steps = min(_HISTORY_STEPS, num_steps - 1)
    short = min(_SCALE_STEPS, num_steps)
    # Whatever theta was meta-trained under: see above.
    tx = pretrained.transform(mup="standard", num_steps=num_steps)

    def step(grads, state, params):
        return tx.update(grads, state, params, value=_LOSS)

    init, update = jax.jit(tx.init), jax.jit(step)
    update_each = jax.jit(jax.vmap(step, in_axes=(0, 0, None)))

    def slices(line):
        """Updates for (history, gradient) pairs; ``line`` makes one of (F, X)."""
        rows = [
            _probed(init, update_each, past, now, history_steps)
            for past, now in map(line, fixed)
        ]
        return Slices(fixed, varied, np.array(rows))

    def over(shown, scale):
        sizes = _sizes(init, update, scale, shown)
        return Curve(shown, {leaf: np.array(values) for leaf, values in sizes.items()})

    ends = [over((short,), scale) for scale in SCALES]
    xs = np.asarray(varied, np.float32)
    return Inspection(
        history_steps=history_steps,
        against_gradient=slices(lambda y: (np.full_like(xs, y), xs)),
        against_history=slices(lambda y: (xs, np.full_like(xs, y))),
        over_time=over(_shown(num_steps), 1.0),
        over_scale=Curve(
            SCALES, {k: np.concatenate([end.rms[k] for end in ends]) for k in "wb"}
        ),
        decays=decays_of(pretrained.rule, pretrained.theta),
    )


def decays_of(rule: mulo.Rule, theta: Any) -> tuple[Decay, ...]:
    """Return the decay rates of a rule: those theta holds, and fixed ones.

    A rule that learns some tells them with ``decay_rates(theta)``, or its theta has
    leaves ``one_minus_beta…``, logarithms of one minus a decay. Fields of the rule that
    are called after a decay are fixed, except initial values of learned ones.
    """
    found = []
    if hasattr(rule, "decay_rates"):
        rates = rule.decay_rates(theta)._asdict()
        found += [Decay(name, _floats(value), True) for name, value in rates.items()]
    for path, leaf in jax.tree_util.tree_leaves_with_path(theta):
        name = jax.tree_util.keystr(path, simple=True, separator=" ")
        if "one_minus_beta" in name:
            values = _floats(1.0 - np.exp(np.asarray(leaf, np.float64)))
            found.append(Decay(name.replace("one_minus_", ""), values, True))
    learned = bool(found)
    for field in dataclasses.fields(rule):
        if not re.search(r"decays?$|_b[12]$", field.name):
            continue
        if learned and field.name.startswith("initial_"):
            continue
        name = re.sub(r"^initial_|_decays?$", "", field.name)
        found.append(Decay(name, _floats(getattr(rule, field.name)), False))
    return tuple(found)


def _floats(values: Any) -> tuple[float, ...]:
    # As many digits as float32 has: 0.9, not 0.8999999761581421.
    return tuple(float(f"{value:.7g}") for value in np.atleast_1d(np.asarray(values)))


def _shown(num_steps: int) -> tuple[int, ...]:
    """1, 3, 10, 30, … and the last step."""
    steps = [n * 10**k for k in range(len(str(num_steps))) for n in (1, 3)]
    return (*[n for n in steps if n < num_steps], num_steps)


def _params():
    w_key, b_key = jax.random.split(jax.random.key(0))
    std = SIZE**-0.5
    return {
        "w": std * jax.random.normal(w_key, (SIZE, SIZE)),
        "b": std * jax.random.normal(b_key, (SIZE,)),
    }


@jax.jit
def _gradients(step, scale):
    w_key, b_key = jax.random.split(jax.random.fold_in(jax.random.key(1), step))
    grads = {
        "w": jax.random.normal(w_key, (SIZE, SIZE)),
        "b": jax.random.normal(b_key, (SIZE,)),
    }
    return jax.tree.map(lambda g: scale * g, grads)


@jax.jit
def _gradients_each(step, probed):
    """Gradients of a step for every value of one entry of w; leading axis (X,)."""

    def one(value):
        grads = _gradients(step, 1.0)
        return {**grads, "w": grads["w"].at[PROBE].set(value)}

    return jax.vmap(one)(probed)


def _probed(init, update_each, past, now, history_steps):
    """Updates of an entry that had the gradient ``past`` and gets ``now``: (X,)."""
    params = _params()
    params["w"] = params["w"].at[PROBE].set(0.0)
    state = jax.tree.map(lambda x: jnp.stack([x] * len(past)), init(params))
    for step in range(history_steps):
        _, state = update_each(_gradients_each(step, past), state, params)
    updates, _ = update_each(_gradients_each(history_steps, now), state, params)
    return np.asarray(updates["w"][:, *PROBE])


def _sizes(init, update, scale, shown):
    """Root mean square of the update of each leaf at the steps ``shown``."""
    params = _params()
    state = init(params)
    sizes = {leaf: [] for leaf in params}
    for step in range(shown[-1]):
        updates, state = update(_gradients(step, scale), state, params)
        if step + 1 in shown:
            for leaf, values in updates.items():
                sizes[leaf].append(float(jnp.sqrt(jnp.mean(values**2))))
    return sizes
