"""A loaded theta, and the optax transformation it makes."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from mulo._checks import numbers
from mulo._designed.weight_decay import (
    WeightDecay,
    WeightDecayRule,
    check_weight_decay,
    remove_weights,
)
from mulo._learned.rule import Rule
from mulo._transforms import float32 as wrappers


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Pretrained:
    """A theta that was loaded, with the architecture it belongs to.

    Attributes:
      rule: The architecture, such as :class:`mulo.SmallFC`.
      theta: Meta-parameters, a pytree of float32 ``jax.Array``.
      card: What the file says about itself.
    """

    rule: Rule
    theta: Any
    card: Mapping[str, Any]

    def __repr__(self) -> str:
        """Five lines: the rule, theta's size, where it is from and how it is used."""
        fields = dataclasses.fields(self.rule)
        values = {f: getattr(self.rule, f.name) for f in fields}
        changed = [f"{f.name}={v!r}" for f, v in values.items() if v != f.default]
        settings = ", ".join(changed)
        size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(self.theta))
        run = self.card.get("meta_training", {})
        told = [
            ", ".join(run.get("tasks", ())) or "unknown tasks",
            f"{self.card.get('meta_step', 'unknown')} meta-steps",
        ]
        use = ["mup=mup.infer(narrow, params)"]
        use += ["num_steps=…"] if self.rule.NEEDS_NUM_STEPS else []
        return "\n".join(
            (
                f"Pretrained {type(self.rule).__name__}({settings})",
                f"  theta: {size:,} meta-parameters",
                f"  parametrization: {self.card.get('parametrization', 'unknown')}",
                f"  meta-trained: {'; '.join(told)}",
                f"  use: .transform({', '.join(use)})",
            )
        )

    def transform(
        self,
        *,
        mup: Any = None,
        learning_rate: optax.ScalarOrSchedule | None = None,
        weight_decay: WeightDecay = 0.0,
        weight_decay_rule: WeightDecayRule = "independent",
        num_steps: int | None = None,
        schedule: Literal["progress"] | None = "progress",
    ) -> optax.GradientTransformationExtraArgs:
        """Make the optimizer.

        Args:
          mup: Tree of :class:`mulo.mup.Scaling` for the parameters. None for the
            standard parametrization, unless theta was meta-trained under μP (its card's
            ``parametrization``): there its steps are far too large, and the standard
            parametrization must be asked for as ``"standard"``.
          learning_rate: Float or schedule; None is what was meta-trained. For rules
            that leave the step size to the user (Celo2, ELO: those with a
            ``rule.learning_rate``), parameter units per step. For all others a factor
            on the whole step, 1 by default.
          weight_decay: Fraction of a parameter removed per step and learning rate,
            beside the learned update (decoupled); a number, a schedule or None for
            none.
          weight_decay_rule: ``"independent"``: the same fraction for every leaf, at
            any width. ``"coupled"``: times the leaf's μP multiplier, which is 1
            without ``mup``.
          num_steps: Length of the run, for architectures that need it; SmallFC does
            not.
          schedule: None for LearnedMuon at a constant rate, without ``num_steps``.

        Returns:
          A transformation whose updates are added to the parameters.

        Raises:
          ValueError: If theta was meta-trained under μP and there is no ``mup``, the
            rule of weight decay is unknown, the learning rate is negative or not
            finite, or as the rule's own ``transform``. At update, if
            gradients or state do not fit. A state of other parameters is not told
            apart where its arrays broadcast against these.
        """
        check_weight_decay(weight_decay_rule, weight_decay)
        mup = self._mup_tree(mup)
        if learning_rate is not None:
            numbers.check_learning_rate(learning_rate)
        rule = self.rule
        if schedule != "progress" and not rule.HAS_SCHEDULE:
            raise ValueError(
                f"{type(self.rule).__name__} has no schedule to leave out, got "
                f"schedule={schedule!r}."
            )
        options = rule.options(
            num_steps=num_steps, learning_rate=1.0, schedule=schedule
        )
        if learning_rate is None:
            learning_rate = getattr(rule, "learning_rate", 1.0)
        chain = optax.chain(
            rule.transform(self.theta, mup=mup, **options),
            remove_weights(
                weight_decay,
                mup if weight_decay_rule == "coupled" else None,
                rule.mup_rule,
                rule.base_width,
            ),
            _scale(learning_rate),
        )
        chain = wrappers.in_float32(chain)
        return wrappers.with_known_state(type(rule).__name__, chain)

    def _mup_tree(self, mup: Any) -> Any:
        """The tree that was given, None for the standard parametrization."""
        if isinstance(mup, str):
            if mup != "standard":
                raise ValueError(
                    'mup must be a tree of mulo.mup.Scaling or "standard", got '
                    f"{mup!r}."
                )
            return None
        if mup is None and self.card.get("parametrization") == "mup":
            raise ValueError(
                "This theta was meta-trained under μP, where steps are scaled by the "
                "parameters' roles: give mup=mulo.mup.infer(narrow, params), with "
                "narrow the shapes of the same model at another width. "
                'mup="standard" uses it without, at your own risk; got None.'
            )
        if mup is not None and self.card.get("parametrization") == "standard":
            warnings.warn(
                "This theta was meta-trained in the standard parametrization: under μP "
                "its steps are multiplied by factors it has never met.",
                stacklevel=3,
            )
        return mup


def _scale(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    # Learned updates are steps already: they are added, so the sign stays.
    if callable(learning_rate):
        return optax.scale_by_schedule(learning_rate)

    def update_fn(updates, state, params=None):
        del params
        return jax.tree.map(
            lambda u: (u * learning_rate).astype(u.dtype), updates
        ), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)
