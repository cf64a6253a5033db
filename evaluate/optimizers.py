"""The one registry of optimizer names, for the sweep and the coordinate check.

A name stands for a rule, the parametrization it is meant for and how its step size is
found. ``build`` makes the optax transformation; the learning rate may be traced, so one
compiled program serves a whole grid.
"""

import dataclasses
import difflib
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

import mulo

Hyper = Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """What the name of an optimizer means.

    ``standard`` says that the sweep trains it on the standard-parametrization twin of
    the task (``sp-…``). ``learned`` ones need a theta and take a learning rate that
    multiplies their step, 1 by default; the others are tuned on a grid.
    """

    name: str
    summary: str  # One line, for the report.
    standard: bool
    learned: bool
    coord_learning_rate: float  # What the coordinate check uses unless told.
    hyper: Hyper  # Other hyper-parameters and their defaults.
    make: Callable[..., optax.GradientTransformation]


def _learned(learning_rate, *, scalings, pretrained, num_steps):
    return pretrained.transform(
        mup=scalings, learning_rate=learning_rate, num_steps=num_steps
    )


def _mu_adam(learning_rate, *, scalings, pretrained, num_steps, **hyper):
    del pretrained, num_steps
    return mulo.mu_adam(learning_rate, mup=scalings, **hyper)


def _mu_sgd(learning_rate, *, scalings, pretrained, num_steps, **hyper):
    del pretrained, num_steps
    return mulo.mu_sgd(learning_rate, mup=scalings, **hyper)


def _plain(make):
    def build(learning_rate, *, scalings, pretrained, num_steps, **hyper):
        del scalings, pretrained, num_steps
        return make(learning_rate, **hyper)

    return build


_SPECS = (
    OptimizerSpec(
        name="mulo",
        summary="learned optimizer (theta) under μP",
        standard=False,
        learned=True,
        coord_learning_rate=1.0,
        hyper={},
        make=_learned,
    ),
    OptimizerSpec(
        name="small_fc",
        summary="learned optimizer (sp_theta) under the standard parametrization",
        standard=True,
        learned=True,
        coord_learning_rate=1.0,
        hyper={},
        make=_learned,
    ),
    OptimizerSpec(
        name="mu_adam",
        summary="Adam under μP",
        standard=False,
        learned=False,
        coord_learning_rate=0.03,
        hyper={"b1": 0.9, "b2": 0.999, "eps": 1e-8, "base_width": 1.0},
        make=_mu_adam,
    ),
    OptimizerSpec(
        name="mu_sgd",
        summary="SGD with momentum under μP",
        standard=False,
        learned=False,
        coord_learning_rate=0.3,
        hyper={"momentum": 0.0, "base_width": 1.0},
        make=_mu_sgd,
    ),
    OptimizerSpec(
        name="adam",
        summary="Adam, standard parametrization",
        standard=True,
        learned=False,
        coord_learning_rate=1e-3,
        hyper={"b1": 0.9, "b2": 0.999, "eps": 1e-8},
        make=_plain(optax.adam),
    ),
    OptimizerSpec(
        name="adamw",
        summary="AdamW, standard parametrization",
        standard=True,
        learned=False,
        coord_learning_rate=1e-3,
        hyper={"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 1e-4},
        make=_plain(optax.adamw),
    ),
    OptimizerSpec(
        name="sgd",
        summary="SGD with momentum, standard parametrization",
        standard=True,
        learned=False,
        coord_learning_rate=0.1,
        hyper={"momentum": 0.0},
        make=_plain(optax.sgd),
    ),
)
SPECS: Mapping[str, OptimizerSpec] = {spec.name: spec for spec in _SPECS}


def hint(name: str, known: Mapping[str, Any]) -> str:
    """Return ``"; did you mean 'x'?"``, or nothing when no known name is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def get(name: str) -> OptimizerSpec:
    """Return the optimizer called ``name``.

    Raises:
      ValueError: If there is none; names the nearest and lists all.
    """
    if name not in SPECS:
        raise ValueError(
            f"optimizer must be one of {', '.join(SPECS)}; got {name!r}"
            f"{hint(name, SPECS)}"
        )
    return SPECS[name]


def resolve_hyper(name: str, given: Hyper) -> dict[str, float]:
    """Return the hyper-parameters of ``name`` with defaults filled in.

    Args:
      name: An optimizer's name.
      given: What differs from the defaults; never the learning rate.

    Raises:
      ValueError: If the optimizer or one of the hyper-parameters is unknown.
    """
    spec = get(name)
    for key in given:
        if key not in spec.hyper:
            raise ValueError(
                f"{name}.{key} is not a hyper-parameter; {name} takes "
                f"{', '.join(spec.hyper) or 'none'}{hint(key, spec.hyper)}"
            )
    return {key: float(given.get(key, value)) for key, value in spec.hyper.items()}


def build(
    name: str,
    learning_rate: jax.typing.ArrayLike,
    *,
    scalings: Any,
    pretrained: mulo.Pretrained | None = None,
    num_steps: int | None = None,
    hyper: Hyper | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Make the optax transformation called ``name``.

    Args:
      name: An optimizer's name.
      learning_rate: shape=(); may be traced.
      scalings: The task's μP tree, or None for a task in the standard parametrization,
        where μ-rules become their plain twins.
      pretrained: The theta of a learned optimizer.
      num_steps: Training horizon, for rules that need it.
      hyper: What differs from the optimizer's defaults.

    Raises:
      ValueError: If the name or a hyper-parameter is unknown, or a learned optimizer
        comes without a theta.
    """
    spec = get(name)
    if spec.learned and pretrained is None:
        raise ValueError(
            f"optimizer {name!r} needs a theta; give --theta (or --sp_theta for the "
            "standard parametrization); in the coordinate check, --theta=random will do"
        )
    transform = spec.make(
        learning_rate,
        scalings=scalings,
        pretrained=pretrained,
        num_steps=num_steps,
        **resolve_hyper(name, hyper or {}),
    )
    return optax.with_extra_args_support(transform)


def random_pretrained(seed: int = 0) -> mulo.Pretrained:
    """Make a small learned optimizer that was never meta-trained.

    Its steps are a hundredth of what weights are, of no use and yet large enough for
    ten of them to change what a network does: enough for a coordinate check, which
    asks how a step's effect depends on width and not whether it helps.

    Args:
      seed: Of theta.
    """
    rule = mulo.SmallFC(
        hidden_size=4,
        hidden_layers=1,
        step_mult=0.01,
        initial_momentum_decays=(0.9,),
        initial_adafactor_decays=(0.9,),
    )
    return mulo.Pretrained(rule, rule.init(jax.random.key(seed)), {})


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
