"""What every estimator of meta-gradients is: runs in progress, and a step of them all.

An estimator holds P inner training problems in progress. An estimate takes each of them
one truncation further and returns a gradient of the objective with respect to theta.
Runs end, and new ones begin, between truncations only: lengths are rounded up to whole
truncations, so the inner loop has neither masks nor initializations. The first lengths
are cut short at random so that the runs are out of step from the start. Rules that must
know how long a run is are told its own length, cut short or not.

What problem i draws depends on the key and on i, not on the device that holds it.

Axis names: P problems (pairs of runs, or single ones), 2 signs (+, -; one without
pairs), S steps of a truncation.
"""

import abc
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from meta_train import devices, unroll
from meta_train import objective as objective_lib
from meta_train.estimators import config as config_lib

Theta = Any


HORIZONS = ("short", "medium", "long")  # Thirds of the lengths, by their logarithms.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
    """What one estimate says about itself; shape=() but for one, float32."""

    meta_loss: jax.Array  # Mean minibatch loss of all runs, nats.
    objective: jax.Array  # Mean of what is made small.
    loss_diff_rms: jax.Array  # Root mean square of L+ - L-, before clipping.
    clipped_frac: jax.Array  # Share of the pairs whose difference was clipped.
    diverged_frac: jax.Array  # Share of the problems that left the finite numbers.
    finished_frac: jax.Array  # Share of the problems whose runs ended before this.
    grad_snr: jax.Array  # Squared norm of the mean over that of its standard error.
    inner_steps: jax.Array  # Steps of all runs together.
    horizon_losses: jax.Array  # (3,), meta_loss by `HORIZONS`; NaN where no run is.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Told:
    """What a truncation of one problem says; with a leading (P,) of all of them."""

    losses: jax.Array  # (signs,), mean minibatch losses, nats.
    values: jax.Array  # (signs,), the objective's means: L+ and L-.
    credit: Theta  # What L+ - L- is multiplied by: ξ. () without pairs.
    analytic: Theta  # A gradient found by differentiating. () without.
    finished: jax.Array  # shape=(), bool. Whether the runs before had ended.
    diverged: jax.Array  # shape=(), bool. Whether these left the finite numbers.
    steps: jax.Array  # shape=(), int32. Inner steps done by each run.
    length: jax.Array  # shape=(), int32. Steps at which the runs end.


@dataclasses.dataclass(frozen=True)
class Estimator(abc.ABC):
    """One estimator for one task; `init` and `estimate` are compiled once each.

    A subclass says what a problem's state is (`_new`) and how it goes on (`_advance`).

    Attributes:
      inner: The task and the rule that trains it.
      config: Perturbations and lengths.
      mesh: Devices that share the problems, on axis "pairs".
      objective: What is made small.
      particles_at_once: Runs side by side on a device, at most; 0: automatic.
    """

    inner: unroll.Inner
    config: config_lib.EstimatorConfig
    mesh: Mesh
    objective: objective_lib.ObjectiveConfig = objective_lib.MEAN_LOSS
    particles_at_once: int = 0

    @functools.cached_property
    def pairs_sharding(self) -> NamedSharding:
        """Sharding of arrays with a leading axis of problems."""
        return NamedSharding(self.mesh, PartitionSpec("pairs"))

    @functools.cached_property
    def replicated(self) -> NamedSharding:
        """Sharding of theta and the data."""
        return NamedSharding(self.mesh, PartitionSpec())

    @functools.cached_property
    def init(self) -> Any:
        """``init(theta, key) -> state``: new runs of staggered lengths."""
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

    @abc.abstractmethod
    def _new(self, theta, key, longest, cut=None) -> Any:
        """State of one problem at its start.

        ``cut``: key of the share of the length that is left; None for all of it.
        """

    @abc.abstractmethod
    def _advance(self, theta, state, key, arrays, longest) -> tuple[Any, Told]:
        """One truncation of one problem: new state, `Told`."""

    def _init(self, theta, key):
        def init_own(theta, key):
            def init_one(key):
                run_key, stagger_key = jax.random.split(key)
                longest = self.config.longest_at(0)
                return self._new(theta, run_key, longest, cut=stagger_key)

            return jax.vmap(init_one)(self._own_keys(key))

        return jax.shard_map(
            init_own,
            mesh=self.mesh,
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec("pairs"),
            check_vma=False,
        )(theta, key)

    def _own_keys(self, key):
        """Keys of a device's problems, inside of its part of the mesh."""
        local = self.config.num_pairs // self.mesh.size
        problems = jax.lax.axis_index("pairs") * local + jnp.arange(local)
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(problems)

    def _new_length(self, key, longest, cut):
        length = self.config.draw_length(key, longest)
        if cut is None:
            return length
        return self.config.whole_truncations(jax.random.uniform(cut) * length)

    def _unroll(self, theta, inner, key, arrays, length, **options):
        """A truncation of one run: the state after it, and losses as `unroll` has."""
        splits, imitated = arrays
        if imitated is not None:
            options["imitated"] = imitated
        train, *valid = splits
        return self.inner.unroll(
            theta, inner, key, train, self.config.trunc_steps, length, *valid, **options
        )

    def _unroll_with_gradient(self, theta, inner, key, arrays, step, length):
        """As `_unroll`, and the gradient of the objective: a tree like theta.

        The state at the truncation's start counts as given, but for what theta says of
        the optimizer's at a run's start. A gradient that is not finite counts as zero;
        whether it was comes last: the run is lost, the others are not.
        """

        def objective(theta):
            after, losses = self._unroll(
                theta, inner, key, arrays, length, begins=step == 0, remat=True
            )
            _, value = self._means(losses[None], step, length)
            return value[0], (after, losses)

        grad, (after, losses) = jax.grad(objective, has_aux=True)(theta)
        kept = unroll.is_finite(grad) & unroll.is_finite(after.params)
        grad = jax.tree.map(lambda g: jnp.where(kept, g, 0.0), grad)
        return after, losses, grad, ~kept

    def _means(self, losses, step, length):
        """Mean minibatch losses and objectives over a truncation, both (signs,)."""
        train, counts = losses, losses
        if losses.ndim == 3:  # (signs, S, 2): what counts is another thing.
            train, counts = losses[..., 0], losses[..., 1]
        mean = jnp.mean(train, axis=1)
        if self.objective.is_plain and counts is train:
            return mean, mean
        return mean, self.objective.mean(counts, step, length)

    def _estimate(self, theta, state, key, arrays, meta_step, *valid_arrays):
        longest = self.config.longest_at(meta_step)
        imitation = self.inner.imitation
        imitated = imitation.left_at(meta_step) if imitation.expert else None
        arrays = ((arrays, *valid_arrays), imitated)
        count = self.config.num_truncs
        if count == 1:
            state, told = self._advance_all(theta, state, key, arrays, longest)
            grad, metrics = self._gradient(told)
            return grad, state, metrics

        def one(state, key):
            state, told = self._advance_all(theta, state, key, arrays, longest)
            return state, self._gradient(told)

        state, found = jax.lax.scan(one, state, jax.random.split(key, count))
        grad, metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0), found)
        horizons = jnp.nanmean(found[1].horizon_losses, axis=0)
        metrics = dataclasses.replace(
            metrics,
            inner_steps=metrics.inner_steps * count,
            horizon_losses=horizons,
        )
        return grad, state, metrics

    def _advance_all(self, theta, state, key, arrays, longest):
        def advance(theta, state, key, arrays, longest):
            keys = self._own_keys(key)
            state, told = jax.lax.map(
                lambda one: self._advance(theta, one[0], one[1], arrays, longest),
                (state, keys),
                batch_size=self._at_once(keys.shape[0]),
            )
            # Gathered, not summed: in what order devices sum is theirs to choose.
            return state, jax.lax.all_gather(told, "pairs", tiled=True)

        split, whole = PartitionSpec("pairs"), PartitionSpec()
        return jax.shard_map(
            advance,
            mesh=self.mesh,
            in_specs=(whole, split, whole, whole, whole),
            out_specs=(split, whole),
            check_vma=False,
        )(theta, state, key, arrays, longest)

    def _gradient(self, told):
        """Gradient and `Metrics` of what all problems told."""
        config = self.config
        credits_, analytic = told.credit, told.analytic
        diff = told.values[:, 0] - told.values[:, -1]
        kept = config.clip_diff(diff)
        # By more than rounding: a compiler may compute a difference twice.
        clipped = jnp.abs(kept) < (1.0 - 1e-5) * jnp.abs(diff)
        shown = jnp.sign(kept) if config.loss_diff == "sign" else kept
        weights = shown / (2.0 * config.sigma**2 * config.num_pairs)
        parts = []  # Trees of theta's structure, whose sum is the gradient.
        if jax.tree.leaves(credits_):
            parts.append(
                jax.tree.map(lambda xi: jnp.tensordot(weights, xi, axes=1), credits_)
            )
        if jax.tree.leaves(analytic):
            parts.append(jax.tree.map(lambda g: jnp.mean(g, axis=0), analytic))
        grad = jax.tree.map(lambda *xs: sum(xs), *parts)
        return grad, Metrics(
            meta_loss=jnp.mean(told.losses),
            objective=jnp.mean(told.values),
            loss_diff_rms=jnp.sqrt(jnp.mean(jnp.square(diff))),
            clipped_frac=jnp.mean(clipped, dtype=jnp.float32),
            diverged_frac=jnp.mean(told.diverged, dtype=jnp.float32),
            finished_frac=jnp.mean(told.finished, dtype=jnp.float32),
            grad_snr=_signal_to_noise(grad, weights, credits_, analytic),
            inner_steps=told.values.shape[1] * jnp.sum(told.steps, dtype=jnp.float32),
            horizon_losses=self._by_horizon(told),
        )

    def _by_horizon(self, told):
        low, high = math.log(self.config.min_length_steps), self.config.longest
        span = max(math.log(high) - low, 1e-6)
        count = len(HORIZONS)
        place = (jnp.log(told.length) - low) / span * count
        place = jnp.clip(place.astype(jnp.int32), 0, count - 1)
        member = place[None, :] == jnp.arange(count)[:, None]  # (3, P)
        losses = jnp.mean(told.losses, axis=1)
        return (member @ losses) / jnp.sum(member, axis=1)

    def _at_once(self, local: int) -> int | None:
        """Problems side by side on one device; None: runs one after the other."""
        return devices.side_by_side(
            local,
            2 * self.inner.num_params(),
            most=self.particles_at_once,
            runs_each=2,
        )

    @property
    def _map_signs(self) -> Any:
        """``map(function, xs)`` over the signs of a pair: side by side, or in turn."""
        if self._at_once(self.config.num_pairs) is None:
            return jax.lax.map
        return lambda function, xs: jax.vmap(function)(xs)


def _signal_to_noise(grad, weights, credits_, analytic):
    """Squared norm of a mean over P over that of its standard error; 0 if P is 1."""
    count = weights.shape[0]
    if count == 1:
        return jnp.zeros(())

    def deviation(weight, xi, own):
        """Square of the norm of one problem's gradient less the mean."""
        if jax.tree.leaves(xi):
            scaled = jax.tree.map(lambda x: count * weight * x, xi)
            own = optax.tree.add(own, scaled) if jax.tree.leaves(own) else scaled
        return optax.tree.norm(optax.tree.sub(own, grad), squared=True)

    squares = jax.vmap(deviation)(weights, credits_, analytic)
    noise = jnp.sum(squares) / (count * (count - 1))
    signal = optax.tree.norm(grad, squared=True)
    return signal / jnp.maximum(noise, jnp.finfo(jnp.float32).tiny)
