"""Who competes in a sweep: optimizers with their thetas, schedules and step sizes.

A configuration names optimizers; what becomes of a name:

* A hand-designed rule is one contender per schedule asked for.
* ``mulo`` is every theta that comes without a name, under μP, each called after where
  it came from; ``theta_init`` the theta of each of those before its meta-training.
* Any other learned rule is one contender, with the theta given for its name, or the
  public one if that was fetched. Those in ``optional`` may be missing: the report then
  says that they were not run and how to get them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import mulo
import tasks
from evaluate.optimizers import names as optimizers
from evaluate.optimizers import schedules
from evaluate.optimizers import thetas as thetas_lib
from evaluate.sweep import axes
from mulo._thetas import fetched


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """An optimizer as it enters a sweep."""

    label: str  # What reports call it; no two alike.
    spec: optimizers.OptimizerSpec
    schedules: tuple[str, ...]  # The better of several ("auto").
    # Rates tuning begins with; factors on the step of a rule used as meta-trained.
    grid: tuple[float, ...]
    hyper: tuple[tuple[str, float], ...]  # Sorted, all of them.
    theta: thetas_lib.Theta | None
    theta_sha256: str  # Empty for hand-designed ones.
    needs_num_steps: bool  # Whether its steps depend on the length of the run.

    @property
    def optimizer(self) -> str:
        """Its name in :mod:`evaluate.optimizers.names`."""
        return self.spec.name

    @property
    def untrained(self) -> bool:
        """Whether its theta is as it was drawn, before any meta-training."""
        random = self.theta is not None and self.theta.source == thetas_lib.RANDOM
        return random or self.optimizer == optimizers.THETA_INIT

    @property
    def pretrained(self) -> mulo.Pretrained | None:
        """The learned optimizer, if it is one."""
        return None if self.theta is None else self.theta.pretrained


@dataclasses.dataclass(frozen=True)
class NotRun:
    """An optimizer of the configuration that is not in the sweep."""

    optimizer: str
    reason: str  # With what to do about it.


_NO_THETA_TO_BEGIN = (
    "the sweep has no theta with a step size of its own: add mulo to --optimizers, or "
    "give --theta=theta_init=<folder>"
)


def enter(
    config: axes.SweepConfig,
    theta: Sequence[str] = (),
    sp_theta: str | None = None,
) -> tuple[list[Contender], list[NotRun]]:
    """Make the contenders of a sweep.

    Args:
      config: Names the optimizers and the schedules.
      theta: Entries as :mod:`evaluate.optimizers.thetas` describes; unnamed ones take
        the place of the configuration's.
      sp_theta: A theta for the learned rules under the standard parametrization.

    Returns:
      The contenders in the configuration's order, and what is not run.

    Raises:
      ValueError: If a theta is missing, damaged or of another architecture, nothing in
        the sweep can use it, or an optimizer cannot have a schedule.
    """
    found = thetas_lib.assign(
        config.optimizers, [*config.thetas, *theta], sp_theta, given=len(theta)
    )
    contenders: list[Contender] = []
    missing: list[NotRun] = []
    for name in config.optimizers:
        spec = optimizers.get(name)
        if not spec.learned:
            contenders += _with_schedules(config, name, name, None)
            continue
        if name == optimizers.THETA_INIT:
            trained = {f"{x} at init": theta for x, theta in found.unnamed.items()}
            if name in found.named:
                trained = {name: found.named[name]}
            before = len(contenders)
            for label, given in trained.items():
                if optimizers.under_mup(given.pretrained) != "mulo":
                    continue  # Its step size is the user's: there is none to start at.
                untrained = _at_initialization(given)
                made = _with_schedules(config, name, label, untrained)
                # Thetas of one architecture begin alike.
                known = {c.theta_sha256 for c in contenders if c.optimizer == name}
                contenders += [c for c in made if c.theta_sha256 not in known]
            if len(contenders) == before:
                missing.append(NotRun(name, _NO_THETA_TO_BEGIN))
            continue
        if name == "mulo":
            for label, given in found.unnamed.items():
                own = optimizers.under_mup(given.pretrained)
                contenders += _with_schedules(config, own, label, given)
            if not found.unnamed:
                raise ValueError(
                    "optimizer 'mulo' needs a theta: give --theta=<folder>, or leave "
                    f"it out of --optimizers (now {','.join(config.optimizers)}); "
                    "--theta=random is one that was never meta-trained."
                )
            continue
        given = found.named.get(name) or _public(name)
        if given is not None:
            contenders += _with_schedules(config, name, name, given)
        elif name in config.optional:
            missing.append(NotRun(name, _how_to_get(name)))
        else:
            raise ValueError(
                f"optimizer {name!r} needs a theta: give --theta={name}=<folder>, or "
                f"leave it out of --optimizers (now {','.join(config.optimizers)}); "
                f"{name}=random is one that was never meta-trained."
            )
    for label, given in found.extra.items():
        own = optimizers.under_mup(given.pretrained)
        contenders += _with_schedules(config, own, label, given)
    unique: dict[str, Contender] = {}
    for contender in contenders:
        if contender.label in unique:
            raise ValueError(
                f"two contenders are called {contender.label!r}: give one of the "
                "thetas another name, --theta=NAME=WHERE."
            )
        unique[contender.label] = contender
    if not unique:
        raise ValueError(
            "no optimizer of the sweep can be run: "
            + "; ".join(f"{x.optimizer}: {x.reason}" for x in missing)
        )
    return list(unique.values()), missing


def _with_schedules(
    config: axes.SweepConfig,
    optimizer: str,
    label: str,
    theta: thetas_lib.Theta | None,
) -> list[Contender]:
    spec = optimizers.get(optimizer)
    several = len(config.schedules) > 1
    tried: dict[tuple[str, ...], str] = {}
    for asked in config.schedules:
        # A null model is what it is.
        if asked == schedules.DEFAULT or spec.step_size == "fixed":
            tried[spec.schedule,] = label
            continue
        names = schedules.AUTO if asked == "auto" else (asked,)
        for name in names:
            optimizers.check_schedule(optimizer, name)
        tried.setdefault(names, f"{label} · {asked}" if several else label)
    return [
        Contender(
            label=own_label,
            spec=spec,
            schedules=names,
            grid=_grid(config, spec),
            hyper=tuple(sorted(config.hyper.get(optimizer, spec.hyper).items())),
            theta=theta,
            theta_sha256=""
            if theta is None
            else optimizers.fingerprint(theta.pretrained),
            needs_num_steps=spec.needs_num_steps
            if theta is None
            else theta.pretrained.rule.NEEDS_NUM_STEPS,
        )
        for names, own_label in tried.items()
    ]


def _grid(
    config: axes.SweepConfig, spec: optimizers.OptimizerSpec
) -> tuple[float, ...]:
    if spec.step_size == "lambda":
        return tuple(sorted({1.0, *config.lambdas}))
    if spec.step_size == "fixed":
        return spec.grid
    return config.grid(spec.name)


def _at_initialization(theta: thetas_lib.Theta) -> thetas_lib.Theta:
    rule = theta.pretrained.rule
    untrained = jax.tree.map(np.asarray, rule.init(jax.random.key(0)))
    return thetas_lib.Theta(mulo.Pretrained(rule, untrained, {}), "init")


def _public(name: str) -> thetas_lib.Theta | None:
    """The public theta of a rule, if it was fetched."""
    source = optimizers.get(name).rule
    if source is None or source not in fetched.SOURCES:
        return None
    if not (fetched.folder(source) / fetched.RECORD_NAME).is_file():
        return None
    # By its name: the file does not say which of the two Celo2 it is.
    return thetas_lib.load(name, source)


def _how_to_get(name: str) -> str:
    source = optimizers.get(name).rule
    if source in fetched.SOURCES:
        return (
            f"weights missing, get them with python -m mulo.fetch {source}, or give "
            f"--theta={name}=<path>"
        )
    return f"no theta was given: meta-train one and give --theta={name}=<folder>"


def meta_training_sizes(theta: thetas_lib.Theta | None) -> Mapping[str, Any]:
    """Return what a card says of the sizes a theta was meta-trained at.

    Returns:
      ``widths`` and ``depths`` (tuples) and ``horizon_steps`` (shortest and longest
      run), each only if the card tells.
    """
    card = {} if theta is None else theta.pretrained.card
    recipe: Mapping[str, Any] = card.get("meta_training", {})
    found: dict[str, Any] = {}
    try:
        entries = recipe.get("tasks", ())
        names = [name for entry in entries for name in tasks.names.expand(entry)]
    except (ValueError, TypeError):
        return {}
    for field in ("width", "depth"):
        values = {getattr(name, field) for name in names} - {None}
        if values:
            found[f"{field}s"] = tuple(sorted(values))
    # Cards of the oldest runs know one estimator only.
    estimator = recipe.get("estimator", recipe.get("pes", {}))
    lengths = [estimator.get(f"{end}_length_steps") for end in ("min", "max")]
    if all(isinstance(x, int) for x in lengths):
        found["horizon_steps"] = tuple(lengths)
    return found
