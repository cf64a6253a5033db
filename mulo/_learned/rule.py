"""What learned rules have in common."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from mulo._checks import rule_inputs as inputs
from mulo._checks.leaf_names import named_leaves

# Sizes up to these are compared leaf by leaf, however few arrays there are.
_MANY_LAYERS = 100
_MANY_UNITS = 100_000


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
        """Raise ValueError, naming the leaf, unless theta fits this architecture.

        Arrays of any real floating dtype do.
        """
        have = inputs.shapes(theta)
        self.check_extent(have)
        want = inputs.shapes(jax.eval_shape(self.init, jax.random.key(0)))
        for name in sorted(want.keys() | have.keys()):
            if name not in have:
                raise ValueError(f"theta lacks leaf {name!r}, {self} needs it.")
            if name not in want:
                raise ValueError(f"theta has leaf {name!r}, unknown to {self}.")
            if want[name] != have[name]:
                raise ValueError(
                    f"theta leaf {name!r} must have shape {want[name]} for {self}, "
                    f"got {have[name]}."
                )
        for name, leaf in named_leaves(theta):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise ValueError(
                    f"theta leaf {name!r} must be of a real floating dtype, float32 at "
                    f"best, got {jnp.result_type(leaf)}."
                )

    def take_theta(self, theta: Any) -> Any:
        """Return theta in float32, the dtype of every rule's arithmetic and state.

        Raises:
          ValueError: As `check_theta`.
        """
        self.check_theta(theta)
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), theta)

    def check_extent(self, have: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError if a size is far beyond what these arrays can belong to.

        Every size of an architecture is an axis of some array of its theta, and every
        layer has arrays of its own. To be called before the shapes of a theta are
        worked out, which takes as long as there are layers: a damaged file may have
        described this architecture.

        Args:
          have: Shapes of the arrays by name.
        """
        layers = max(_MANY_LAYERS, len(have))
        units = max(_MANY_UNITS, *(n for shape in have.values() for n in shape), 0)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int):
                continue
            is_depth = field.name.endswith("_layers")
            if value > (layers if is_depth else units):
                most = (
                    f"holds {len(have)} arrays"
                    if is_depth
                    else f"has no axis longer than {units}"
                )
                raise ValueError(
                    f"{field.name} of {type(self).__name__} is {value}, and theta "
                    f"{most}: they do not belong together."
                )

    def extend(self, theta: Any, rule: "Rule") -> Any:
        """Meta-parameters for this rule that act as those of another.

        Raises:
          ValueError: Unless it is the same, or one that this adds options to.
        """
        if rule != self:
            raise ValueError("The two rules differ.")
        return theta

    def learned_rates(self, theta: Any) -> Mapping[str, jax.Array]:
        """What theta sets that has a name: rates, decays, a schedule; shape=() each.

        For those who watch meta-training; most of a theta is in no such number.
        """
        del theta
        return {}

    def options(self, **given: Any) -> Mapping[str, Any]:
        """Those of ``num_steps``, ``learning_rate`` and ``schedule`` that it takes."""
        takes = {
            "num_steps": self.NEEDS_NUM_STEPS,
            "learning_rate": self.HAS_LEARNING_RATE,
            "schedule": self.HAS_SCHEDULE,
        }
        return {name: value for name, value in given.items() if takes[name]}
