"""Names of optimizers for the sweep and the coordinate check.

A name stands for a rule of :mod:`mulo.optimizers`, the parametrization it is meant for
and how its step size is found. The rule's own name is its form under the standard
parametrization, ``mu_`` before it the one under μP; ``mulo`` is any learned optimizer
under μP, ``null_adam`` and ``null_muon`` are those of
:mod:`evaluate.optimizers.null_models`. `build` makes the optax transformation; the
learning rate may be traced, so one compiled program serves a whole grid.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
import optax

import mulo
from evaluate.optimizers import null_models, rates, schedules
from mulo import _hints as hints

Hyper = Mapping[str, float]  # Counts are int.

THETA_INIT = "theta_init"

# How the step size is found: tuned as a learning rate; as meta-trained, with a factor
# λ = 1 on it; or one learning rate for everything, as null models have.
StepSize = Literal["rate", "lambda", "fixed"]
Kind = Literal["learned", "hand-designed", "null"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """What the name of an optimizer means.

    ``standard`` says that the sweep trains it on the standard-parametrization twin of
    the task (``sp-…``). ``learned`` ones need a theta.
    """

    name: str
    rule: str | None = None  # Of :mod:`mulo.optimizers`; None: any learned, or none.
    standard: bool
    learned: bool
    step_size: StepSize
    grid: tuple[float, ...]  # Learning rates that a sweep tunes over unless told.
    coord_learning_rate: float  # What the coordinate check uses unless told.
    hyper: Hyper  # Other hyper-parameters, those that are numbers, and their defaults.
    schedule: str = "cosine"  # What it is meant to have.
    needs_num_steps: bool = False  # Its steps depend on the length of the run.
    # Whether several runs in one program are faster: not where an expensive part is
    # skipped on most steps, since side by side nothing is skipped.
    side_by_side: bool = True
    make: Callable[..., optax.GradientTransformation]

    def __reduce__(self):
        return get, (self.name,)  # `make` is a closure, which does not pickle.

    @property
    def kind(self) -> Kind:
        """A null model, a learned or a hand-designed rule."""
        if self.step_size == "fixed":
            return "null"
        return "learned" if self.learned else "hand-designed"


# Names for rules with a setting of their own, beside the rule's plain name.
_VARIANTS: tuple[tuple[str, str, Hyper], ...] = (
    # Under μP, SOAP is meant to be used in blocks of fixed size.
    ("soap_blocked", "soap", {"block_size": 16}),
)
# Numbers that are None unless given, with the value that means the same.
_OPTIONAL: Mapping[str, Hyper] = {
    "sgd": {"momentum": 0.0},
    "soap": {"precondition_frequency": 10},
}
_EVERY_FEW_STEPS = ("soap", "shampoo")
_OWN_SCHEDULE = ("schedule_free_adamw",)


def _specs() -> list[OptimizerSpec]:
    specs = [
        OptimizerSpec(
            name="mulo",
            standard=False,
            learned=True,
            step_size="lambda",
            grid=(1.0,),
            coord_learning_rate=1.0,
            hyper={},
            schedule="constant",
            needs_num_steps=True,  # Some are told.
            make=_learned(None),
        )
    ]
    specs.append(
        dataclasses.replace(
            specs[0],
            name=THETA_INIT,  # A learned rule's theta before meta-training.
            step_size="fixed",
        )
    )
    named = [(name, name, {}) for name in mulo.optimizers.names()]
    for name, rule, extra in (*named, *_VARIANTS):
        for standard in (True, False):
            specs.append(_spec(name, rule, extra, standard))
    specs += [
        OptimizerSpec(
            name=name,
            standard=False,
            learned=False,
            step_size="fixed",
            grid=(null_models.LEARNING_RATES[name],),
            coord_learning_rate=null_models.LEARNING_RATES[name],
            hyper={},
            make=_null(make),
        )
        for name, make in null_models.NULL_MODELS.items()
    ]
    return specs


def _spec(name: str, rule: str, extra: Hyper, standard: bool) -> OptimizerSpec:
    info = mulo.optimizers.info(rule)
    full_name = name if standard else f"mu_{name}"
    hyper: dict[str, float] = {}
    # Celo2 and ELO leave the step size to the user.
    own_step = info.learned and not any(
        field.name == "learning_rate" for field in dataclasses.fields(info.architecture)
    )
    found = rates.of(full_name, standard=standard, learned=own_step)
    if not info.learned:
        numbers = {k: v for k, v in info.hyper.items() if type(v) in (int, float)}
        hyper = {**numbers, **_OPTIONAL.get(rule, {}), **extra}
        if standard:
            del hyper["base_width"]  # Means nothing there.
    constant = own_step or rule in _OWN_SCHEDULE
    return OptimizerSpec(
        name=full_name,
        rule=rule,
        standard=standard,
        learned=info.learned,
        step_size="lambda" if own_step else "rate",
        grid=found.grid,
        coord_learning_rate=found.coord,
        hyper=hyper,
        schedule="constant" if constant else "cosine",
        needs_num_steps=info.needs_num_steps,
        side_by_side=rule not in _EVERY_FEW_STEPS,
        make=_learned(rule) if info.learned else _hand_designed(rule, standard),
    )


def _learned(rule: str | None):
    def make(learning_rate, *, scalings, pretrained, num_steps):
        options = {
            "mup": scalings,
            "learning_rate": learning_rate,
            "num_steps": num_steps,
        }
        if rule is None:
            return pretrained.transform(**options)
        return mulo.optimizers.get(rule, theta=pretrained, **options)

    return make


def _hand_designed(rule: str, standard: bool):
    def make(learning_rate, *, scalings, pretrained, num_steps, **hyper):
        del pretrained, num_steps
        return mulo.optimizers.get(
            rule,
            learning_rate=learning_rate,
            mup=None if standard else scalings,
            **hyper,
        )

    return make


def _null(factory):
    def make(learning_rate, *, scalings, pretrained, num_steps):
        del pretrained, num_steps
        return factory(learning_rate, mup=scalings)

    return make


SPECS: Mapping[str, OptimizerSpec] = {spec.name: spec for spec in _specs()}


def get(name: str) -> OptimizerSpec:
    """Return the optimizer called ``name``.

    Raises:
      ValueError: If there is none; names the nearest and lists all.
    """
    if name not in SPECS:
        raise ValueError(
            f"optimizer must be one of {', '.join(SPECS)}; got {name!r}"
            f"{hints.nearest(name, SPECS)}"
        )
    return SPECS[name]


def resolve_hyper(name: str, given: Hyper) -> Hyper:
    """Return the hyper-parameters of ``name`` with defaults filled in.

    Args:
      name: An optimizer's name.
      given: What differs from the defaults, counts perhaps as floats; never the
        learning rate.

    Raises:
      ValueError: If the optimizer or one of the hyper-parameters is unknown, or a
        count is not a whole number.
    """
    spec = get(name)
    for key, value in given.items():
        if key not in spec.hyper:
            raise ValueError(
                f"{name}.{key} is not a hyper-parameter that is a number; {name} takes "
                f"{', '.join(spec.hyper) or 'none'}{hints.nearest(key, spec.hyper)}"
            )
        if isinstance(spec.hyper[key], int) and value != int(value):
            raise ValueError(f"{name}.{key} must be a whole number; got {value}.")
    return {k: type(value)(given.get(k, value)) for k, value in spec.hyper.items()}


def build(
    name: str,
    learning_rate: jax.typing.ArrayLike,
    *,
    scalings: Any,
    pretrained: mulo.Pretrained | None = None,
    num_steps: int | None = None,
    hyper: Hyper | None = None,
    schedule: str = "constant",
) -> optax.GradientTransformationExtraArgs:
    """Make the optax transformation called ``name``.

    Args:
      name: An optimizer's name.
      learning_rate: shape=(); may be traced. Of rules that are used as meta-trained, a
        factor on their step.
      scalings: The task's μP tree, or None for a task in the standard parametrization,
        where μ-rules become their plain twins.
      pretrained: The theta of a learned optimizer.
      num_steps: Training horizon, for rules and schedules that need it.
      hyper: What differs from the optimizer's defaults, of :func:`resolve_hyper`.
      schedule: One of `schedules.NAMES`; multiplies the learning rate.

    Raises:
      ValueError: If the name is unknown, a learned optimizer comes without a theta,
        or the schedule cannot be given to this rule.
    """
    spec = get(name)
    check_schedule(name, schedule)
    if spec.learned and pretrained is None:
        raise ValueError(
            f"optimizer {name!r} needs a theta; give --theta, or --theta=random for "
            "one that was never meta-trained"
        )
    rate: Any = learning_rate
    if schedule != "constant":
        if num_steps is None:
            raise ValueError(f"schedule {schedule!r} needs num_steps; got None.")
        factor = schedules.factor(schedule, num_steps)
        rate = lambda count: learning_rate * factor(count)  # noqa: E731
    transform = spec.make(
        rate,
        scalings=scalings,
        pretrained=pretrained,
        num_steps=num_steps,
        **{**spec.hyper, **(hyper or {})},
    )
    return optax.with_extra_args_support(transform)


def check_schedule(name: str, schedule: str) -> None:
    """Raise ValueError if there is no such schedule or the rule brings its own."""
    schedules.check(schedule, schedules.NAMES)
    if get(name).rule in _OWN_SCHEDULE and schedule != "constant":
        raise ValueError(
            f"{name} takes the place of a schedule: give it 'constant', got "
            f"{schedule!r}."
        )


def takes(name: str, pretrained: mulo.Pretrained) -> bool:
    """Whether a theta is of the rule that a name stands for; ``mulo`` is any."""
    spec = get(name)
    if not spec.learned or spec.rule is None:
        return spec.learned
    info = mulo.optimizers.info(spec.rule)
    return isinstance(pretrained.rule, info.architecture) and all(
        getattr(pretrained.rule, key) == value for key, value in info.fixed.items()
    )


def under_mup(pretrained: mulo.Pretrained) -> str:
    """Return the name of a theta's rule under μP; ``mulo`` if its step is learned."""
    for name, spec in SPECS.items():
        if spec.learned and not spec.standard and spec.step_size == "rate":
            if takes(name, pretrained):
                return name
    return "mulo"


def check_theta(name: str, pretrained: mulo.Pretrained) -> None:
    """See whether an optimizer can be made of a theta, without any network.

    Raises:
      ValueError: If not; under μP some settings of a rule are refused.
    """
    scalings = None
    if not get(name).standard:
        scalings = {"w": mulo.mup.Scaling("hidden", 2, 2)}
    build(name, 1.0, scalings=scalings, pretrained=pretrained, num_steps=1)


def fingerprint(pretrained: mulo.Pretrained) -> str:
    """Return the sha256 of a learned optimizer: its rule and every number of theta.

    Equal for the same theta under any file name or format, different when a constant of
    the rule (say, the step multiplier) changes.
    """
    digest = hashlib.sha256(repr(pretrained.rule).encode())
    leaves = jax.tree_util.tree_leaves_with_path(pretrained.theta)
    for path, leaf in sorted(
        (jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves
    ):
        digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
