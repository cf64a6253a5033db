"""Celo and CeloAdam: a learned schedule on top of a learned, or Adam's, direction.

An LSTM sees how far the run is and how the loss has moved (no tensor's statistics) and
answers with one step size, ``0.1 * exp(.)``. In Celo it multiplies VeLO's
per-parameter MLP, scaled by the RMS of the tensor; in CeloAdam, Adam's direction.

The public code runs the LSTM once per tensor. Its inputs and initial state are the same
for all of them, and so are its outputs: here it runs once.

Axis names: C MLPs in the bank, U units of the LSTM.

References:
  Moudgil et al., `Celo: Training Versatile Learned Optimizers on a Compute Diet
  <https://arxiv.org/abs/2501.12670>`_, 2025.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mulo._checks import numbers
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
from mulo._transforms import float32 as wrappers
from mulo.mup._transforms import step_factors
from mulo.mup._views import sees_weights

Theta = Any  # {"lstm_init_state": …, "rnn_params": …, maybe "ff_mod_stack": …}.

_BASE_STEP = 0.1


class Schedule(NamedTuple):
    """State of the learned schedule."""

    loss: loss_averages.LossState  # Moving averages of the loss.
    hidden: jax.Array  # (1, U), float32.
    cell: jax.Array  # (1, U), float32.


class CeloState(NamedTuple):
    """State of :meth:`Celo.transform`."""

    count: jax.typing.ArrayLike  # shape=(), int32. Updates applied so far.
    leaves: Any  # A `LeafState` of trees as params, float32 accumulators.
    schedule: Schedule  # What the LSTM remembers.


class CeloAdamState(NamedTuple):
    """State of :meth:`CeloAdam.transform`."""

    count: jax.typing.ArrayLike  # shape=(), int32. Updates applied so far.
    momentum: Any  # As params, float32. Moving average of the gradient.
    rms: Any  # As params, float32. Moving average of the squared gradient.
    schedule: Schedule  # What the LSTM remembers.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Celo(Rule):
    """Architecture of Celo. Defaults are those of the released optimizer.

    Attributes:
      lstm_hidden_size: Units of the LSTM.
      param_inits: Per-parameter MLPs the LSTM chooses from (softmax); 1 as released.
      ff_hidden_size: Units of each hidden layer of the per-parameter MLP.
      ff_hidden_layers: Its hidden layers.
      step_mult: Scale of the update.
      exp_mult: Scale of the magnitude inside the exponential.
      train_phase: 2, or 1: the step size of the LSTM is left out, as while the MLP is
        meta-trained first.
      param_scale_mult: Whether the update is multiplied by the RMS of the tensor; False
        for μP.
      base_width: fan_in at which a hidden matrix gets the plain update under μP.
      initial_momentum_decays: Momentum decay rates, fixed.
      initial_rms_decays: Second-moment decay rate, fixed.
      initial_adafactor_decays: Factored second-moment decay rates, fixed; as many as
        momenta.
    """

    lstm_hidden_size: int = 64
    param_inits: int = 1
    ff_hidden_size: int = 4
    ff_hidden_layers: int = 2
    step_mult: float = 0.001
    exp_mult: float = 0.001
    train_phase: int = 2
    param_scale_mult: bool = True
    base_width: float = 1.0
    initial_momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    initial_rms_decays: tuple[float, ...] = (0.999,)
    initial_adafactor_decays: tuple[float, ...] = (0.9, 0.99, 0.999)

    NEEDS_NUM_STEPS: ClassVar[bool] = True
    NEEDS_LOSS: ClassVar[bool] = True
    TINY: ClassVar[dict[str, Any]] = {"lstm_hidden_size": 4}

    def __post_init__(self):
        """Check every field."""
        inputs.check_sizes(
            self,
            ("lstm_hidden_size", "param_inits", "ff_hidden_size", "ff_hidden_layers"),
        )
        inputs.check_positive(self, ("step_mult", "base_width"))
        inputs.check_finite(self, ("exp_mult",))
        inputs.check_bools(self, ("param_scale_mult",))
        if type(self.train_phase) is not int or self.train_phase not in (1, 2):
            raise ValueError(f"train_phase must be 1 or 2, got {self.train_phase!r}.")
        accumulators_lib.check_decays(self)

    def init(self, key: jax.Array) -> Theta:
        """Draw meta-parameters, float32, laid out as :meth:`mulo.VeLO.init` does."""
        rnn_key, bank_key = jax.random.split(key)
        return {
            **network_lib.init_rnn(
                rnn_key, features.NUM_COMMON, self.lstm_hidden_size, self.param_inits
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
        that is not a number is left out of the averages.

        Args:
          theta: Meta-parameters as `init` returns them; may be traced.
          mup: Tree like the parameters with a :class:`mulo.mup.Scaling` per leaf:
            hidden matrices get their update × ``base_width / fan_in``. Needs
            ``param_scale_mult=False``. None: the standard parametrization.
          num_steps: Length of the run in updates; may be traced, and what is less
            than 1 then counts as 1.

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
        network_lib.refuse_param_scale_under_mup("Celo", self.param_scale_mult, mup)
        horizon = inputs.check_num_steps("Celo", num_steps)
        multipliers = step_factors(mup, "adam", self.base_width)
        decays = accumulators_lib.fixed_decays(self)

        def init_fn(params):
            inputs.check_floating("Celo", params)
            return CeloState(
                count=jnp.zeros((), jnp.int32),
                leaves=accumulators_lib.init_leaves(self, params),
                schedule=_init_schedule(theta),
            )

        def update_fn(updates, state, params=None, *, value=None, loss=None, **extra):
            del extra
            inputs.require_params("Celo", params)
            inputs.check_floating("Celo", updates)
            size, schedule = _advance(
                theta,
                state.schedule,
                inputs.loss_of("Celo", value, loss),
                state.count,
                horizon,
            )
            # The same weights over the bank for every tensor: one network.
            controls = lstm_lib.linear(
                theta["rnn_params"]["rnn_to_controls"], schedule.hidden
            )
            network = jax.tree.map(
                lambda x: x[0],
                network_lib.mix(theta["ff_mod_stack"], jax.nn.softmax(controls), 1.0),
            )
            factor = -self.step_mult * (size if self.train_phase == 2 else 1.0)

            stepper = Stepper(bank.VELO, network, decays, self.exp_mult)

            def step(grad, param, leaf):
                direction, new = stepper.step(grad, param, leaf)
                if self.param_scale_mult:
                    direction = direction * network_lib.scale_of(param)
                return factor * direction, new

            steps, leaves = stacks_lib.Leaves(updates, params, state.leaves).step(
                step, before=stepper.moments
            )
            steps = stacks_lib.finish(updates, steps, multipliers(updates))
            count = optax.safe_increment(state.count)
            return steps, CeloState(count, leaves, schedule)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CeloAdam(Rule):
    """Architecture of CeloAdam. Defaults are those of the released optimizer.

    Attributes:
      lstm_hidden_size: Units of the LSTM.
      step_mult: Scale of the update: Adam's learning rate is ``step_mult * 0.1 *
        exp(.)``.
      momentum_decay: Adam's b1, fixed.
      rms_decay: Adam's b2, fixed.
      epsilon: Added to the root of the second moment; 1e-10 is added inside it, as
        published: steps fade where gradients are below 1e-5, a thousand times earlier
        than Adam's with the same epsilon.
      base_width: fan_in at which a hidden matrix gets the plain update under μP.
    """

    lstm_hidden_size: int = 64
    step_mult: float = 0.001
    momentum_decay: float = 0.9
    rms_decay: float = 0.999
    epsilon: float = 1e-8
    base_width: float = 1.0

    NEEDS_NUM_STEPS: ClassVar[bool] = True
    NEEDS_LOSS: ClassVar[bool] = True
    TINY: ClassVar[dict[str, Any]] = {"lstm_hidden_size": 4}

    def __post_init__(self):
        """Check every field."""
        inputs.check_sizes(self, ("lstm_hidden_size",))
        inputs.check_positive(self, ("step_mult", "base_width"))
        inputs.check_single_decays(self, ("momentum_decay", "rms_decay"))
        numbers.check_not_negative("epsilon", self.epsilon)

    def init(self, key: jax.Array) -> Theta:
        """Draw meta-parameters, laid out as Celo's without MLPs."""
        return network_lib.init_rnn(key, features.NUM_COMMON, self.lstm_hidden_size, 0)

    @sees_weights()
    def transform(
        self, theta: Theta, *, mup: Any | None = None, num_steps: Any = None
    ) -> optax.GradientTransformationExtraArgs:
        """Make the optimizer described by theta.

        As :meth:`Celo.transform`, but ``update`` does not need ``params``, and μP is
        the plain rule for Adam.

        Raises:
          ValueError: If theta does not fit the architecture or the horizon is missing.
        """
        theta = self.take_theta(theta)
        horizon = inputs.check_num_steps("CeloAdam", num_steps)
        multipliers = step_factors(mup, "adam", self.base_width)

        def init_fn(params):
            inputs.check_floating("CeloAdam", params)
            return CeloAdamState(
                count=jnp.zeros((), jnp.int32),
                momentum=wrappers.zeros(params),
                rms=wrappers.zeros(params),
                schedule=_init_schedule(theta),
            )

        def update_fn(updates, state, params=None, *, value=None, loss=None, **extra):
            del extra, params
            inputs.check_floating("CeloAdam", updates)
            size, schedule = _advance(
                theta,
                state.schedule,
                inputs.loss_of("CeloAdam", value, loss),
                state.count,
                horizon,
            )
            b1, b2 = self.momentum_decay, self.rms_decay
            grads = jax.tree.map(bank.clean, updates)
            momentum = jax.tree.map(
                lambda m, g: b1 * m + (1.0 - b1) * g, state.momentum, grads
            )
            rms = jax.tree.map(
                lambda v, g: b2 * v + (1.0 - b2) * jnp.square(g), state.rms, grads
            )
            time = jnp.asarray(state.count, jnp.float32) + 1.0
            unbias_m, unbias_v = 1.0 / (1.0 - b1**time), 1.0 / (1.0 - b2**time)
            rate = self.step_mult * size

            def step(grad, factor, m, v):
                root = jnp.sqrt(v * unbias_v + 1e-10)
                out = -(factor * rate) * (m * unbias_m) / (self.epsilon + root)
                return out.astype(jnp.result_type(grad))

            steps = jax.tree.map(step, updates, multipliers(updates), momentum, rms)
            return steps, CeloAdamState(
                count=optax.safe_increment(state.count),
                momentum=momentum,
                rms=rms,
                schedule=schedule,
            )

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _init_schedule(theta: Theta) -> Schedule:
    hidden, cell = lstm_lib.initial_states(theta["lstm_init_state"], 1)
    return Schedule(loss_averages.init_loss(), hidden, cell)


def _advance(theta, state, loss, count, horizon):
    """One step of the LSTM: the step size, a scalar, and its new state."""
    losses, loss_features = loss_averages.update_loss(
        state.loss, loss, count, loss_averages.loss_decays(horizon)
    )
    x = jnp.concatenate([features.progress(count / horizon), loss_features])
    params = theta["rnn_params"]
    hidden, cell = network_lib.run_lstm(params, x[None], state.hidden, state.cell)
    size = _BASE_STEP * jnp.exp(lstm_lib.linear(params["step_size"], hidden)[0, 0])
    return size, Schedule(losses, hidden, cell)
