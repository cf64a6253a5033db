"""Persistent evolution strategies: unbiased meta-gradients from truncated unrolls.

P antithetic pairs of inner training runs ("particles") go on in parallel, one at
theta + ε, one at theta - ε, both with the same initial parameters, data and length.
Each truncation draws a new ε for every pair. With ξ the sum of a pair's ε since its
runs began and L± the objective's means over the truncation, by default the mean losses
(Vicol et al., Algorithm 2; :mod:`meta_train.objective`),

    g = mean over pairs of  ξ (L+ - L-) / (2 σ²).

Runs end, and new ones begin with ξ = 0, between truncations only: lengths are rounded
up to whole truncations, so the inner loop has neither masks nor initializations. The
first lengths are cut short at random so that the pairs are out of step from the start.
Rules that must know how long a run is are told its own length, cut short or not.

With ``noise="reused"`` a pair keeps the ε of its runs' first truncation to their end,
and ξ is that ε: noise-reuse evolution strategies (Li et al.; ES-Single), unbiased too,
with a variance that does not grow with the number of truncations. A meta-step then
moves theta, and a run goes on around the new theta with its old ε.

What pair i draws depends on the key and on i, not on the device that holds it.

Axis names: P pairs, 2 signs (+, -), S steps of a truncation.

References:
  Vicol, Metz, Sohl-Dickstein, `Unbiased Gradient Estimation in Unrolled Computation
  Graphs with Persistent Evolution Strategies <https://arxiv.org/abs/2112.13835>`_,
  2021.
  Li et al., `Variance-Reduced Gradient Estimation via Noise-Reuse in Online Evolution
  Strategies <https://arxiv.org/abs/2304.12180>`_, 2023.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from meta_train import objective as objective_lib
from meta_train import unroll

Theta = Any

NOISES = ("fresh", "reused")

# On a CPU, runs that together exceed its caches are faster one after the other.
_CPU_PARTICLE_BUDGET = 40_000  # Parameters of all runs that go side by side.


@dataclasses.dataclass(frozen=True, kw_only=True)
class PESConfig:
    """What the estimator is.

    Attributes:
      sigma: Standard deviation of ε, in units of theta.
      num_pairs: P.
      trunc_steps: S, inner steps between two meta-gradients.
      min_length_steps: Shortest inner training run.
      max_length_steps: Longest; lengths are log-uniform between the two.
      curriculum: Pairs of (meta-step, max_length_steps from then on), ascending.
      noise: ``"fresh"``: a new ε in every truncation, PES as published. ``"reused"``:
        one for a whole run.
      loss_diff_clip: L+ - L- is clipped to ± this (nats, as the objective counts
        them); infinity for the published estimator. Clipping biases the estimate and
        tames its tails.
    """

    sigma: float = 0.01
    num_pairs: int = 8
    trunc_steps: int = 50
    min_length_steps: int = 100
    max_length_steps: int = 1_000
    curriculum: tuple[tuple[int, int], ...] = ()
    noise: str = "fresh"
    loss_diff_clip: float = float("inf")

    def __post_init__(self):
        """Check every field."""
        if self.noise not in NOISES:
            raise ValueError(
                f"pes.noise must be one of {', '.join(NOISES)}, got {self.noise!r}."
            )
        for name in ("sigma", "loss_diff_clip"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"pes.{name} must be > 0, got {getattr(self, name)}.")
        if self.sigma == float("inf"):
            raise ValueError("pes.sigma must be finite, got inf.")
        for name in ("num_pairs", "trunc_steps", "min_length_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"pes.{name} must be >= 1, got {getattr(self, name)}.")
        stages = tuple((int(start), int(longest)) for start, longest in self.curriculum)
        object.__setattr__(self, "curriculum", stages)  # Lists from JSON become tuples.
        for longest in (self.max_length_steps, *(longest for _, longest in stages)):
            if longest < self.min_length_steps:
                raise ValueError(
                    "pes.max_length_steps (and those of pes.curriculum) must be at "
                    f"least pes.min_length_steps, got {longest} < "
                    f"{self.min_length_steps}."
                )
        starts = [start for start, _ in stages]
        if starts != sorted(set(starts)) or (starts and starts[0] < 1):
            raise ValueError(
                f"pes.curriculum must have ascending meta-steps >= 1, got {starts}."
            )

    def longest_at(self, meta_step: jax.typing.ArrayLike) -> jax.Array:
        """Longest inner training run begun at a meta-step: shape=(), int32."""
        starts = jnp.asarray([start for start, _ in self.curriculum], jnp.int32)
        longest = [self.max_length_steps, *(longest for _, longest in self.curriculum)]
        stage = jnp.sum(jnp.asarray(meta_step) >= starts)
        return jnp.asarray(longest, jnp.int32)[stage]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PESState:
    """Everything the estimator carries from one truncation to the next."""

    inner: unroll.InnerState  # Leading axes (P, 2).
    pert_sum: Theta  # As theta plus (P,). ξ: sum of ε since the runs began, or ε.
    step: jax.Array  # (P,), int32. Inner steps done.
    length: jax.Array  # (P,), int32. Steps at which the runs end.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
    """What one estimate says about itself; all shape=(), float32."""

    meta_loss: jax.Array  # Mean minibatch loss of both signs, nats.
    objective: jax.Array  # Mean of L+ and L-, what is made small.
    loss_diff_rms: jax.Array  # Root mean square of L+ - L-, before clipping.
    clipped_frac: jax.Array  # Share of the pairs whose difference was clipped.
    diverged_frac: jax.Array  # Share of the pairs that left the finite numbers.
    finished_frac: jax.Array  # Share of the pairs whose runs ended before this.


def make_mesh(num_pairs: int) -> Mesh:
    """Mesh over as many of the devices as share ``num_pairs`` equally."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if num_pairs % n == 0)
    return Mesh(np.asarray(devices[:count]), ("pairs",))


@dataclasses.dataclass(frozen=True)
class PES:
    """The estimator for one task; `init` and `estimate` are compiled once each.

    Attributes:
      inner: The task and the rule that trains it.
      config: Perturbations and lengths.
      mesh: Devices that share the pairs, on axis "pairs".
      objective: What L± are.
    """

    inner: unroll.Inner
    config: PESConfig
    mesh: Mesh
    objective: objective_lib.ObjectiveConfig = objective_lib.MEAN_LOSS

    @functools.cached_property
    def pairs_sharding(self) -> NamedSharding:
        """Sharding of arrays with a leading pairs axis."""
        return NamedSharding(self.mesh, PartitionSpec("pairs"))

    @functools.cached_property
    def replicated(self) -> NamedSharding:
        """Sharding of theta and the data."""
        return NamedSharding(self.mesh, PartitionSpec())

    @functools.cached_property
    def init(self) -> Any:
        """``init(theta, key) -> PESState``: new runs of staggered lengths."""
        return jax.jit(self._init, out_shardings=self.pairs_sharding)

    @functools.cached_property
    def estimate(self) -> Any:
        """``estimate(theta, state, key, arrays, meta_step) -> grad, state, Metrics``.

        One argument more, if the objective needs it: the validation split's arrays.

        theta: Meta-parameters, replicated. state: From `init` or the last call, given
        up (donated). key: Another for every call. arrays: The train split. meta_step:
        shape=(), int32, for the curriculum. The gradient has the shapes and dtypes of
        theta.
        """
        return jax.jit(
            self._estimate,
            donate_argnums=1,
            out_shardings=(self.replicated, self.pairs_sharding, self.replicated),
        )

    def _pair_keys(self, key):
        pairs = jnp.arange(self.config.num_pairs)
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(pairs)

    def _draw_length(self, key, longest):
        low, high = jnp.log(self.config.min_length_steps), jnp.log(longest)
        exponent = jax.random.uniform(key, (), minval=low, maxval=high)
        return _whole_truncations(jnp.exp(exponent), self.config.trunc_steps)

    def _new_runs(self, theta, key, longest, cut=None):
        """State of one pair at the start of its runs: both signs alike.

        ``cut``: key of the share of the length that is left; None for all of it.
        """
        init_key, length_key = jax.random.split(key)
        length = self._draw_length(length_key, longest)
        if cut is not None:
            left = jax.random.uniform(cut) * length
            length = _whole_truncations(left, self.config.trunc_steps)
        inner = self.inner.init(theta, init_key, length)
        return PESState(
            inner=jax.tree.map(lambda x: jnp.stack([x, x]), inner),
            pert_sum=jax.tree.map(jnp.zeros_like, theta),
            step=jnp.zeros((), jnp.int32),
            length=length,
        )

    def _init(self, theta, key):
        def init_pair(key):
            run_key, stagger_key = jax.random.split(key)
            longest = self.config.longest_at(0)
            return self._new_runs(theta, run_key, longest, cut=stagger_key)

        return jax.vmap(init_pair)(self._pair_keys(key))

    def _advance_pair(self, theta, state, key, arrays, longest):
        """One truncation of one pair: new state, mean losses, (L+, L-), two flags."""
        config = self.config
        run_key, pert_key, data_key = jax.random.split(key, 3)
        finished = state.step >= state.length
        fresh = self._new_runs(theta, run_key, longest)
        state = jax.tree.map(
            lambda new, old: jnp.where(finished, new, old), fresh, state
        )
        # One draw for all of theta: every further one costs seconds of compilation.
        flat, unravel = flatten_util.ravel_pytree(theta)
        pert = unravel(config.sigma * jax.random.normal(pert_key, flat.shape))
        if config.noise == "reused":
            begins = state.step == 0
            pert = jax.tree.map(
                lambda new, old: jnp.where(begins, new, old), pert, state.pert_sum
            )
            pert_sum = pert
        else:
            pert_sum = jax.tree.map(jnp.add, state.pert_sum, pert)
        thetas = jax.tree.map(lambda t, e: jnp.stack([t + e, t - e]), theta, pert)

        def unroll_sign(particle):
            theta, inner = particle
            train, *valid = arrays
            return self.inner.unroll(
                theta, inner, data_key, train, config.trunc_steps, state.length, *valid
            )

        one_by_one = self._pairs_at_once(config.num_pairs) is None
        map_signs = jax.lax.map if one_by_one else _vmap
        inner, losses = map_signs(unroll_sign, (thetas, state.inner))
        told = self._means(losses, state.step, state.length)
        diverged = ~unroll.is_finite(inner.params)
        step = state.step + config.trunc_steps
        state = PESState(
            inner=inner,
            pert_sum=pert_sum,
            step=step,
            length=jnp.where(diverged, step, state.length),  # Nothing left to learn.
        )
        return state, *told, finished, diverged

    def _means(self, losses, step, length):
        """Mean minibatch losses and objectives over a truncation, both (2 signs,)."""
        train, counts = losses, losses
        if self.objective.needs_valid:
            train, counts = losses[..., 0], losses[..., 1]
        mean = jnp.mean(train, axis=1)
        if self.objective.is_plain:
            return mean, mean
        return mean, self.objective.mean(counts, step, length)

    def _estimate(self, theta, state, key, arrays, meta_step, *valid_arrays):
        config = self.config

        def advance(theta, state, keys, arrays, longest):
            local_pairs = keys.shape[0]
            return jax.lax.map(
                lambda pair: self._advance_pair(
                    theta, pair[0], pair[1], arrays, longest
                ),
                (state, keys),
                batch_size=self._pairs_at_once(local_pairs),
            )

        split, whole = PartitionSpec("pairs"), PartitionSpec()
        state, losses, values, finished, diverged = jax.shard_map(
            advance,
            mesh=self.mesh,
            in_specs=(whole, split, split, whole, whole),
            out_specs=split,
            check_vma=False,
        )(
            theta,
            state,
            self._pair_keys(key),
            (arrays, *valid_arrays),
            config.longest_at(meta_step),
        )

        diff = values[:, 0] - values[:, 1]
        kept = jnp.clip(diff, -config.loss_diff_clip, config.loss_diff_clip)
        weights = kept / (2.0 * config.sigma**2 * config.num_pairs)
        grad = jax.tree.map(
            lambda xi: jnp.tensordot(weights, xi, axes=1), state.pert_sum
        )
        metrics = Metrics(
            meta_loss=jnp.mean(losses),
            objective=jnp.mean(values),
            loss_diff_rms=jnp.sqrt(jnp.mean(jnp.square(diff))),
            clipped_frac=jnp.mean(kept != diff, dtype=jnp.float32),
            diverged_frac=jnp.mean(diverged, dtype=jnp.float32),
            finished_frac=jnp.mean(finished, dtype=jnp.float32),
        )
        return grad, state, metrics

    def _pairs_at_once(self, local_pairs: int) -> int | None:
        """Pairs that go side by side on one device; None: runs one after the other."""
        return side_by_side(local_pairs, 2 * self.inner.num_params())


def side_by_side(count: int, num_params: int) -> int | None:
    """How many of ``count`` runs a device does at once; None: one after the other.

    Args:
      count: Runs of the device, or pairs of them.
      num_params: Parameters of each.
    """
    if jax.default_backend() != "cpu":
        return count
    fitting = _CPU_PARTICLE_BUDGET // num_params
    # A divisor: the program of a remainder would be compiled as well.
    return max((n for n in range(2, fitting + 1) if count % n == 0), default=None)


def _vmap(function, xs):
    return jax.vmap(function)(xs)


def _whole_truncations(steps, trunc_steps):
    """Round up to whole truncations, at least one: int32."""
    truncations = jnp.maximum(jnp.ceil(steps / trunc_steps - 1e-4), 1.0)
    return truncations.astype(jnp.int32) * trunc_steps
