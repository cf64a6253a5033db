"""SmallFC: a per-parameter MLP on Adafactor features (small_fc_lopt, μLO).

For every parameter, 28 features (gradient, parameter, momenta, second moments and
their normalizations) are divided by their root mean square over the tensor; with 11
embeddings of the step count they enter a ReLU MLP shared by all parameters, whose
two outputs (direction d, magnitude m) make the update
``-step_mult * d * exp(exp_mult * m)``. Under μP the update of a hidden weight matrix
is multiplied by ``base_width / fan_in``; that, and nothing else, turns small_fc_lopt
into μLO.

References:
  Metz et al., `Practical tradeoffs between memory, compute, and performance in
  learned optimizers <https://arxiv.org/abs/2203.11860>`_, 2022.
  Thérien et al., `μLO: Compute-Efficient Meta-Generalization of Learned Optimizers
  <https://arxiv.org/abs/2406.00153>`_, 2024, Appendix A.1, Tables 2-4.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mulo._checks import rule_inputs as inputs
from mulo._learned import accumulators, features
from mulo._learned import lstm as lstm_lib
from mulo._learned import mlp as network_lib
from mulo._learned import stacks as stacks_lib
from mulo._learned.rule import Rule
from mulo.mup._transforms import step_factors
from mulo.mup._views import sees_weights

Theta = Any  # {"nn": {"w0", "b0", …}, "momentum_decays", …}, float32 arrays.


class SmallFCState(NamedTuple):
    """State of :meth:`SmallFC.transform`."""

    count: jax.typing.ArrayLike  # shape=(), int32. Updates applied so far.
    leaves: Any  # A `LeafState` of trees as params, float32 accumulators.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallFC(Rule):
    """Architecture of the per-parameter MLP optimizer.

    Attributes:
      hidden_size: Units of each hidden layer; 32 in μLO, 4 in small_fc_lopt.
      hidden_layers: Hidden layers, input layer included.
      step_mult: Scale of the update (λ1); 0.01 in μLO, 0.001 in small_fc_lopt.
      exp_mult: Scale of the magnitude inside the exponential (λ2).
      base_width: fan_in at which a hidden matrix gets the plain update under μP.
        1, as published, means update × 1/fan_in.
      initial_momentum_decays: Momentum decay rates at theta's zero offset.
      initial_rms_decays: Second-moment decay rates at zero offset.
      initial_adafactor_decays: Factored second-moment decay rates at zero offset;
        as many as momenta.
    """

    hidden_size: int = 32
    hidden_layers: int = 2
    step_mult: float = 0.001
    exp_mult: float = 0.001
    base_width: float = 1.0
    initial_momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    initial_rms_decays: tuple[float, ...] = (0.999,)
    initial_adafactor_decays: tuple[float, ...] = (0.9, 0.99, 0.999)

    TINY: ClassVar[dict[str, Any]] = {"hidden_size": 4}

    def __post_init__(self):
        """Check every field."""
        inputs.check_sizes(self, ("hidden_size", "hidden_layers"))
        inputs.check_positive(self, ("step_mult", "base_width"))
        inputs.check_finite(self, ("exp_mult",))
        accumulators.check_decays(self)

    @property
    def num_inputs(self) -> int:
        """Inputs of the MLP: 28 normalized features and 11 of time by default."""
        sizes = features.SMALL_FC.sizes(len(self.initial_momentum_decays))
        return sum(sizes) + len(features.TIMESCALES)

    def init(self, key: jax.Array) -> Theta:
        """Draw meta-parameters.

        Args:
          key: PRNG key.

        Returns:
          Float32 arrays: ``nn`` with ``w0`` (num_inputs, hidden_size), ``b0``
          (hidden_size,), … up to the output layer of 2 units, weights truncated
          normal with standard deviation 1/sqrt(inputs), biases zero; and
          ``momentum_decays``, ``rms_decays``, ``adafactor_decays``: zero offsets
          from the initial decays, in the parametrization of `decay_rates`.
        """
        sizes = [self.num_inputs, *[self.hidden_size] * self.hidden_layers, 2]
        network = {}
        for i, layer_key in enumerate(jax.random.split(key, len(sizes) - 1)):
            layer = lstm_lib.init_linear(layer_key, sizes[i], sizes[i + 1])
            network |= {f"w{i}": layer["w"], f"b{i}": layer["b"]}
        return {
            "nn": network,
            "momentum_decays": jnp.zeros(
                len(self.initial_momentum_decays), jnp.float32
            ),
            "rms_decays": jnp.zeros(len(self.initial_rms_decays), jnp.float32),
            "adafactor_decays": jnp.zeros(
                len(self.initial_adafactor_decays), jnp.float32
            ),
        }

    def learned_rates(self, theta: Theta) -> Mapping[str, jax.Array]:
        """One minus the decay rates: how much of the newest gradient is taken in."""
        return {
            f"{name}_{i}": 1.0 - rate
            for name, rates in self.decay_rates(theta)._asdict().items()
            for i, rate in enumerate(rates)
        }

    def decay_rates(self, theta: Theta) -> accumulators.Decays:
        """Effective decay rates, ``1 - (1 - initial) * exp(10 * offset)``.

        Rates of second moments are clipped to [0, 1]; those of momenta are not
        (as in learned_optimization).
        """

        def effective(initial, offset):
            return 1.0 - (1.0 - jnp.asarray(initial, jnp.float32)) * jnp.exp(
                10.0 * offset
            )

        return accumulators.Decays(
            momentum=effective(self.initial_momentum_decays, theta["momentum_decays"]),
            rms=jnp.clip(
                effective(self.initial_rms_decays, theta["rms_decays"]), 0.0, 1.0
            ),
            adafactor=jnp.clip(
                effective(self.initial_adafactor_decays, theta["adafactor_decays"]),
                0.0,
                1.0,
            ),
        )

    def _network(self, nn, count):
        """The MLP at one step: ``tanh(count / timescale - 1)`` goes into the bias."""
        scales = np.asarray(features.TIMESCALES, np.float32)
        time = jnp.tanh(count.astype(jnp.float32) / scales - 1.0)
        split = self.num_inputs - len(scales)
        of_time = jnp.matmul(
            time, nn["w0"][split:], precision=jax.lax.Precision.HIGHEST
        )
        return network_lib.Network(
            features=nn["w0"][:split],
            bias=nn["b0"] + of_time,
            layers=tuple((nn[f"w{i}"], nn[f"b{i}"]) for i in range(1, len(nn) // 2)),
        )

    @sees_weights()
    def transform(
        self, theta: Theta, *, mup: Any | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """Make the optimizer described by theta.

        Args:
          theta: Meta-parameters as `init` returns them; may be traced.
          mup: Tree like the parameters with a :class:`mulo.mup.Scaling` per leaf
            (see :func:`mulo.mup.infer`): hidden matrices get their update ×
            ``base_width / fan_in``. None, the standard parametrization, changes
            nothing.

        Returns:
          A transformation whose updates are to be added to the parameters, as
          everywhere in optax, and keep their shapes and dtypes; statistics are
          float32. ``update`` needs ``params`` and ignores other keyword arguments
          (``value=`` and the like).

        Raises:
          ValueError: If theta does not fit the architecture; at init, if a leaf is not
            of a real floating dtype (names it).
        """
        return self._transform(theta, mup, lambda count: count)

    def _transform(self, theta, mup, time):
        """As `transform`; ``time(count)`` is what the time features read."""
        theta = self.take_theta(theta)
        multipliers = step_factors(mup, "adam", self.base_width)
        decays = self.decay_rates(theta)

        def init_fn(params):
            inputs.check_floating("SmallFC", params)
            return SmallFCState(
                count=jnp.zeros((), jnp.int32),
                leaves=accumulators.init_leaves(self, params),
            )

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args
            inputs.require_params("SmallFC", params)
            inputs.check_floating("SmallFC", updates)
            stepper = network_lib.Stepper(
                features.SMALL_FC,
                self._network(theta["nn"], time(state.count)),
                decays,
                self.exp_mult,
            )
            leaves = stacks_lib.Leaves(updates, params, state.leaves)
            steps, leaves = leaves.step(
                stepper.step,
                before=stepper.moments,
                vectors=stepper.vectors,
                at_once=stepper.at_once,
            )
            factors = jax.tree.map(lambda x: -self.step_mult * x, multipliers(updates))
            return stacks_lib.finish(updates, steps, factors), SmallFCState(
                optax.safe_increment(state.count), leaves
            )

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)
