"""Celo2: a learned direction of length one, under the user's own learning rate.

A per-parameter MLP of 347 weights sees the features of :mod:`mulo._learned.features`
and answers with a direction; each matrix of directions is divided by its root mean
square and stepped along by the learning rate, so that theta says where to and the
user's schedule how far. Two forms are published:

* base (``orthogonalize=False``): this, for every array;
* orthogonalized: matrices are orthogonalized by Newton-Schulz iteration before they are
  normalized, as in Muon, and all other arrays are stepped by Adam with a learning rate
  of its own (20 times the matrices').

Under μP the two differ. A learned direction has a stable rank that does not grow with
width, like Adam's, so a hidden matrix's step is multiplied by base/fan_in. An
orthogonalized one has all singular values equal: at root mean square 1 they are
√max(fan_in, fan_out), and the multiplier is √(fan_out/fan_in) over that, about
1/√width (:func:`mulo.mup.update_multipliers`, ``muon_rms``).

References:
  Moudgil et al., `Celo2 <https://arxiv.org/abs/2602.19142>`_, 2026.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mulo import mup as mup_lib
from mulo._checks import masked_leaves, numbers
from mulo._checks import rule_inputs as inputs
from mulo._designed import newton_schulz
from mulo._learned import accumulators, features
from mulo._learned import lstm as lstm_lib
from mulo._learned import mlp as network_lib
from mulo._learned import stacks as stacks_lib
from mulo._learned.gradient_cleaning import clean
from mulo._learned.rule import Rule
from mulo._transforms.float32 import in_float32
from mulo.mup._transforms import scale_by_mup
from mulo.mup._views import sees_weights

Theta = Any  # {"ff_mod_stack": {"w0__0", …, "b0", "w1", …}}, float32 arrays.

_OUTPUTS = 3  # Direction and two that are not used.


class Celo2State(NamedTuple):
    """State of the learned part of :meth:`Celo2.transform`."""

    leaves: Any  # A `LeafState` of trees as params, float32 accumulators.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Celo2(Rule):
    """Architecture of Celo2.

    Attributes:
      hidden_size: Units of each hidden layer.
      hidden_layers: Hidden layers, input layer included.
      orthogonalize: Whether matrices are orthogonalized and the rest left to Adam; a
        theta is trained with one of the two.
      learning_rate: The learning rate of meta-training, parameter units per step.
      base_width: fan_in at which a hidden matrix gets the plain update under μP.
      adam_multiplier: Adam's learning rate over the matrices'.
      adam_b1: Adam's decay of the first moment per step.
      adam_b2: Adam's decay of the second moment per step.
      adam_eps: Added to the root of Adam's second moment, gradient units.
      initial_momentum_decays: Momentum decay rates, fixed.
      initial_rms_decays: Second-moment decay rate, fixed.
      initial_adafactor_decays: Factored second-moment decay rates, fixed; as many as
        momenta.
    """

    hidden_size: int = 8
    hidden_layers: int = 2
    orthogonalize: bool = True
    learning_rate: float = 0.001
    base_width: float = 1.0
    adam_multiplier: float = 20.0
    adam_b1: float = 0.9
    adam_b2: float = 0.95
    adam_eps: float = 1e-8
    initial_momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    initial_rms_decays: tuple[float, ...] = (0.95,)
    initial_adafactor_decays: tuple[float, ...] = (0.9, 0.99, 0.999)

    HAS_LEARNING_RATE: ClassVar[bool] = True
    TINY: ClassVar[dict[str, Any]] = {"hidden_size": 4}

    def __post_init__(self):
        """Check every field."""
        inputs.check_sizes(self, ("hidden_size", "hidden_layers"))
        inputs.check_positive(
            self, ("learning_rate", "base_width", "adam_multiplier", "adam_eps")
        )
        inputs.check_single_decays(self, ("adam_b1", "adam_b2"))
        inputs.check_bools(self, ("orthogonalize",))
        accumulators.check_decays(self)

    @property
    def mup_rule(self) -> str:
        """The rule of :func:`mulo.mup.update_multipliers` for hidden matrices."""
        return "muon_rms" if self.orthogonalize else "adam"

    def init(self, key: jax.Array) -> Theta:
        """Draw meta-parameters.

        Args:
          key: PRNG key.

        Returns:
          Float32 arrays under the public names, in ``ff_mod_stack``: ``w0__0`` …
          ``w0__13`` (group size, hidden_size), ``b0`` (hidden_size,), … up to the
          output layer of 3 units, of which one is used; weights truncated normal with
          standard deviation 1/sqrt(inputs), biases zero.
        """
        groups = features.CELO2.sizes(len(self.initial_momentum_decays))
        sizes = [sum(groups), *[self.hidden_size] * self.hidden_layers, _OUTPUTS]
        first_key, *keys = jax.random.split(key, len(sizes) - 1)
        layers: dict[str, jax.Array] = {}

        group_keys = jax.random.split(first_key, len(groups))
        for i, (group_key, size) in enumerate(zip(group_keys, groups, strict=True)):
            shape = (size, sizes[1])
            layers[f"w0__{i}"] = lstm_lib.draw_weights(group_key, shape, sizes[0])
        for i, layer_key in enumerate(keys, start=1):
            shape = (sizes[i], sizes[i + 1])
            layers[f"w{i}"] = lstm_lib.draw_weights(layer_key, shape, sizes[i])
        for i, size in enumerate(sizes[1:]):
            layers[f"b{i}"] = jnp.zeros(size, jnp.float32)
        return {"ff_mod_stack": layers}

    @sees_weights()
    def transform(
        self,
        theta: Theta,
        *,
        mup: Any | None = None,
        learning_rate: optax.ScalarOrSchedule | None = None,
        matrices: Any | Callable[[Any], Any] | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        """Make the optimizer described by theta.

        A gradient entry that is not a number counts as zero, and all are clipped to
        ±1000; Adam's leaves get the same gradients.

        Args:
          theta: Meta-parameters as `init` returns them; may be traced.
          mup: Tree like the parameters with a :class:`mulo.mup.Scaling` per leaf (see
            :func:`mulo.mup.infer`): steps get the multipliers of this module's
            docstring, and hidden matrices are orthogonalized as (fan_in, fan_out). None
            is the standard parametrization.
          learning_rate: Parameter units per step, float or schedule; None for the one
            of meta-training.
          matrices: Which leaves are orthogonalized: a tree of bools like the
            parameters, or a function from them to one. None: the hidden matrices of
            ``mup``; without it, every leaf of two axes or more. Embeddings and
            readouts are better left out. Base form: not used.

        Returns:
          A transformation whose updates are to be added to the parameters and keep
          their shapes and dtypes; statistics are float32. ``update`` needs ``params``
          and ignores other keyword arguments (``value=`` and the like).

        Raises:
          ValueError: If theta does not fit the architecture; at init and update, if a
            leaf is not of a real floating dtype or has no μP scaling (names it).
        """
        theta = self.take_theta(theta)
        rate = self.learning_rate if learning_rate is None else learning_rate
        numbers.check_learning_rate(rate)
        steps: list[optax.GradientTransformation] = [self._direction(theta, mup)]
        if self.orthogonalize:
            adam = optax.chain(
                in_float32(
                    optax.scale_by_adam(self.adam_b1, self.adam_b2, self.adam_eps)
                ),
                optax.scale(self.adam_multiplier),
            )
            parts: dict[Any, optax.GradientTransformation] = {
                "matrix": steps[0],
                "rest": adam,
            }
            labels = _labels(mup, matrices)
            steps = [_cleaned(), optax.partition(parts, labels)]
        return optax.with_extra_args_support(
            optax.chain(
                *steps,
                scale_by_mup(mup, optimizer=self.mup_rule, base_width=self.base_width),
                optax.scale_by_learning_rate(rate),
            )
        )

    def _direction(self, theta: Theta, mup: Any) -> optax.GradientTransformation:
        """The learned direction of every leaf it is given."""
        stack = theta["ff_mod_stack"]
        network = network_lib.Network(
            features=jnp.concatenate(
                [stack[f"w0__{i}"] for i in range(len(features.GROUPS))]
            ),
            bias=stack["b0"],
            layers=tuple(
                (stack[f"w{i}"], stack[f"b{i}"])
                for i in range(1, self.hidden_layers + 1)
            ),
        )
        stepper = network_lib.Stepper(
            features.CELO2, network, accumulators.fixed_decays(self)
        )

        def init_fn(params):
            inputs.check_floating("Celo2", params)
            return Celo2State(accumulators.init_leaves(self, params))

        def update_fn(updates, state, params=None):
            inputs.require_params("Celo2", params)
            inputs.check_floating("Celo2", updates)

            def step(grad, param, leaf, view):
                direction, new = stepper.step(grad, param, leaf)
                return self._finish(direction, view), new

            def step_vectors(*leaves):
                directions, new = stepper.vectors(*leaves)
                return [_normalize(x) for x in directions], new

            leaves = stacks_lib.Leaves(
                updates, params, state.leaves, _views(updates, mup)
            )
            steps, leaves = leaves.step(
                step, before=stepper.moments, vectors=step_vectors
            )
            steps = jax.tree.map(lambda g, x: x.astype(g.dtype), updates, steps)
            return steps, Celo2State(leaves)

        return optax.GradientTransformation(init_fn, update_fn)

    def _finish(self, direction, view):
        """Orthogonalize matrices where that is asked for, and normalize."""
        if not self.orthogonalize or direction.ndim < 2:
            return _normalize(direction)
        matrix = newton_schulz.orthogonalize(direction.reshape(view))
        return _normalize(matrix).reshape(direction.shape)


def _normalize(x):
    """Divide by the root mean square over the last two axes, or all of fewer."""
    axes = tuple(range(x.ndim))[-2:]
    mean_square = jnp.mean(jnp.square(x), axes, keepdims=True)
    return x * features.CELO2.inverse_rms(mean_square)


def _views(updates, mup):
    """Shape (…, A, B) in which every leaf is a stack of matrices."""
    if mup is None:
        return jax.tree.map(jnp.shape, updates)
    scalings = mup_lib.align(mup, updates, scalings=mup)

    def view(update, scaling):
        shape = jnp.shape(update)
        # The sides of a weight of several axes are products of neighbours. Differs
        # from the public code, which takes the last two axes whatever they are.
        sides = (scaling.fan_in, scaling.fan_out)
        starts = {math.prod(shape[:k]) for k in range(len(shape) + 1)}
        if scaling.role == "hidden" and scaling.copies == 1 and sides[0] in starts:
            return sides
        return shape

    return jax.tree.map(view, updates, scalings)


def _labels(mup, matrices):
    def by_rank(params):
        return jax.tree.map(lambda p: jnp.ndim(p) >= 2, params)

    def by_role(params):
        return jax.tree.map(
            lambda p, s: s.role == "hidden" and not s.finite and jnp.ndim(p) >= 2,
            params,
            mup_lib.align(mup, params, scalings=mup),
        )

    def labels(params):
        if masked_leaves.is_placeholder(params):
            return params
        if matrices is None:
            chosen = by_rank(params) if mup is None else by_role(params)
        else:
            chosen = matrices(params) if callable(matrices) else matrices
        return jax.tree.map(lambda matrix: "matrix" if matrix else "rest", chosen)

    return labels


def _cleaned():
    """Clip gradients and drop what is not a number, for Adam's leaves too."""

    def update_fn(updates, state, params=None):
        del params
        return jax.tree.map(lambda g: clean(g).astype(g.dtype), updates), state

    def init_fn(params):
        inputs.check_floating("Celo2", params)
        return optax.EmptyState()

    return optax.GradientTransformation(init_fn, update_fn)
