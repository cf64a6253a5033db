"""Which rule a config meta-trains: its name, and the architecture's settings.

``config.rule`` holds a name of :mod:`mulo.optimizers` and settings of that
architecture; those left None are, first, what ``config.rule_defaults`` has for the
name, and else the architecture's own defaults. So ``--config.rule.name=velo`` is enough
to train another rule, and what a config file prefers for one is not passed to another.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import config_dict

import mulo
from mulo import _hints as hints

DEFAULT = "small_fc"  # Also the rule of runs whose config names none, the oldest.

# The steps of VeLO are too small at first for a few of them to show in a loss.
_SMOKE_STEPS = {"velo": {"interp_mult": 1.0, "step_mult": 0.3}}


def names() -> tuple[str, ...]:
    """Rules that can be meta-trained: the learned ones of the registry."""
    known = mulo.optimizers.names()
    return tuple(name for name in known if mulo.optimizers.info(name).learned)


def section(name: str = DEFAULT) -> dict[str, Any]:
    """``config.rule`` of a config file: the name, and every setting of every rule.

    Settings are declared with their types and without values, for the command line to
    fill in.
    """
    declared: dict[str, Any] = {"name": name}
    for rule in names():
        for key, default in _settings(rule).items():
            declared[key] = config_dict.placeholder(type(default))
    return declared


def smoke() -> dict[str, dict[str, Any]]:
    """``config.rule_defaults`` of ``smoke`` variants: every rule at its smallest.

    Compiling is most of their time, so networks have one hidden layer besides.
    """
    found = {}
    for name in names():
        smallest = mulo.optimizers.info(name).architecture.TINY
        layers = {key: 1 for key in _settings(name) if key.endswith("hidden_layers")}
        found[name] = {**smallest, **layers, **_SMOKE_STEPS.get(name, {})}
    return found


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Name of a config's rule with the settings that are given for it.

    Args:
      config: A plain nested dict with ``rule`` and, unless it was written out already,
        ``rule_defaults``. A rule without a name is `DEFAULT`, as in runs saved before
        rules had names.

    Raises:
      ValueError: If the rule is unknown or not learned, or has no such setting.
    """
    given = {"name": DEFAULT, **config["rule"]}
    defaults = config.get("rule_defaults", {})  # Not in config.json.
    for name in (given["name"], *defaults):
        if name not in names():
            raise ValueError(
                f"rule.name must be a rule with something to learn, got {name!r}"
                f"{hints.nearest(name, names())} Known: {', '.join(names())}."
            )
    for name, settings in defaults.items():
        _check(f"rule_defaults.{name}", name, settings)
    given = {key: value for key, value in given.items() if value is not None}
    name = given.pop("name")
    _check("rule", name, given)
    return {"name": name, **defaults.get(name, {}), **given}


def make(config: Mapping[str, Any], *, mup: bool) -> mulo.Rule:
    """Make the architecture a config describes.

    Args:
      config: As for `resolve`.
      mup: Whether it is to train tasks under μP.

    Raises:
      ValueError: As `resolve`, or if a setting is out of range.
    """
    given = resolve(config)
    rule = mulo.optimizers.info(given.pop("name"))
    defaults = rule.mup_defaults if mup else {}
    return rule.architecture(**{**defaults, **given, **rule.fixed})


def _settings(name: str) -> dict[str, Any]:
    """Settings of a rule that do not belong to its name, with their defaults."""
    known = mulo.optimizers.info(name)
    fields = dataclasses.fields(known.architecture)
    return {f.name: f.default for f in fields if f.name not in known.fixed}


def _check(where: str, name: str, given: Iterable[str]) -> None:
    """Raise ValueError, naming the nearest, for a setting that the rule lacks."""
    known = _settings(name)
    for key in given:
        if key not in known:
            fixed = key in mulo.optimizers.info(name).fixed
            raise ValueError(
                f"{where}: {name} has no setting {key!r}{hints.nearest(key, known)}"
                f"{' It belongs to the name.' if fixed else ''} It takes: "
                f"{', '.join(known)}."
            )
