"""What learned rules have in common."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import optax

from mulo._checks import rule_inputs as inputs


class Rule(abc.ABC):
    """A learned optimizer's architecture; with a theta it makes an optimizer.

    Those below are frozen dataclasses, whose fields are settings that `save` writes to
    a card; a rule is an entry of :mod:`mulo.optimizers`, its own file and its tests.

    Attributes:
      FEATURE_VERSION: Changes when a theta would act differently.
      LATER_FIELDS: Settings that cards of this version may lack: their defaults change
        nothing.
      NEEDS_NUM_STEPS: Whether `transform` must be told the length of the run.
      NEEDS_LOSS: Whether ``update`` must be given ``value=loss``.
      HAS_LEARNING_RATE: Whether the size of the step is the user's: `transform` takes
        ``learning_rate``, and the field of that name is its default.
      HAS_SCHEDULE: Whether `transform` takes ``schedule=None``, for loops without an
        end.
      TINY: Sizes of the smallest instance that is worth a test.
    """

    FEATURE_VERSION: ClassVar[int] = 1
    LATER_FIELDS: ClassVar[tuple[str, ...]] = ()
    NEEDS_NUM_STEPS: ClassVar[bool] = False
    NEEDS_LOSS: ClassVar[bool] = False
    HAS_LEARNING_RATE: ClassVar[bool] = False
    HAS_SCHEDULE: ClassVar[bool] = False
    TINY: ClassVar[dict[str, Any]] = {}
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    @abc.abstractmethod
    def base_width(self) -> float:
        """Width at which a hidden matrix gets the plain step under μP."""

    @property
    def mup_rule(self) -> str:
        """Whose multipliers its steps need, as in mulo.mup.update_multipliers."""
        return "adam"

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Any:
        """Draw meta-parameters: a tree of float32 arrays."""

    @abc.abstractmethod
    def transform(
        self, theta: Any, *args: Any, **kwargs: Any
    ) -> optax.GradientTransformationExtraArgs:
        """Make the optimizer described by theta, which may be traced.

        Args:
          theta: Meta-parameters as `init` returns them.
          *args: None.
          **kwargs: ``mup``, a tree like the parameters with a
            :class:`mulo.mup.Scaling` per leaf (see :func:`mulo.mup.infer`), None for
            the standard parametrization; and `options`.
        """

    def check_theta(self, theta: Any) -> None:
        """Raise ValueError, naming the leaf, unless theta fits this architecture."""
        inputs.check_theta(self, theta)

    def extend(self, theta: Any, rule: "Rule") -> Any:
        """Meta-parameters for this rule that act as those of another.

        Raises:
          ValueError: Unless it is the same, or one that this adds options to.
        """
        if rule != self:
            raise ValueError("The two rules differ.")
        return theta

    def options(self, **given: Any) -> Mapping[str, Any]:
        """Those of ``num_steps``, ``learning_rate`` and ``schedule`` that it takes."""
        takes = {
            "num_steps": self.NEEDS_NUM_STEPS,
            "learning_rate": self.HAS_LEARNING_RATE,
            "schedule": self.HAS_SCHEDULE,
        }
        return {name: value for name, value in given.items() if takes[name]}
