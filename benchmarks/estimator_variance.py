"""How the variance of an estimator grows with the number of truncations of a run.

    python -m benchmarks.estimator_variance --output=docs/estimator_variance.png

Influence balancing: theta, one number, moves a linear system of 23 states, up in the
first 10 and down in the others, so that its influence on the loss, that of the first
state, changes sign with time. Prints one JSON object for each estimator and number n:
the variance of one pair's estimate in the n-th truncation of its run, over the square
of the exact gradient of that truncation's mean loss; and the same for the mean over
the run so far, which is what n meta-steps of one pair come to.

The problem is Tallec and Ollivier's (`Unbiased Online Recurrent Optimization
<https://arxiv.org/abs/1702.05043>`_, 2017), as Vicol et al. and Li et al. use it.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_train import devices, estimators, unroll
from meta_train import imitation as imitation_lib

NAMES = ("pes", "gpes", "noise_reuse_es")
TRUNC_STEPS = 4
THETA = {"v": jnp.asarray([0.5])}
_STATES, _UP = 23, 10
_PAIRS = 4_096


@dataclasses.dataclass(frozen=True)
class InfluenceBalancing:
    """The problem, in the place of :class:`meta_train.unroll.Inner`."""

    imitation: imitation_lib.ImitationConfig = imitation_lib.NONE

    def init(self, theta: Any, key: jax.Array, length: Any = None) -> unroll.InnerState:
        """Return the first state: ones, whatever the key."""
        del theta, key, length
        return unroll.InnerState(
            params={"x": jnp.ones(_STATES)}, opt_state=(), task_params=()
        )

    def unroll(
        self,
        theta: Any,
        state: unroll.InnerState,
        key: jax.Array,
        arrays: Any,
        num_steps: int,
        length: Any = None,
        **options: Any,
    ) -> tuple[unroll.InnerState, jax.Array]:
        """Do ``num_steps`` steps: the state after, losses (S,)."""
        del key, arrays, length, options
        drive = jnp.where(jnp.arange(_STATES) < _UP, theta["v"][0], -theta["v"][0])

        def step(x, _):
            x = 0.5 * (x + jnp.roll(x, -1).at[-1].set(0.0)) + drive
            return x, 0.5 * jnp.square(x[0] - 1.0)

        start: Any = state.params
        x, losses = jax.lax.scan(step, start["x"], None, num_steps)
        after = unroll.InnerState(params={"x": x}, opt_state=(), task_params=())
        return after, losses

    def num_params(self) -> int:
        """Size of the state."""
        return _STATES


def estimates(name: str, truncations: int, sigma: float, seed: int = 0) -> np.ndarray:
    """Estimates of pairs by themselves, one per truncation: (pairs, truncations)."""
    steps = truncations * TRUNC_STEPS
    config = estimators.EstimatorConfig(
        name=name,
        sigma=sigma,
        num_pairs=1,
        trunc_steps=TRUNC_STEPS,
        min_length_steps=steps,
        max_length_steps=steps,
    )
    inner: Any = InfluenceBalancing()
    estimator = estimators.make(config, inner, devices.make_mesh(1))

    def run(key):
        init_key, key = jax.random.split(key)
        state = estimator._init(THETA, init_key)
        state = dataclasses.replace(state, length=jnp.full_like(state.length, steps))

        def one(state, key):
            grad, state, _ = estimator._estimate(THETA, state, key, {}, jnp.int32(0))
            return state, grad["v"][0]

        return jax.lax.scan(one, state, jax.random.split(key, truncations))[1]

    keys = jax.random.split(jax.random.key(seed), _PAIRS)
    return np.asarray(jax.jit(jax.vmap(run))(keys))


def exact(truncations: int) -> np.ndarray:
    """Gradients of the truncations' mean losses: (truncations,)."""
    inner = InfluenceBalancing()

    def losses(theta):
        start = inner.init(theta, jax.random.key(0))
        steps = truncations * TRUNC_STEPS
        found = inner.unroll(theta, start, jax.random.key(0), {}, steps)[1]
        return jnp.mean(found.reshape(truncations, TRUNC_STEPS), axis=1)

    # Quadratic in theta: smoothing changes nothing.
    return np.asarray(jax.jacobian(losses)(THETA)["v"])[:, 0]


def measure(truncations: int, sigma: float) -> list[dict[str, Any]]:
    """Rows of the comparison, for n = 1, 4, 16, … up to ``truncations``."""
    gradient = exact(truncations)
    rows = []
    for name in NAMES:
        found = estimates(name, truncations, sigma)
        for n in (4**i for i in range(20) if 4**i <= truncations):
            row = {"estimator": name, "truncation": n}
            for what, own, true in (
                ("truncation", found[:, n - 1], gradient[n - 1]),
                ("run", found[:, :n].mean(axis=1), gradient[:n].mean()),
            ):
                error = own.std(ddof=1) / np.sqrt(len(own))
                row[f"{what}_variance"] = float(own.var(ddof=1) / true**2)
                row[f"{what}_bias_errors"] = float((own.mean() - true) / error)
            rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Print the rows, and draw them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truncations", type=int, default=1_024, help="of a run")
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--output", type=pathlib.Path, help="image to draw")
    options = parser.parse_args(argv)
    rows = measure(options.truncations, options.sigma)
    for row in rows:
        print(json.dumps(row))
    if options.output is not None:
        _draw(rows, options.output)


def _draw(rows, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for name in NAMES:
        own = [row for row in rows if row["estimator"] == name]
        label = "gpes, K = 4" if name == "gpes" else name
        x = [row["truncation"] for row in own]
        variances = [row["truncation_variance"] for row in own]
        (line,) = axes.loglog(x, variances, "o-", label=label)
        variances = [row["run_variance"] for row in own]
        axes.loglog(x, variances, "--", color=line.get_color())
    axes.set_xlabel("truncation of its run (dashed: mean over the run so far)")
    axes.set_ylabel("variance of a pair's estimate / gradient²")
    axes.legend()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
