"""ELO's variant of SmallFC: the same network and features, decays that are fixed.

ELO ("efficient long-horizon learning") is a way to meta-train; what it trains is the
MLP of small_fc_lopt with 32 hidden units. Two things differ from
:class:`mulo.SmallFC` when the optimizer is used: the decay rates are constants, not
part of theta, and the step is scaled by the user's learning rate, which may follow a
schedule, in place of a fixed step multiplier.

References:
  Huang et al., `ELO <https://arxiv.org/abs/2607.06772>`_, 2026.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from mulo._checks import numbers
from mulo._checks import rule_inputs as inputs
from mulo._learned.rule import Rule
from mulo._learned.small_fc import SmallFC
from mulo._transforms import float32 as wrappers
from mulo.mup._views import sees_weights

Theta = Any  # {"nn": {"w0", "b0", …}}, float32 arrays.

_DECAYS = ("momentum_decays", "rms_decays", "adafactor_decays")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ELO(Rule):
    """Architecture of ELO's per-parameter MLP optimizer.

    Attributes:
      hidden_size: Units of each hidden layer.
      hidden_layers: Hidden layers, input layer included.
      learning_rate: The learning rate of meta-training, parameter units per step.
      exp_mult: Scale of the magnitude inside the exponential.
      base_width: fan_in at which a hidden matrix gets the plain update under μP.
      initial_momentum_decays: Momentum decay rates, fixed.
      initial_rms_decays: Second-moment decay rate, fixed.
      initial_adafactor_decays: Factored second-moment decay rates, fixed; as many as
        momenta.
    """

    hidden_size: int = 32
    hidden_layers: int = 2
    learning_rate: float = 0.001
    exp_mult: float = 0.001
    base_width: float = 1.0
    initial_momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    initial_rms_decays: tuple[float, ...] = (0.999,)
    initial_adafactor_decays: tuple[float, ...] = (0.9, 0.99, 0.999)

    HAS_LEARNING_RATE: ClassVar[bool] = True
    TINY: ClassVar[dict[str, Any]] = {"hidden_size": 4}

    def __post_init__(self):
        """Check every field."""
        inputs.check_positive(self, ("learning_rate",))
        inputs.check_decays(self, [f"initial_{name}" for name in _DECAYS])
        self._small_fc()  # Checks the rest.

    def _small_fc(self) -> SmallFC:
        """The rule whose step is along this one's, one learning rate long."""
        fields = dataclasses.asdict(self)
        del fields["learning_rate"]
        return SmallFC(step_mult=1.0, **fields)

    def init(self, key: jax.Array) -> Theta:
        """Draw meta-parameters: ``nn`` as :meth:`mulo.SmallFC.init` draws it.

        Args:
          key: PRNG key.

        Returns:
          ``{"nn": {"w0": (39, hidden_size), "b0": (hidden_size,), …}}``, float32.
        """
        return {"nn": self._small_fc().init(key)["nn"]}

    @sees_weights()
    def transform(
        self,
        theta: Theta,
        *,
        mup: Any | None = None,
        learning_rate: optax.ScalarOrSchedule | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        """Make the optimizer described by theta.

        Gradient entries that are not finite count as zero.

        Args:
          theta: Meta-parameters as `init` returns them; may be traced.
          mup: Tree like the parameters with a :class:`mulo.mup.Scaling` per leaf (see
            :func:`mulo.mup.infer`): hidden matrices get their update ×
            ``base_width / fan_in``. None changes nothing.
          learning_rate: Parameter units per step, float or schedule; None for the one
            of meta-training.

        Returns:
          A transformation whose updates are to be added to the parameters and keep
          their shapes and dtypes; statistics are float32. ``update`` needs ``params``
          and ignores other keyword arguments (``value=`` and the like).

        Raises:
          ValueError: If theta does not fit the architecture; at init, if a leaf is not
            of a real floating dtype (names it).
        """
        theta = self.take_theta(theta)
        rate = self.learning_rate if learning_rate is None else learning_rate
        numbers.check_learning_rate(rate)
        rule = self._small_fc()
        offsets = {
            name: jnp.zeros(len(getattr(self, f"initial_{name}")), jnp.float32)
            for name in _DECAYS
        }
        inner = rule.transform({"nn": theta["nn"], **offsets}, mup=mup)
        # SmallFC's updates point downhill already.
        scale = optax.scale_by_learning_rate(rate, flip_sign=False)
        return optax.with_extra_args_support(
            optax.chain(wrappers.only_finite("ELO"), inner, scale)
        )
