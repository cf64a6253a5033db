"""Every optimizer of the field by name, under either parametrization.

    tx = mulo.optimizers.get("soap", learning_rate=0.1, mup=scalings, block_size=128)
    tx = mulo.optimizers.get("velo", theta=theta, num_steps=10_000)

With ``mup=None`` a name is the rule under the standard parametrization; with a μP tree
the same name is its μP form. `names` lists them, `info` says what each needs and which
hyper-parameters it takes.
"""

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import optax

from mulo import _hints as hints
from mulo._checks import rule_inputs as inputs
from mulo._designed import adafactor as adafactor_lib
from mulo._designed import adam as adam_lib
from mulo._designed import lion as lion_lib
from mulo._designed import schedule_free as schedule_free_lib
from mulo._designed import sgd as sgd_lib
from mulo._designed.muon import muon
from mulo._designed.shampoo import shampoo
from mulo._designed.soap import soap
from mulo._learned.annealed_fc import AnnealedFC
from mulo._learned.celo import Celo, CeloAdam
from mulo._learned.celo2 import Celo2
from mulo._learned.elo import ELO
from mulo._learned.learned_adam import LearnedAdam
from mulo._learned.learned_muon import LearnedMuon
from mulo._learned.lstm_ff import LSTMFF
from mulo._learned.rule import Rule
from mulo._learned.small_fc import SmallFC
from mulo._learned.velo import VeLO
from mulo._thetas import files as theta_files
from mulo._thetas.pretrained import Pretrained
from mulo._transforms.state_dtype import with_state_dtype

# What becomes of gradient entries that are not finite: they count as zero (or as very
# large, if infinite); the leaf they are in makes no step; or the leaf is lost. They
# never make another leaf's step anything but a number.
NonFinite = Literal["ignored", "skips its leaf", "stays in its leaf"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What the name of an optimizer means.

    Attributes:
      name: What `get` calls it.
      summary: One line, for reports.
      make: Hand-designed: the factory, called with the learning rate. Learned: the
        architecture's class.
      non_finite: What becomes of gradient entries that are not finite.
      fixed: Settings that belong to the name.
      mup_defaults: Defaults of the μP form that differ.
    """

    name: str
    summary: str
    make: Callable[..., Any]
    non_finite: NonFinite = "stays in its leaf"
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mup_defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def learned(self) -> bool:
        """Whether it needs a theta."""
        return isinstance(self.make, type)

    @property
    def architecture(self) -> type[Rule]:
        """``make`` of one that is learned; ValueError for a hand-designed one."""
        if not (isinstance(self.make, type) and issubclass(self.make, Rule)):
            raise ValueError(f"{self.name} is not learned and has no architecture.")
        return self.make

    @property
    def needs_num_steps(self) -> bool:
        """Whether it must know the length of the run."""
        return getattr(self.make, "NEEDS_NUM_STEPS", False)

    @property
    def needs_loss(self) -> bool:
        """Whether ``update`` must be given ``value=loss``."""
        return getattr(self.make, "NEEDS_LOSS", False)

    @property
    def hyper(self) -> dict[str, Any]:
        """Hyper-parameters that `get` takes, with their defaults."""
        taken: dict[str, Any] = {}
        for name, parameter in inspect.signature(self.make).parameters.items():
            if name not in ("learning_rate", "mup", *self.fixed):
                taken[name] = parameter.default
        if self.learned:
            taken |= {"weight_decay": 0.0, "weight_decay_rule": "independent"}
            if getattr(self.make, "HAS_SCHEDULE", False):
                taken["schedule"] = "progress"
        return taken


_SKIPS = "skips its leaf"
_IGNORES = "ignored"

_OPTIMIZERS = (
    Optimizer(name="sgd", summary="SGD, with momentum if given", make=sgd_lib.sgd),
    Optimizer(name="adam", summary="Adam", make=adam_lib.adam),
    Optimizer(name="adamw", summary="AdamW", make=adam_lib.adamw),
    Optimizer(name="nadamw", summary="AdamW, Nesterov", make=adam_lib.nadamw),
    Optimizer(
        name="schedule_free_adamw",
        summary="AdamW that averages instead of a schedule",
        make=schedule_free_lib.schedule_free_adamw,
    ),
    Optimizer(name="lion", summary="Lion: sign of a momentum", make=lion_lib.lion),
    Optimizer(
        name="adafactor",
        summary="Adafactor: factored second moments",
        make=adafactor_lib.adafactor,
    ),
    Optimizer(name="muon", summary="Muon for matrices, AdamW for the rest", make=muon),
    Optimizer(
        name="shampoo",
        summary="Shampoo with grafting",
        make=shampoo,
        non_finite=_SKIPS,
    ),
    Optimizer(
        name="soap",
        summary="SOAP: Adam in Shampoo's eigenbasis",
        make=soap,
        non_finite=_SKIPS,
    ),
    Optimizer(
        name="learned_adam",
        summary="Adam with meta-learned hyper-parameters",
        make=LearnedAdam,
        non_finite=_IGNORES,
    ),
    Optimizer(
        name="learned_muon",
        summary="Muon and Adam with learned momenta, normalization and schedules",
        make=LearnedMuon,
        non_finite=_IGNORES,
    ),
    Optimizer(
        name="small_fc",
        summary="SmallFC: per-parameter MLP (small_fc_lopt, μLO)",
        make=SmallFC,
    ),
    Optimizer(
        name="annealed_fc",
        summary="SmallFC by progress, annealed",
        make=AnnealedFC,
    ),
    Optimizer(
        name="elo",
        summary="ELO: SmallFC with fixed decays and a learning rate",
        make=ELO,
        non_finite=_IGNORES,
    ),
    Optimizer(
        name="celo2",
        summary="Celo2: learned, orthogonalized directions; Adam for the rest",
        make=Celo2,
        non_finite=_IGNORES,
        fixed={"orthogonalize": True},
    ),
    Optimizer(
        name="celo2_base",
        summary="Celo2-base: learned directions of unit length",
        make=Celo2,
        non_finite=_IGNORES,
        fixed={"orthogonalize": False},
    ),
    Optimizer(
        name="velo",
        summary="VeLO: LSTM per tensor, bank of per-parameter MLPs (μVeLO)",
        make=VeLO,
        non_finite=_IGNORES,
        mup_defaults={"param_scale_mult": False},
    ),
    Optimizer(
        name="celo",
        summary="Celo: LSTM scheduler over a per-parameter MLP",
        make=Celo,
        non_finite=_IGNORES,
        mup_defaults={"param_scale_mult": False},
    ),
    Optimizer(
        name="celo_adam",
        summary="Celo-Adam: LSTM scheduler over Adam",
        make=CeloAdam,
        non_finite=_IGNORES,
    ),
    Optimizer(
        name="lstm_ff",
        summary="LSTM-FF: LSTM per tensor steering a per-parameter MLP",
        make=LSTMFF,
        non_finite=_IGNORES,
    ),
)
_BY_NAME = {optimizer.name: optimizer for optimizer in _OPTIMIZERS}


def names() -> tuple[str, ...]:
    """Names that `get` takes."""
    return tuple(_BY_NAME)


def info(name: str) -> Optimizer:
    """Return what a name means.

    Raises:
      ValueError: If there is no such optimizer; names the nearest and lists all.
    """
    if not isinstance(name, str) or name not in _BY_NAME:
        raise ValueError(
            f"No optimizer is called {name!r}{_meant(name)} Known: "
            f"{', '.join(_BY_NAME)}."
        )
    return _BY_NAME[name]


def get(
    name: str,
    *,
    learning_rate: optax.ScalarOrSchedule | None = None,
    mup: Any = None,
    theta: Any = None,
    num_steps: Any = None,
    state_dtype: jax.typing.DTypeLike | None = None,
    **hyper: Any,
) -> optax.GradientTransformationExtraArgs:
    """Make the optimizer called ``name``.

    Args:
      name: One of `names`.
      learning_rate: Float or schedule, parameter units per step. Hand-designed rules
        need one. Learned ones default to what was meta-trained, and those that learn
        their step size too take a factor on it.
      mup: Tree of :class:`mulo.mup.Scaling` for the parameters, for the μP form of the
        rule; None for the standard parametrization (``"standard"`` for a theta that was
        meta-trained under μP).
      theta: Learned rules: meta-parameters as the architecture's ``init`` returns
        them; or a :class:`mulo.Pretrained`, whose architecture is then kept; or a name
        or path, given to :func:`mulo.load`.
      num_steps: Length of the run in updates; for rules that do not need it, not used.
      state_dtype: Dtype that first moments are kept in between steps, as in
        :func:`mulo.with_state_dtype`; None for float32.
      **hyper: Hyper-parameters of `info(name).hyper`: arguments of the factory, or
        fields of the architecture and ``weight_decay`` and ``weight_decay_rule``.
        ``optax.inject_hyperparams``, with ``static_args="name"``, injects the learning
        rate and passes these on as they are.

    Returns:
      A transformation whose updates are added to the parameters.

    Raises:
      ValueError: If the name or a hyper-parameter is unknown (names the nearest), the
        learning rate, theta or num_steps is missing, or theta is of another rule.
    """
    optimizer = info(name)
    if isinstance(hyper.get("hyper"), Mapping):
        hyper |= hyper.pop("hyper")  # As optax.inject_hyperparams hands them over.
    for key in hyper:
        if key not in optimizer.hyper:
            fixed = " It belongs to the name." if key in optimizer.fixed else ""
            raise ValueError(
                f"{name} has no hyper-parameter {key!r}"
                f"{hints.nearest(key, optimizer.hyper)}{fixed} It takes: "
                f"{', '.join(optimizer.hyper)}."
            )
    if optimizer.learned:
        inner = _learned(optimizer, learning_rate, mup, theta, num_steps, hyper)
    else:
        inner = _hand_designed(optimizer, learning_rate, mup, theta, hyper)
    tx = _checked(name, inner)
    return tx if state_dtype is None else with_state_dtype(tx, state_dtype)


def _checked(name, inner):
    """Refuse leaves that are no real floating-point arrays, at init and update."""
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        inputs.check_floating(name, params)
        return inner.init(params)

    def update_fn(updates, state, params=None, **extra_args):
        inputs.check_floating(name, updates)
        return inner.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _hand_designed(optimizer, learning_rate, mup, theta, hyper):
    if theta is not None:
        raise ValueError(
            f"{optimizer.name} is not learned and takes no theta, got "
            f"{type(theta).__name__}."
        )
    if learning_rate is None:
        raise ValueError(
            f"{optimizer.name} needs learning_rate, a float or a schedule; got None."
        )
    hyper = {**optimizer.fixed, **hyper}
    return optimizer.make(learning_rate, mup=mup, **hyper)


def _learned(optimizer, learning_rate, mup, theta, num_steps, hyper):
    if theta is None:
        raise ValueError(
            f"{optimizer.name} is learned and needs theta: give a tree as "
            f"{optimizer.make.__name__}.init returns it, what mulo.load returns, or a "
            "released name."
        )
    if isinstance(theta, (str, os.PathLike)):
        theta = theta_files.load(theta)
    constant = hyper.get("schedule", "progress") is None
    if optimizer.needs_num_steps and num_steps is None and not constant:
        instead = ""
        if "schedule" in optimizer.hyper:
            instead = ", or schedule=None for a constant rate"
        raise ValueError(
            f"{optimizer.name} must know how long the run is: give num_steps, the "
            f"number of updates{instead}; got None."
        )
    of_transform = ("weight_decay", "weight_decay_rule", "schedule")
    options = {k: hyper.pop(k) for k in tuple(hyper) if k in of_transform}
    pretrained = _with_rule(optimizer, mup, theta, hyper)
    return pretrained.transform(
        mup=mup, learning_rate=learning_rate, num_steps=num_steps, **options
    )


def _with_rule(optimizer, mup, theta, hyper):
    """A Pretrained from theta, with the architecture's settings as asked for."""
    if not isinstance(theta, Pretrained):
        defaults = {} if mup in (None, "standard") else optimizer.mup_defaults
        rule = optimizer.make(**{**optimizer.fixed, **defaults, **hyper})
        return Pretrained(rule, theta, {})
    rule = theta.rule
    belongs = type(rule) is optimizer.make and all(
        getattr(rule, key) == value for key, value in optimizer.fixed.items()
    )
    if not belongs:
        raise ValueError(
            f"theta is of another rule than {optimizer.name}, "
            f"{type(rule).__name__}. {_name_of(rule)}"
        )
    return dataclasses.replace(theta, rule=dataclasses.replace(rule, **hyper))


def _name_of(rule: Rule) -> str:
    for optimizer in _OPTIMIZERS:
        if type(rule) is optimizer.make and all(
            getattr(rule, key) == value for key, value in optimizer.fixed.items()
        ):
            return f"Its name is {optimizer.name!r}."
    return f"Known: {', '.join(_BY_NAME)}."


def _meant(name: Any) -> str:
    """What else an unknown name may be: a rule's μP form, a theta, a misspelling."""
    if isinstance(name, str):
        plain = name.removeprefix("mu_")
        if plain != name and plain in _BY_NAME:
            return f"; the μP form of {plain!r} is get({plain!r}, mup=scalings)."
        theta = "mulo-m" if name == "mulo" else name.replace("_", "-")
        if theta in theta_files.released():
            return (
                "; released thetas are what mulo.load is for: "
                f"mulo.load({theta!r}).transform(mup=scalings, num_steps=10_000)."
            )
    return hints.nearest(name, _BY_NAME)


def __dir__():
    return ["NonFinite", "Optimizer", "get", "info", "names"]
