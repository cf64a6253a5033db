"""LearnedMuon: what Muon under μP lacks, learned; theta = 0 is the nominal rule.

Hidden and input matrices are orthogonalized, the output's and all other arrays make an
Adam-like step, and the rate of all is annealed linearly in progress x = t/T, the share
of the run that is done. On top of that theta holds, for each role (input, hidden,
output, vector),

* how momenta of several decays are mixed into one direction d,
* the exponent γ of the normalization: a step's length is ``s^(1-γ)``, where s is the
  root mean square of ``d/√v``, about 1 where gradients agree and small where they are
  noise,
* how much of d is left where it points against the latest gradient ("caution"), and
* a network from x, T, s and the number of hidden arrays to the logarithm of a factor on
  the rate and, with ``weight_decay_unit``, to a decoupled weight decay;

and, for all roles together, a per-parameter MLP that corrects d (``mlp_units``, off by
default). Nothing depends on the gradients' scale. Time enters as progress: a longer run
is a slower one, not one out of distribution.

Axis names: R roles, K gradient and momenta, F features of the schedule, L arrays that
have a step, A and B sides of a matrix.

References:
  Jordan et al., `Muon <https://kellerjordan.github.io/posts/muon/>`_, 2024.
  Liang et al., `Cautious optimizers <https://arxiv.org/abs/2411.16085>`_, 2024.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mulo._checks import masked_leaves, numbers
from mulo._checks import rule_inputs as inputs
from mulo._designed import muon_kinds as kinds_lib
from mulo._learned import learned_muon_leaf as leaf_lib
from mulo._learned import schedule as schedule_lib
from mulo._learned import stacks as stacks_lib
from mulo._learned.rule import Rule
from mulo._transforms import float32 as wrappers
from mulo.mup._views import sees_weights

Theta = Any  # {"mix", "exponent", "caution", "schedule": {"w0", …}}, float32 arrays.
Schedule = Literal["progress"] | None

ROLES = kinds_lib.ROLES


class LearnedMuonState(NamedTuple):
    """State of :meth:`LearnedMuon.transform`; float32 whatever the parameters are."""

    count: jax.typing.ArrayLike  # shape=(), int32. Updates applied so far.
    momenta: Any  # A tuple of trees as params. Moving averages of the gradients.
    rms: Any  # As params. Moving averages of the squared gradients.


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedMuon(Rule):
    """Architecture of the learned Muon.

    Attributes:
      step_size: Root mean square of a hidden matrix's step at the peak of the schedule
        and fan_in 1, parameter units.
      role_factors: Factors on it for input, hidden, output and vector arrays.
      initial_exponents: γ of each role at theta's zero offset, 1 for steps of fixed
        length.
      initial_cautions: Of each role, the share that is taken from d where it points
        against the gradient, at zero offset; 1 for cautious optimizers' mask.
      initial_momentum_decays: Decay rates of the momenta per step, fixed.
      initial_rms_decay: Decay rate of the second moment per step, fixed.
      initial_matrix_mix: Weight of the gradient and of each momentum in the direction
        of hidden and input arrays, at zero offset.
      initial_mix: The same for the other roles.
      warmup_frac: Share of the run with a linear warm-up.
      final_frac: Rate at the end of the linear decay, as a share of its peak.
      schedule_units: Hidden units of the schedule's network.
      weight_decay_unit: Share of a matrix that decays per step, at the peak of the
        schedule, where its network says 1; it says 0 at zero offset, and less counts as
        0. 0 for a rule that learns none.
      mlp_units: Units of both hidden layers of the per-parameter MLP; 0 for none.
      ns_steps: Newton-Schulz iterations.
      max_input_dim: Input matrices with a longer side, such as the embeddings of a
        large vocabulary, make an Adam-like step: orthogonalizing them would cost more
        than the rest of the network.
      base_width: Width at which a hidden matrix gets the plain step under μP.
    """

    step_size: float = 0.03
    role_factors: tuple[float, ...] = (0.7, 1.0, 2.0, 0.7)
    initial_exponents: tuple[float, ...] = (1.0, 1.0, 0.5, 0.5)
    initial_cautions: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    initial_momentum_decays: tuple[float, ...] = (0.8, 0.95, 0.99)
    initial_rms_decay: float = 0.99
    initial_matrix_mix: tuple[float, ...] = (0.05, 0.0, 0.95, 0.0)
    initial_mix: tuple[float, ...] = (0.0, 0.7, 0.3, 0.0)
    warmup_frac: float = 0.02
    final_frac: float = 0.01
    schedule_units: int = 8
    weight_decay_unit: float = 0.0
    mlp_units: int = 0
    ns_steps: int = 5
    max_input_dim: int = 10_000
    base_width: float = 1.0

    FEATURE_VERSION: ClassVar[int] = 2
    NEEDS_NUM_STEPS: ClassVar[bool] = True
    HAS_SCHEDULE: ClassVar[bool] = True
    LATER_FIELDS: ClassVar[tuple[str, ...]] = ("weight_decay_unit",)

    @property
    def mup_rule(self) -> str:
        """The rule of :func:`mulo.mup.update_multipliers` for its matrices."""
        return kinds_lib.MUP_RULE

    def __post_init__(self):
        """Check every field."""
        inputs.check_positive(self, ("step_size", "base_width", "final_frac"))
        inputs.check_sizes(self, ("schedule_units", "ns_steps", "max_input_dim"))
        inputs.check_decays(self, ("initial_momentum_decays",))
        inputs.check_single_decays(
            self, ("initial_rms_decay", "warmup_frac", "weight_decay_unit")
        )
        if type(self.mlp_units) is not int or self.mlp_units != 0:
            inputs.check_sizes(self, ("mlp_units",))
        momenta = 1 + len(self.initial_momentum_decays)
        for name, length, what in (
            ("role_factors", len(ROLES), "one for each of " + ", ".join(ROLES)),
            ("initial_exponents", len(ROLES), "one for each of " + ", ".join(ROLES)),
            ("initial_cautions", len(ROLES), "one for each of " + ", ".join(ROLES)),
            ("initial_matrix_mix", momenta, "one for the gradient and each momentum"),
            ("initial_mix", momenta, "one for the gradient and each momentum"),
        ):
            values = getattr(self, name)
            listed = isinstance(values, list | tuple) or getattr(values, "ndim", 0) == 1
            if not listed or len(values) != length:
                raise ValueError(
                    f"{name} must be {length} numbers, {what}; got {values!r}."
                )
            for value in values:
                numbers.check_finite(name, value)
            object.__setattr__(self, name, tuple(map(float, values)))  # From JSON.

    def init(self, key: jax.Array) -> Theta:
        """Meta-parameters of the nominal rule: all that acts is zero.

        Args:
          key: PRNG key of the first layers, which do nothing until the last one does.

        Returns:
          Float32 arrays: ``mix`` (R, K), ``exponent`` (R,) and ``caution`` (R,),
          offsets from the initial values; ``schedule`` with ``w0`` (F, units), ``b0``,
          ``w1`` (units, R), ``b1``, R and three more with ``weight_decay_unit``; with
          ``mlp_units``, ``mlp`` with ``w0`` … ``b2``.
        """
        keys = jax.random.split(key)
        outputs = len(ROLES) + bool(self.weight_decay_unit) * len(schedule_lib.DECAYED)
        theta = {
            "mix": jnp.zeros((len(ROLES), 1 + len(self.initial_momentum_decays))),
            "exponent": jnp.zeros(len(ROLES)),
            "caution": jnp.zeros(len(ROLES)),
            "schedule": _network(
                keys[0],
                (schedule_lib.NUM_FEATURES, self.schedule_units, outputs),
            ),
        }
        if self.mlp_units:
            features = 1 + len(self.initial_momentum_decays) + leaf_lib.MLP_FEATURES
            sizes = (features, self.mlp_units, self.mlp_units, 1)
            theta["mlp"] = _network(keys[1], sizes)
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), theta)

    def extend(self, theta: Theta, rule: Rule) -> Theta:
        """Meta-parameters for this rule that act as those of a smaller one.

        Args:
          theta: Meta-parameters of ``rule``.
          rule: This rule without its weight decay, its MLP or both.

        Returns:
          Meta-parameters of this rule; what was added starts as `init` starts it.

        Raises:
          ValueError: If the rules differ in anything else, or theta does not fit.
        """
        if not isinstance(rule, LearnedMuon):
            raise ValueError(
                "Only a theta of LearnedMuon can be extended, got one of "
                f"{type(rule).__name__}."
            )
        smaller = dataclasses.replace(
            self, weight_decay_unit=rule.weight_decay_unit, mlp_units=rule.mlp_units
        )
        if smaller != rule or any(
            getattr(rule, option) not in (0, getattr(self, option))
            for option in ("weight_decay_unit", "mlp_units")
        ):
            fields = (field.name for field in dataclasses.fields(self))
            differ = [k for k in fields if getattr(self, k) != getattr(rule, k)]
            raise ValueError(
                "Only weight_decay_unit and mlp_units can be added to a rule, where it "
                f"has 0; these differ: {', '.join(differ)}."
            )
        rule.check_theta(theta)

        def fill(new, old):
            return new.at[tuple(slice(n) for n in old.shape)].set(old)

        drawn = self.init(jax.random.key(0))
        return {
            name: jax.tree.map(fill, start, theta[name]) if name in theta else start
            for name, start in drawn.items()
        }

    def learned_rates(self, theta: Theta) -> Mapping[str, jax.Array]:
        """Rate of a hidden matrix without noise along a run of 1,000 steps."""
        found = {}
        for percent in (1, 10, 50, 90):
            rates, _ = schedule_lib.rates(
                self,
                theta["schedule"],
                jnp.float32(10.0 * percent),
                jnp.float32(1_000.0),
                jnp.zeros(1),
                [ROLES.index("hidden")],
            )
            found[f"rate_at_{percent}_percent"] = rates[0]
        return found

    @sees_weights()
    def transform(
        self,
        theta: Theta,
        *,
        mup: Any | None = None,
        num_steps: Any = None,
        schedule: Schedule = "progress",
    ) -> optax.GradientTransformationExtraArgs:
        """Make the optimizer described by theta.

        Gradient entries that are not finite count as zero.

        Args:
          theta: Meta-parameters as `init` returns them; may be traced.
          mup: Tree like the parameters with a :class:`mulo.mup.Scaling` per leaf (see
            :func:`mulo.mup.infer`), which says what is hidden and how far it may step
            at its width. Without it arrays of two axes and more are hidden matrices
            whose last axis is the output side, all others vectors.
          num_steps: T, length of the run in updates; may be traced. Later steps keep
            the rate of the last one; outside of jit a warning says so.
          schedule: ``"progress"``: annealed over ``num_steps``, as meta-trained. None:
            a constant rate, for loops without an end: the peak of the decay, with what
            the network says at a quarter of a run; ``num_steps`` is not used then.

        Returns:
          A transformation whose updates are to be added to the parameters and keep
          their shapes and dtypes. ``update`` needs ``params`` only with ``mlp_units``
          or ``weight_decay_unit``, and ignores keyword arguments (``value=`` and the
          like).

        Raises:
          ValueError: If theta does not fit, num_steps is missing or less than 1, or the
            schedule is unknown; at init and update, if a leaf is not of a real floating
            dtype or has no μP scaling (names it).
        """
        theta = self.take_theta(theta)
        if schedule not in ("progress", None):
            raise ValueError(f'schedule must be "progress" or None, got {schedule!r}.')
        horizon = None
        if schedule is not None:
            if num_steps is None:
                raise ValueError(
                    "LearnedMuon anneals by progress and must know how long the run "
                    "is: give num_steps, the number of updates, as in "
                    "transform(num_steps=10_000), or schedule=None for a constant "
                    "rate; got None."
                )
            horizon = inputs.check_num_steps("LearnedMuon", num_steps)
        warn_of_end = inputs.end_warner(
            "LearnedMuon", None if schedule is None else num_steps
        )

        def init_fn(params):
            if not masked_leaves.is_placeholder(params):
                kinds_lib.kinds(params, mup, self.base_width, self.max_input_dim)
            return LearnedMuonState(
                jnp.zeros((), jnp.int32),
                tuple(wrappers.zeros(params) for _ in self.initial_momentum_decays),
                wrappers.zeros(params),
            )

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args
            for option in ("mlp_units", "weight_decay_unit"):
                if getattr(self, option):
                    inputs.require_params(f"LearnedMuon with {option}", params)
            count = optax.safe_increment(state.count)
            warn_of_end(count)
            t = jnp.asarray(count, jnp.float32)
            grads, treedef = jax.tree.flatten(updates, is_leaf=masked_leaves.is_masked)
            values = grads if params is None else treedef.flatten_up_to(params)
            momenta = [treedef.flatten_up_to(m) for m in state.momenta]
            states = [
                (tuple(m[i] for m in momenta), rms)
                for i, rms in enumerate(treedef.flatten_up_to(state.rms))
            ]
            kinds = treedef.flatten_up_to(
                kinds_lib.kinds(updates, mup, self.base_width, self.max_input_dim)
            )
            positions = masked_leaves.live(grads)
            corrections = leaf_lib.corrections(self, t)

            directions, signals, new_states = list(grads), {}, list(states)
            for stack in stacks_lib.stacks(grads, values, states, positions, kinds):
                kind = kinds[stack.positions[0]]

                def one(grad, param, leaf, kind=kind):
                    return leaf_lib.direction(
                        self, theta, corrections, kind, grad, param, leaf
                    )

                outs = stacks_lib.update(one, stack)
                for i, out in zip(stack.positions, outs, strict=True):
                    directions[i], signals[i], new_states[i] = out
            if positions:
                rates, decays = schedule_lib.rates(
                    self,
                    theta["schedule"],
                    t,
                    horizon,
                    jnp.stack([signals[i] for i in positions]),
                    [kinds[i].role for i in positions],
                )
                sizes = stacks_lib.apart((rates, decays), len(positions))
                for i, (rate, decay) in zip(positions, sizes, strict=True):
                    step = -rate * directions[i]
                    if decay is not None:
                        step -= decay * jnp.asarray(values[i], jnp.float32)
                    directions[i] = step.astype(jnp.result_type(grads[i]))
            return treedef.unflatten(directions), LearnedMuonState(
                count,
                tuple(
                    treedef.unflatten([leaf[0][k] for leaf in new_states])
                    for k in range(len(momenta))
                ),
                treedef.unflatten([leaf[1] for leaf in new_states]),
            )

        rule = optax.GradientTransformationExtraArgs(init_fn, update_fn)
        return optax.with_extra_args_support(
            optax.chain(wrappers.only_finite("LearnedMuon"), rule)
        )


def _network(key, sizes):
    """A dense network whose last layer is zero."""
    layers = {}
    keys = jax.random.split(key, len(sizes) - 1)
    for i, (k, num_in, num_out) in enumerate(
        zip(keys, sizes[:-1], sizes[1:], strict=True)
    ):
        last = i == len(sizes) - 2
        weights = jax.random.normal(k, (num_in, num_out)) * num_in**-0.5
        layers[f"w{i}"] = jnp.zeros((num_in, num_out)) if last else weights
        layers[f"b{i}"] = jnp.zeros(num_out)
    return layers
