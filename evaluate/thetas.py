"""Which theta each learned optimizer of a sweep uses, as told on the command line.

One entry per theta: ``NAME=WHERE`` for the optimizer of that name, or ``WHERE`` alone
for every one under μP whose rule it is of and that has none by name. WHERE is a
released name, a folder or a file, or ``random`` for a small theta that was never
meta-trained.
"""

import dataclasses
import re
from collections.abc import Sequence

import mulo
from evaluate import optimizers

RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Theta:
    """A theta and where it came from."""

    pretrained: mulo.Pretrained
    source: str  # As given: "random", or a released name or path.


def assign(
    names: Sequence[str], theta: Sequence[str] = (), sp_theta: str | None = None
) -> dict[str, Theta]:
    """Load thetas and give them to the optimizers of a sweep.

    Args:
      names: The sweep's optimizers.
      theta: Entries as this module describes; one may hold several that have a name,
        with commas between.
      sp_theta: WHERE, for the learned optimizers under the standard parametrization.

    Returns:
      Theta by optimizer, for those that got one.

    Raises:
      ValueError: If an entry names an optimizer that is unknown, not learned or not in
        the sweep, or one that has a theta already; if a theta is of another rule; or
        if nothing in the sweep can use it.
    """
    found: dict[str, Theta] = {}
    shared: list[tuple[str, bool, str]] = []  # Flag, for SP or not, where.
    for name, where in parse(theta):
        if name is None:
            shared.append(("theta", False, where))
        elif name in found:
            raise ValueError(
                f"--theta gives {name} a theta twice: {found[name].source} and {where}."
            )
        else:
            _check_name(name, names)
            found[name] = _load(name, where)
    if len(shared) > 1:
        raise ValueError(
            "--theta may hold one theta without a name, got "
            f"{', '.join(where for *_, where in shared)}; write --theta=NAME=WHERE, "
            f"with NAME among {_learned(names)}."
        )
    if sp_theta:
        shared.append(("sp_theta", True, sp_theta))
    by_name = set(found)
    for flag, standard, where in shared:
        takers = [
            name
            for name in names
            if optimizers.get(name).learned
            and optimizers.get(name).standard == standard
            and name not in by_name
        ]
        found |= _share(flag, where, takers, names)
    return found


def parse(entries: Sequence[str]) -> list[tuple[str | None, str]]:
    """Split entries into names, None where there is none, and where thetas lie.

    >>> parse(["a/b", "velo=c,celo=random"])
    [(None, 'a/b'), ('velo', 'c'), ('celo', 'random')]
    """
    found: list[tuple[str | None, str]] = []
    for entry in entries:
        for part in re.split(r",(?=\w+=)", entry):
            match = re.fullmatch(r"(\w+)=(.+)", part)
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


def _load(name: str, where: str) -> Theta:
    if where == RANDOM:
        return Theta(optimizers.random_pretrained(name), where)
    pretrained = mulo.load(where)
    if not optimizers.takes(name, pretrained):
        raise ValueError(
            f"--theta={name}={where} is a theta of another rule, "
            f"{_describe(pretrained)}."
        )
    optimizers.check_theta(name, pretrained)
    return Theta(pretrained, where)


def _share(
    flag: str, where: str, takers: Sequence[str], names: Sequence[str]
) -> dict[str, Theta]:
    """Give one theta to all that can take it."""
    what = ""
    if where != RANDOM:
        pretrained = mulo.load(where)
        takers = [name for name in takers if optimizers.takes(name, pretrained)]
        what = f", {_describe(pretrained)},"
    found = {name: _load(name, where) for name in takers}
    if not found:
        raise ValueError(
            f"--{flag}={where}{what} fits no optimizer of the sweep that needs it "
            f"({', '.join(names)}): drop it, or add one to --optimizers."
        )
    return found


def _describe(pretrained: mulo.Pretrained) -> str:
    fitting = [name for name in optimizers.SPECS if optimizers.takes(name, pretrained)]
    return f"{type(pretrained.rule).__name__} (for {' or '.join(fitting)})"


def _learned(names: Sequence[str]) -> str:
    return ", ".join(name for name in names if optimizers.get(name).learned) or "none"
