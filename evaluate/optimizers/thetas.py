"""Which theta each learned optimizer of a sweep uses, as told on the command line.

One entry per theta, ``NAME=WHERE`` or ``WHERE``. WHERE is a released name, a folder or
a file, or ``random`` for a small theta that was never meta-trained. NAME is that of a
learned optimizer in the sweep, or a new one: the theta then competes under μP with that
name. Entries without a name stand for ``mulo``, as many as are given, and are called
after where they lie; if the sweep holds no ``mulo``, the one entry without a name is
for every learned optimizer under μP whose rule it is of.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence

import mulo
from evaluate.optimizers import names as optimizers
from evaluate.optimizers import random_thetas

RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Theta:
    """A theta and where it came from."""

    pretrained: mulo.Pretrained
    source: str  # As given: "random", or a released name or path.


@dataclasses.dataclass(frozen=True)
class Assigned:
    """Thetas and whose they are."""

    named: dict[str, Theta]  # By optimizer of the sweep.
    unnamed: dict[str, Theta]  # By label: what ``mulo`` stands for.
    extra: dict[str, Theta]  # By label: further contenders under μP.


def assign(
    names: Sequence[str],
    theta: Sequence[str] = (),
    sp_theta: str | None = None,
    *,
    given: int | None = None,
) -> Assigned:
    """Load thetas and give them to the optimizers of a sweep.

    Args:
      names: The sweep's optimizers.
      theta: Entries as this module describes; one may hold several that have a name,
        with commas between.
      sp_theta: WHERE, for the learned optimizers under the standard parametrization.
      given: How many of the entries, at the end, a person gave on the command line: if
        one of these has no name, or the sweep has no ``mulo``, entries before them
        without a name do not count, and one with a name takes the place of an earlier
        one. None: all.

    Raises:
      ValueError: If an entry names an optimizer that is not learned or not in the
        sweep, or one that has a theta already; if a theta is of another rule; or if
        nothing in the sweep can use it.
    """
    count = len(theta) if given is None else given
    defaults = parse(theta[: len(theta) - count])
    asked = parse(theta[len(theta) - count :])
    if "mulo" not in names or any(name is None for name, _ in asked):
        defaults = [entry for entry in defaults if entry[0] is not None]
    taken = {name for name, _ in asked if name is not None}
    defaults = [entry for entry in defaults if entry[0] not in taken]
    found = Assigned({}, {}, {})
    shared: list[str] = []
    for name, where in [*defaults, *asked]:
        if name is None:
            shared.append(where)
        elif name in found.named or name in found.extra:
            earlier = (found.named | found.extra)[name]
            raise ValueError(
                f"--theta gives {name} a theta twice: {earlier.source} and {where}."
            )
        elif name in optimizers.SPECS:
            _check_name(name, names)
            found.named[name] = load(name, where)
        else:
            found.extra[name] = load("mulo", where)
    if "mulo" in names:
        for where in shared:
            found.unnamed[_label(where, found.unnamed)] = load("mulo", where)
        # By its own name, for those who know it so.
        if "mulo" in found.named:
            found.unnamed.setdefault("mulo", found.named.pop("mulo"))
        shared = []
    if len(shared) > 1:
        raise ValueError(
            "--theta may hold one theta without a name where the sweep has no "
            f"optimizer 'mulo', got {', '.join(shared)}; write --theta=NAME=WHERE, "
            f"with NAME among {_learned(names)}."
        )
    by_name = set(found.named)
    flags = [("theta", False, where) for where in shared]
    if sp_theta:
        flags.append(("sp_theta", True, sp_theta))
    for flag, standard, where in flags:
        takers = [
            name
            for name in names
            if optimizers.get(name).learned
            and optimizers.get(name).standard == standard
            and name not in by_name
        ]
        found.named.update(_share(flag, where, takers, names))
    return found


def _label(where: str, known: Mapping[str, Theta]) -> str:
    """Call a theta after its file or folder, two of one name apart."""
    path = pathlib.PurePath(where.removeprefix("hf://"))
    name = path.stem if path.suffix in (".safetensors", ".state") else path.name
    if name == "theta" and path.parent.name:
        name = path.parent.name  # A run's workdir holds it in a folder of this name.
    label, number = name, 2
    while label in known or label in optimizers.SPECS:
        label, number = f"{name}-{number}", number + 1
    return label


def parse(entries: Sequence[str]) -> list[tuple[str | None, str]]:
    """Split entries into names, None where there is none, and where thetas lie.

    >>> parse(["a/b", "velo=c,celo=random"])
    [(None, 'a/b'), ('velo', 'c'), ('celo', 'random')]
    """
    found: list[tuple[str | None, str]] = []
    for entry in entries:
        for part in re.split(r",(?=[\w-]+=)", entry):
            match = re.fullmatch(r"([\w-]+)=(.+)", part)
            if not part or part.endswith("="):
                raise ValueError(
                    f"--theta must be WHERE or NAME=WHERE, such as runs/demo/theta or "
                    f"mu_velo={RANDOM}; got {part!r}."
                )
            found.append((match[1], match[2]) if match else (None, part))
    return found


def _check_name(name: str, names: Sequence[str]) -> None:
    if not optimizers.get(name).learned:
        raise ValueError(
            f"--theta={name}=… is for an optimizer that is not learned: drop it."
        )
    if name not in names:
        raise ValueError(
            f"--theta={name}=… is for an optimizer that is not in the sweep: add it, "
            f"--optimizers={','.join([*names, name])}, or drop it."
        )


def load(name: str, where: str) -> Theta:
    """Load a theta for an optimizer; ValueError if it is of another rule."""
    if where == RANDOM:
        return Theta(random_thetas.pretrained(name), where)
    pretrained = _in_form(name, mulo.load(where))
    if not optimizers.takes(name, pretrained):
        raise ValueError(
            f"--theta={name}={where} is a theta of another rule, "
            f"{_describe(pretrained)}."
        )
    optimizers.check_theta(name, pretrained)
    return Theta(pretrained, where)


def _in_form(name: str, pretrained: mulo.Pretrained) -> mulo.Pretrained:
    """Give Celo2 the form that a name asks for, where a file does not say which."""
    rule = pretrained.rule
    base = optimizers.get(name).rule == "celo2_base"
    if not (base and isinstance(rule, mulo.Celo2) and rule.orthogonalize):
        return pretrained
    if pretrained.card.get("source") != "PyLO":
        return pretrained
    return dataclasses.replace(
        pretrained, rule=dataclasses.replace(rule, orthogonalize=False)
    )


def _share(
    flag: str, where: str, takers: Sequence[str], names: Sequence[str]
) -> dict[str, Theta]:
    """Give one theta to all that can take it."""
    what = ""
    if where != RANDOM:
        pretrained = mulo.load(where)
        takers = [name for name in takers if optimizers.takes(name, pretrained)]
        what = f", {_describe(pretrained)},"
    found = {name: load(name, where) for name in takers}
    if not found:
        raise ValueError(
            f"--{flag}={where}{what} fits no optimizer of the sweep that needs it "
            f"({', '.join(names)}): drop it, or add one to --optimizers."
        )
    return found


def _describe(pretrained: mulo.Pretrained) -> str:
    fitting = [
        name
        for name in optimizers.SPECS
        if name != optimizers.THETA_INIT and optimizers.takes(name, pretrained)
    ]
    return f"{type(pretrained.rule).__name__} (for {' or '.join(fitting)})"


def _learned(names: Sequence[str]) -> str:
    return ", ".join(name for name in names if optimizers.get(name).learned) or "none"
