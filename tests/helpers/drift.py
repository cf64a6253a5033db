"""An inner problem whose meta-gradient is known."""

import dataclasses

import jax
import jax.numpy as jnp

from meta_train import devices, estimators, objective, unroll
from meta_train import imitation as imitation_lib


@dataclasses.dataclass(frozen=True)
class Drift:
    """An inner problem with a known meta-gradient.

    The state starts at x_0 = start(key) and moves by theta: x_{t+1} = x_t + theta; the
    loss is |x_t|²/2 + noise drawn from the data key. Quadratic in theta, so that
    smoothing adds a constant and the antithetic gradient is exact in expectation.
    """

    start: float = 1.0
    random_start: bool = False
    noise: float = 1.0
    imitation: imitation_lib.ImitationConfig = imitation_lib.NONE

    def init(self, theta, key, length=None):
        del length
        noise = jax.random.normal(key, (2,)) if self.random_start else jnp.zeros(2)
        return unroll.InnerState(
            params={"x": self.start + noise}, opt_state=(), task_params=()
        )

    def unroll(self, theta, state, key, arrays, num_steps, length=None, **options):
        del length, options

        def step(x, key):
            noise = self.noise * jax.random.normal(key, ())
            return x + theta["v"], 0.5 * jnp.sum(x**2) + noise

        x, losses = jax.lax.scan(
            step, state.params["x"], jax.random.split(key, num_steps)
        )
        return unroll.InnerState(params={"x": x}, opt_state=(), task_params=()), losses

    def num_params(self):
        return 2

    def mean_loss(self, theta, num_steps):
        """Over a whole run: what PES differentiates, times runs' truncations."""
        t = jnp.arange(num_steps)[:, None]
        x = self.start + t * theta["v"].reshape(1, 2)
        return jnp.mean(0.5 * jnp.sum(x**2, axis=1))


THETA = {"v": jnp.asarray([0.05, -0.02])}
STEPS, TRUNC = 12, 3  # Of a run, of a truncation.


def make(name, inner=None, goal=objective.MEAN_LOSS, **config):
    config = {"sigma": 0.1, "num_pairs": 8, "trunc_steps": TRUNC} | config
    config = {"min_length_steps": STEPS, "max_length_steps": STEPS} | config
    checked = estimators.EstimatorConfig(name=name, noise_period=2, **config)
    inner = Drift() if inner is None else inner
    return estimators.make(checked, inner, devices.make_mesh(checked.num_pairs), goal)
