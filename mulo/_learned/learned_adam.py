"""LearnedAdam: Adam whose hyper-parameters are meta-learned.

The smallest member of the family: theta holds a learning rate, two decay rates and an
epsilon for each class of tensors. The classes are "matrix" (two axes or more) and
"vector" (biases, gains and scalars), told apart by rank alone, so that one theta fits
every model, with or without a μP tree. The parametrization is that of
learned_optimization's ``LearnableAdam``, which has one class: logarithms of what is
positive, logarithms of one minus a decay.

References:
  Metz et al., `learned_optimization <https://github.com/google/learned_optimization>`_.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mulo._checks import rule_inputs as inputs
from mulo._learned.rule import Rule
from mulo._safe_sqrt import safe_sqrt
from mulo._transforms import float32 as wrappers
from mulo.mup._transforms import scale_by_mup
from mulo.mup._views import sees_weights

Theta = Any  # {"matrix": {"log_lr", …}, "vector": {…}}, float32 scalars.

CLASSES = ("matrix", "vector")


class LearnedAdamState(NamedTuple):
    """State of the Adam inside :meth:`LearnedAdam.transform`."""

    count: jax.typing.ArrayLike  # shape=(), int32. Updates applied so far.
    mu: Any  # As params, float32. Moving averages of the gradients.
    nu: Any  # As params, float32. Moving averages of the squared gradients.


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedAdam(Rule):
    """Architecture, if one may say so, of a meta-learned Adam.

    Attributes:
      initial_learning_rate: Learning rate of a fresh theta, parameter units per step.
      initial_b1: Decay of the first moment per step.
      initial_b2: Decay of the second moment per step.
      initial_eps: Added to the root of the second moment, gradient units.
      base_width: fan_in at which a hidden matrix gets the plain update under μP.
    """

    initial_learning_rate: float = 1e-3
    initial_b1: float = 0.9
    initial_b2: float = 0.999
    initial_eps: float = 1e-8
    base_width: float = 1.0

    def __post_init__(self):
        """Check every field."""
        inputs.check_positive(
            self, ("initial_learning_rate", "initial_eps", "base_width")
        )
        inputs.check_single_decays(self, ("initial_b1", "initial_b2"))

    def init(self, key: jax.Array) -> Theta:
        """Meta-parameters of plain Adam; nothing is random.

        Args:
          key: PRNG key, not used.

        Returns:
          For ``matrix`` and ``vector``: ``log_lr``, ``one_minus_beta1``,
          ``one_minus_beta2`` (logarithms of what their names say) and ``log_epsilon``,
          float32 of shape ().
        """
        del key
        values = {
            "log_lr": self.initial_learning_rate,
            "one_minus_beta1": 1.0 - self.initial_b1,
            "one_minus_beta2": 1.0 - self.initial_b2,
            "log_epsilon": self.initial_eps,
        }
        return {
            name: {k: jnp.log(jnp.float32(v)) for k, v in values.items()}
            for name in CLASSES
        }

    @sees_weights()
    def transform(
        self, theta: Theta, *, mup: Any | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """Make the optimizer described by theta.

        Gradient entries that are not finite count as zero.

        Args:
          theta: Meta-parameters as `init` returns them; may be traced.
          mup: Tree like the parameters with a :class:`mulo.mup.Scaling` per leaf (see
            :func:`mulo.mup.infer`): hidden matrices get their update ×
            ``base_width / fan_in``. None changes nothing.

        Returns:
          A transformation whose updates are to be added to the parameters and keep
          their shapes and dtypes; moments are float32. ``update`` ignores keyword
          arguments (``value=`` and the like).

        Raises:
          ValueError: If theta does not fit; at init and update, if a leaf is not of a
            real floating dtype or has no μP scaling (names it).
        """
        theta = self.take_theta(theta)

        def init_fn(params):
            mu, nu = wrappers.zeros(params), wrappers.zeros(params)
            return LearnedAdamState(jnp.zeros((), jnp.int32), mu, nu)

        def update_fn(updates, state, params=None, **extra_args):
            del params, extra_args
            count = optax.safe_increment(state.count)
            per_class = {
                name: _Hyper.of(theta[name], jnp.asarray(count, jnp.float32))
                for name in CLASSES
            }

            def hyper(x):
                return per_class["matrix" if jnp.ndim(x) >= 2 else "vector"]

            def moment(power, decay_of):
                def move(old, g):
                    keep, take = decay_of(hyper(g))
                    return keep * old + take * jnp.asarray(g, jnp.float32) ** power

                return move

            mu = jax.tree.map(moment(1, lambda h: (h.b1, h.rest1)), state.mu, updates)
            nu = jax.tree.map(moment(2, lambda h: (h.b2, h.rest2)), state.nu, updates)

            def step(g, m, v):
                h = hyper(g)
                root = safe_sqrt(v / h.correction2) + h.eps
                return (-h.lr * (m / h.correction1) / root).astype(jnp.result_type(g))

            return jax.tree.map(step, updates, mu, nu), LearnedAdamState(count, mu, nu)

        adam = optax.GradientTransformationExtraArgs(init_fn, update_fn)
        return optax.with_extra_args_support(
            optax.chain(
                wrappers.only_finite("LearnedAdam"),
                adam,
                scale_by_mup(mup, base_width=self.base_width),
            )
        )

    def learned_rates(self, theta: Theta) -> Mapping[str, jax.Array]:
        """Learning rate, one minus the decays, and epsilon of each class of tensors."""
        return {
            f"{name}_{key.removeprefix('log_')}": jnp.exp(value)
            for name in CLASSES
            for key, value in theta[name].items()
        }


class _Hyper(NamedTuple):
    """Adam's numbers for one class at one step, shape=()."""

    lr: jax.Array
    b1: jax.Array
    rest1: jax.Array  # 1 - b1, exact where b1 rounds.
    b2: jax.Array
    rest2: jax.Array
    eps: jax.Array
    correction1: jax.Array  # 1 - b1 ** count.
    correction2: jax.Array

    @classmethod
    def of(cls, theta, count):
        rest1, rest2 = (
            jnp.exp(theta["one_minus_beta1"]),
            jnp.exp(theta["one_minus_beta2"]),
        )
        b1, b2 = 1.0 - rest1, 1.0 - rest2
        return cls(
            lr=jnp.exp(theta["log_lr"]),
            b1=b1,
            rest1=rest1,
            b2=b2,
            rest2=rest2,
            eps=jnp.exp(theta["log_epsilon"]),
            correction1=1.0 - b1**count,
            correction2=1.0 - b2**count,
        )
