"""LSTM-FF: an LSTM per tensor that steers an MLP per parameter (Metz et al. 2020).

The LSTM sees each tensor's statistics and shape, how unusual the loss is, what the MLP
had to say about this tensor at the last step, and what the LSTMs said on average. It
conditions the MLP, whose outputs are the direction d, the magnitude m and the
message back: ``-step_mult * d * exp(exp_mult * m)``. Gradients are cut to ten times
their usual size, so that the rule does not depend on the scale of the loss.

Axis names: T tensors, L of them of one shape, N parameters of one, D decays, F
features, H units of the MLP, U units of the LSTM.

References:
  Metz et al., `Tasks, stability, architecture, and compute: Training more effective
  learned optimizers, and using them to train themselves
  <https://arxiv.org/abs/2009.11243>`_, 2020.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mulo._checks import masked_leaves
from mulo._checks import rule_inputs as inputs
from mulo._learned import accumulators
from mulo._learned import lstm as lstm_lib
from mulo._learned import lstm_ff_features as features
from mulo._learned import stacks as stacks_lib
from mulo._learned.rule import Rule
from mulo.mup._transforms import step_factors
from mulo.mup._views import sees_weights

Theta = Any  # {"ffmod_params": …, "rnn_params": …, …}, float32 arrays.


class LSTMFFState(NamedTuple):
    """State of :meth:`LSTMFF.transform`; T counts leaves neither masked nor empty."""

    count: jax.typing.ArrayLike  # shape=(), int32. Updates so far, validation included.
    leaves: Any  # A `features.LeafState` of trees as params, float32 accumulators.
    clip: features.ClipState  # Usual size of the gradients.
    train_loss: features.LossState
    valid_loss: features.LossState
    hidden: jax.Array  # (T, U), float32. In the order of the tree's leaves.
    cell: jax.Array  # (T, U), float32.
    from_mlp: jax.Array  # (T, from_mlp_size). What the MLP said of each tensor.
    from_lstm: jax.Array  # (from_lstm_size,). Mean of what the LSTMs said.


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSTMFF(Rule):
    """Architecture of LSTM-FF (``RNNMLPLOpt``), with the public defaults.

    Attributes:
      hidden_size: Units of each hidden layer of the per-parameter MLP.
      hidden_layers: Its hidden layers.
      lstm_hidden_size: Units of the per-tensor LSTM.
      from_mlp_size: Length of the MLP's message to its tensor's LSTM.
      from_lstm_size: Length of the LSTMs' message to each other.
      lstm_to_ff: Length of the LSTM's message to its tensor's MLP.
      step_mult: Scale of the update.
      exp_mult: Scale of the magnitude inside the exponential.
      decays: Decay rates of first and second moments, fixed.
      base_width: fan_in at which a hidden matrix gets the plain update under μP.
    """

    hidden_size: int = 32
    hidden_layers: int = 2
    lstm_hidden_size: int = 64
    from_mlp_size: int = 16
    from_lstm_size: int = 18
    lstm_to_ff: int = 17
    step_mult: float = 0.001
    exp_mult: float = 0.001
    decays: tuple[float, ...] = (0.5, 0.9, 0.99, 0.999, 0.9999)
    base_width: float = 1.0

    NEEDS_LOSS: ClassVar[bool] = True
    TINY: ClassVar[dict[str, Any]] = {"hidden_size": 4, "lstm_hidden_size": 4}

    def __post_init__(self):
        """Check every field."""
        inputs.check_sizes(
            self,
            (
                "hidden_size",
                "hidden_layers",
                "lstm_hidden_size",
                "from_mlp_size",
                "from_lstm_size",
                "lstm_to_ff",
            ),
        )
        inputs.check_positive(self, ("step_mult", "base_width"))
        inputs.check_finite(self, ("exp_mult",))
        inputs.check_decays(self, ("decays",))

    def init(self, key: jax.Array) -> Theta:
        """Draw meta-parameters.

        Args:
          key: PRNG key.

        Returns:
          Float32 arrays under the public names: ``ffmod_params`` (``linear_0``, …: the
          per-parameter MLP), ``rnn_params`` (``rnn``), ``lstm_init_state`` (``hidden``,
          ``cell``), ``rnn_to_ff_params``, ``rnn_to_in_params`` and the first messages
          ``initial_from_mlp`` and ``initial_from_lstm``. Weights truncated normal with
          standard deviation 1/sqrt(inputs), biases and the LSTM's state zero.
        """
        keys = jax.random.split(key, 6)
        sizes = [
            features.num_features(len(self.decays)) + self.lstm_to_ff,
            *[self.hidden_size] * self.hidden_layers,
            2 + self.from_mlp_size,
        ]
        mlp_keys = jax.random.split(keys[0], len(sizes) - 1)
        units = self.lstm_hidden_size
        rnn_inputs = features.NUM_TENSOR + self.from_lstm_size + self.from_mlp_size
        zeros = jnp.zeros((1, units), jnp.float32)

        def message(key, size):
            # Haiku's variance scaling, which does correct for what truncation takes.
            drawn = jax.random.truncated_normal(key, -2.0, 2.0, (size,), jnp.float32)
            return drawn * (size**-0.5 / 0.87962566103423978)

        return {
            "ffmod_params": {
                f"linear_{i}": lstm_lib.init_linear(k, sizes[i], sizes[i + 1])
                for i, k in enumerate(mlp_keys)
            },
            "rnn_params": {"rnn": lstm_lib.init_lstm(keys[1], rnn_inputs, units)},
            "lstm_init_state": {"hidden": zeros, "cell": zeros},
            "rnn_to_ff_params": lstm_lib.init_linear(keys[2], units, self.lstm_to_ff),
            "rnn_to_in_params": lstm_lib.init_linear(
                keys[3], units, self.from_lstm_size
            ),
            "initial_from_mlp": message(keys[4], self.from_mlp_size),
            "initial_from_lstm": message(keys[5], self.from_lstm_size),
        }

    @sees_weights()
    def transform(
        self, theta: Theta, *, mup: Any | None = None, num_steps: Any = None
    ) -> optax.GradientTransformationExtraArgs:
        """Make the optimizer described by theta.

        Entries of a gradient that are not numbers count as zero. A loss that is not
        finite counts as a very large one and is left out of the averages. Empty
        leaves, and leaves masked by ``optax.masked``, do not take part at all. Of
        arrays with more than four axes, the LSTM sees the sizes of the first four.

        Args:
          theta: Meta-parameters as `init` returns them; may be traced.
          mup: Tree like the parameters with a :class:`mulo.mup.Scaling` per leaf:
            hidden matrices get their update × ``base_width / fan_in``. None: the
            standard parametrization.
          num_steps: Not used: the rule does not know how long the run is. Taken so that
            all rules can be called alike.

        Returns:
          A transformation whose updates are to be added to the parameters, as
          everywhere in optax, and keep their shapes and dtypes; state is float32.
          ``update`` needs ``params`` and the loss as ``value=`` (or ``loss=``), and
          ignores other keyword arguments but one: with ``is_valid=True``, which may be
          traced, the loss is one of validation data; it is taken in, gradients are not
          read and the updates are zero.

        Raises:
          ValueError: If theta does not fit the architecture.
        """
        del num_steps
        theta = self.take_theta(theta)
        multipliers = step_factors(mup, "adam", self.base_width)
        decays = jnp.asarray(self.decays, jnp.float32)

        def init_fn(params):
            inputs.check_floating("LSTMFF", params)
            leaves = jax.tree.leaves(params, is_leaf=masked_leaves.is_masked)
            count = len(masked_leaves.live(leaves))
            hidden, cell = lstm_lib.initial_states(theta["lstm_init_state"], count)
            message = theta["initial_from_mlp"]
            return LSTMFFState(
                count=jnp.zeros((), jnp.int32),
                leaves=accumulators.init_tree(
                    features.LeafState,
                    params,
                    lambda p: features.init_leaf(p, len(self.decays)),
                ),
                clip=features.init_clip(),
                train_loss=features.init_loss(),
                valid_loss=features.init_loss(),
                hidden=hidden,
                cell=cell,
                # Copies: a state that shared theta's arrays could not be donated.
                from_mlp=jnp.array(
                    jnp.broadcast_to(message[None], (count, message.shape[0]))
                ),
                from_lstm=jnp.array(theta["initial_from_lstm"]),
            )

        def validate(updates, state, params, loss):
            del params
            new = state._replace(
                count=optax.safe_increment(state.count),
                valid_loss=features.update_loss(
                    state.valid_loss, loss, features.VALID_DECAY
                ),
            )
            return jax.tree.map(jnp.zeros_like, updates), new

        def train(updates, state, params, loss):
            train_loss = features.update_loss(
                state.train_loss, loss, features.TRAIN_DECAY
            )
            surprises = jnp.stack(
                [
                    features.surprise(train_loss, loss),
                    features.surprise(
                        train_loss, features.valid_mean(state.valid_loss)
                    ),
                ]
            )
            new = state._replace(
                count=optax.safe_increment(state.count), train_loss=train_loss
            )
            count = len(masked_leaves.live(jax.tree.leaves(updates)))
            if not count:
                return updates, new
            clip, cut = features.clip_gradients(state.clip, updates)
            moments = features.LeafState(
                *(
                    jax.tree.map(
                        lambda g, old, k=k: features.accumulate(decays, g, old, k),
                        cut,
                        tree,
                    )
                    for k, tree in enumerate(state.leaves, start=1)
                )
            )
            leaves = stacks_lib.Leaves(cut, params, moments)
            said = jnp.broadcast_to(state.from_lstm[None], (count, self.from_lstm_size))
            seen = leaves.per_tensor(lambda x: features.tensor_features(x, surprises))
            hidden, cell = lstm_lib.lstm_step(
                theta["rnn_params"]["rnn"],
                jnp.concatenate([said, state.from_mlp, seen], axis=1),
                state.hidden,
                state.cell,
            )
            mlp = functools.partial(
                features.run_mlp,
                theta["ffmod_params"],
                self.exp_mult,
                features.common(state.count, count),
            )
            outs = leaves.each(mlp, lstm_lib.linear(theta["rnn_to_ff_params"], hidden))
            steps = leaves.tree([step for step, _ in outs])
            factors = jax.tree.map(lambda x: -self.step_mult * x, multipliers(updates))
            said = lstm_lib.linear(theta["rnn_to_in_params"], hidden)
            return stacks_lib.finish(updates, steps, factors), new._replace(
                leaves=moments,
                clip=clip,
                hidden=hidden,
                cell=cell,
                from_mlp=features.messages(
                    theta["ffmod_params"], jnp.stack([mean for _, mean in outs])
                ),
                from_lstm=jnp.mean(said, axis=0),
            )

        def update_fn(
            updates,
            state,
            params=None,
            *,
            value=None,
            loss=None,
            is_valid=False,
            **extra,
        ):
            del extra
            inputs.require_params("LSTMFF", params)
            inputs.check_floating("LSTMFF", updates)
            given = inputs.loss_of("LSTMFF", value, loss)
            if isinstance(is_valid, bool):
                run = validate if is_valid else train
                return run(updates, state, params, given)
            return jax.lax.cond(
                is_valid, validate, train, updates, state, params, given
            )

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)
