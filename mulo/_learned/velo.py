"""VeLO: a hypernetwork that reads each tensor and writes its update rule.

Per tensor, an LSTM sees how far the run is, how the loss has moved, and statistics of
the accumulators; tensors see each other through a maximum over all of them. It answers
with a step size and with weights over a bank of tiny per-parameter MLPs, whose weighted
mean, times ``interp_mult``, is the MLP this tensor is updated by:
``-step_mult * size * d * exp(exp_mult * m)``, times the RMS of the tensor
(``param_scale_mult``). Without that factor, and with the update of hidden matrices
multiplied by ``base_width / fan_in``, it is μVeLO.

Axis names: T tensors, C MLPs in the bank (controls), H their hidden units, U units of
the LSTM.

References:
  Metz et al., `VeLO: Training Versatile Learned Optimizers by Scaling Up
  <https://arxiv.org/abs/2211.09760>`_, 2022.
  Thérien et al., `μLO <https://arxiv.org/abs/2406.00153>`_, 2024, Appendix C.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mulo._checks import masked_leaves
from mulo._checks import rule_inputs as inputs
from mulo._learned import accumulators as accumulators_lib
from mulo._learned import features as bank
from mulo._learned import loss_averages
from mulo._learned import lstm as lstm_lib
from mulo._learned import stacks as stacks_lib
from mulo._learned import velo_features as features
from mulo._learned import velo_network as network_lib
from mulo._learned.mlp import Stepper
from mulo._learned.rule import Rule
from mulo.mup._transforms import step_factors
from mulo.mup._views import sees_weights

Theta = Any  # {"lstm_init_state": …, "rnn_params": …, "ff_mod_stack": …}, float32.


class VeLOState(NamedTuple):
    """State of :meth:`VeLO.transform`; T counts leaves neither masked nor empty."""

    count: jax.typing.ArrayLike  # shape=(), int32. Updates applied so far.
    leaves: Any  # A `LeafState` of trees as params, float32 accumulators.
    loss: loss_averages.LossState  # Moving averages of the loss.
    hidden: jax.Array  # (T, U), float32. In the order of the tree's leaves.
    cell: jax.Array  # (T, U), float32.


@dataclasses.dataclass(frozen=True, kw_only=True)
class VeLO(Rule):
    """Architecture of VeLO (``HyperV2``).

    Defaults are those of the released 4000-TPU-month optimizer.

    Attributes:
      lstm_hidden_size: Units of the per-tensor LSTM; 128 in the class this follows.
      param_inits: Per-parameter MLPs in the bank; 64 in the class this follows.
      ff_hidden_size: Units of each hidden layer of the per-parameter MLP.
      ff_hidden_layers: Its hidden layers.
      step_mult: Scale of the update.
      exp_mult: Scale of the magnitude inside the exponential.
      interp_mult: Factor on the bank's weighted mean; 100 as released, 1 is steadier
        in meta-training (Celo's ``ff_mult``).
      param_scale_mult: Whether the update is multiplied by the RMS of the tensor. False
        for μVeLO; a theta is trained with one of the two.
      use_bugged_next_lstm_state: Whether the LSTM forgets its state after each step,
        as the oldest public files expect.
      use_bugged_loss_features: Whether losses are averaged over at most 10 steps
        whatever the horizon. True by default in the class this follows, False in the
        configuration of the released optimizer.
      base_width: fan_in at which a hidden matrix gets the plain update under μP.
      initial_momentum_decays: Momentum decay rates, fixed.
      initial_rms_decays: Second-moment decay rate, fixed.
      initial_adafactor_decays: Factored second-moment decay rates, fixed; as many as
        momenta.
    """

    lstm_hidden_size: int = 512
    param_inits: int = 256
    ff_hidden_size: int = 4
    ff_hidden_layers: int = 2
    step_mult: float = 0.001
    exp_mult: float = 0.001
    interp_mult: float = 100.0
    param_scale_mult: bool = True
    use_bugged_next_lstm_state: bool = False
    use_bugged_loss_features: bool = False
    base_width: float = 1.0
    initial_momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    initial_rms_decays: tuple[float, ...] = (0.999,)
    initial_adafactor_decays: tuple[float, ...] = (0.9, 0.99, 0.999)

    NEEDS_NUM_STEPS: ClassVar[bool] = True
    NEEDS_LOSS: ClassVar[bool] = True
    TINY: ClassVar[dict[str, Any]] = {"lstm_hidden_size": 4, "param_inits": 2}

    def __post_init__(self):
        """Check every field."""
        inputs.check_sizes(
            self,
            ("lstm_hidden_size", "param_inits", "ff_hidden_size", "ff_hidden_layers"),
        )
        inputs.check_positive(self, ("step_mult", "interp_mult", "base_width"))
        inputs.check_finite(self, ("exp_mult",))
        inputs.check_bools(
            self,
            (
                "param_scale_mult",
                "use_bugged_next_lstm_state",
                "use_bugged_loss_features",
            ),
        )
        accumulators_lib.check_decays(self)

    @property
    def num_inputs(self) -> int:
        """Inputs of the LSTM's layers: 30 with three momenta."""
        tensor = 1 + features.RANKS + 2 * len(self.initial_momentum_decays)
        return features.NUM_COMMON + tensor

    def init(self, key: jax.Array) -> Theta:
        """Draw meta-parameters.

        Args:
          key: PRNG key.

        Returns:
          Float32 arrays under the public names: ``lstm_init_state`` (``hidden``,
          ``cell``: (1, U)), ``rnn_params`` (``linear``, which no one reads,
          ``linear_1`` and ``linear_2`` before the LSTM ``rnn``, ``rnn_to_controls`` and
          ``step_size`` after it: ``w``, ``b``) and ``ff_mod_stack`` (``w0__0`` …
          ``w0__13``, ``b0``, ``w1``, …, with a leading axis C). Weights truncated
          normal with standard deviation 1/sqrt(inputs), the rest zero.
        """
        rnn_key, bank_key = jax.random.split(key)
        return {
            **network_lib.init_rnn(
                rnn_key, self.num_inputs, self.lstm_hidden_size, self.param_inits
            ),
            "ff_mod_stack": network_lib.init_bank(
                bank_key,
                len(self.initial_momentum_decays),
                [self.ff_hidden_size] * self.ff_hidden_layers,
                self.param_inits,
            ),
        }

    @sees_weights()
    def transform(
        self, theta: Theta, *, mup: Any | None = None, num_steps: Any = None
    ) -> optax.GradientTransformationExtraArgs:
        """Make the optimizer described by theta.

        Gradients are cut to ±1000; entries that are not numbers count as zero. A loss
        that is not a number is left out of the averages. Empty leaves, and leaves
        masked by ``optax.masked``, do not take part at all. Tensors with more than
        four axes longer than 1 have no rank feature, as in the public code.

        Args:
          theta: Meta-parameters as `init` returns them; may be traced.
          mup: Tree like the parameters with a :class:`mulo.mup.Scaling` per leaf
            (see :func:`mulo.mup.infer`): hidden matrices get their update ×
            ``base_width / fan_in``. Needs ``param_scale_mult=False``. None, the
            standard parametrization, changes nothing.
          num_steps: Length of the run in updates; may be traced, and what is less
            than 1 then counts as 1. The rule slows down towards it; beyond it, it goes
            on with progress above 1.

        Returns:
          A transformation whose updates are to be added to the parameters, as
          everywhere in optax, and keep their shapes and dtypes; state is float32.
          ``update`` needs ``params`` and the loss as ``value=`` (or ``loss=``), and
          ignores other keyword arguments.

        Raises:
          ValueError: If theta does not fit the architecture, the horizon is missing, or
            a μP tree meets ``param_scale_mult``.
        """
        theta = self.take_theta(theta)
        network_lib.refuse_param_scale_under_mup("VeLO", self.param_scale_mult, mup)
        horizon = inputs.check_num_steps("VeLO", num_steps)
        multipliers = step_factors(mup, "adam", self.base_width)
        decays = accumulators_lib.fixed_decays(self)
        loss_decays = loss_averages.loss_decays(
            10.0 if self.use_bugged_loss_features else horizon
        )

        def init_fn(params):
            inputs.check_floating("VeLO", params)
            leaves = jax.tree.leaves(params, is_leaf=masked_leaves.is_masked)
            hidden, cell = lstm_lib.initial_states(
                theta["lstm_init_state"], len(masked_leaves.live(leaves))
            )
            return VeLOState(
                count=jnp.zeros((), jnp.int32),
                leaves=accumulators_lib.init_leaves(self, params),
                loss=loss_averages.init_loss(),
                hidden=hidden,
                cell=cell,
            )

        def update_fn(updates, state, params=None, *, value=None, loss=None, **extra):
            del extra
            inputs.require_params("VeLO", params)
            inputs.check_floating("VeLO", updates)
            new_loss, loss_features = loss_averages.update_loss(
                state.loss,
                inputs.loss_of("VeLO", value, loss),
                state.count,
                loss_decays,
            )
            count = optax.safe_increment(state.count)
            if not masked_leaves.live(jax.tree.leaves(updates)):
                return updates, state._replace(count=count, loss=new_loss)
            leaves = stacks_lib.Leaves(updates, params, state.leaves)
            common = jnp.concatenate(
                [features.progress(state.count / horizon), loss_features]
            )
            controls, sizes, *memory = self._read(
                theta["rnn_params"],
                common,
                leaves.per_tensor(_features),
                (state.hidden, state.cell),
            )
            if self.use_bugged_next_lstm_state:
                memory = state.hidden, state.cell
            networks = network_lib.mix(
                theta["ff_mod_stack"], controls, self.interp_mult
            )

            def step(grad, param, leaf, network, size):
                stepper = Stepper(bank.VELO, network, decays, self.exp_mult)
                direction, new = stepper.step(grad, param, leaf)
                factor = -self.step_mult * size
                if self.param_scale_mult:
                    factor = factor * network_lib.scale_of(param)
                return direction * factor, new

            steps, leaves = leaves.step(
                step,
                networks,
                sizes,
                before=functools.partial(bank.moments, bank.VELO, decays),
            )
            steps = stacks_lib.finish(updates, steps, multipliers(updates))
            return steps, VeLOState(count, leaves, new_loss, *memory)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    def _read(self, params, common, tensors, state):
        """Run the LSTM.

        Args:
          params: Weights.
          common: Features that all tensors share, (X,).
          tensors: Features of each, (T, num_inputs - X).
          state: ``hidden`` and ``cell``, (T, U).

        Returns:
          Weights over the bank (T, C), step sizes (T,), and the new ``hidden`` and
          ``cell``.
        """
        # Sorted by name, as published.
        common = jnp.broadcast_to(common[None], (len(tensors), len(common)))
        x = jnp.concatenate([common, tensors], axis=1)
        hidden, cell = network_lib.run_lstm(params, x, *state)
        controls = lstm_lib.linear(params["rnn_to_controls"], hidden)
        sizes = lstm_lib.linear(params["step_size"], hidden)[:, 0]
        return controls, sizes, hidden, cell


def _features(stack):
    """What the LSTM sees of each tensor, (L, num_inputs - NUM_COMMON)."""
    params = jnp.asarray(stack.params, jnp.float32)
    return jnp.concatenate(
        features.tensor_features(params, stack.states.momentum, stack.states.rms),
        axis=1,
    )
