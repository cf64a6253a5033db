"""What a caller of :func:`mulo.mup.infer` says of leaves, by path pattern."""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from mulo import _hints as hints
from mulo._checks import leaf_names as trees
from mulo._checks import numbers
from mulo.mup._axes import Layout
from mulo.mup._scaling import ROLES, Role, Scaling

# What overrides say of a leaf: its role ("tied": an embedding's that is the readout
# too), everything, or some fields of Scaling.
Override = Role | Literal["tied"] | Scaling | Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Said:
    """What a caller says of one leaf."""

    override: Override | None = None
    layout: Layout = "in_out"
    stacked: int = 0  # Leading axes that are copies.
    fused: int = 1  # Copies on the output side.


def overrides_of(
    overrides: Mapping[str, Override], names: Iterable[str]
) -> dict[str, Override]:
    names = list(names)
    given: dict[str, Override] = {}
    fields = [f.name for f in dataclasses.fields(Scaling) if f.name != "shape"]
    for pattern, role in overrides.items():
        if isinstance(role, Mapping):
            for field in role:
                if field not in fields:
                    raise ValueError(
                        f"overrides[{pattern!r}] names {field!r}, which is no field of "
                        f"a Scaling{hints.nearest(field, fields)} It has: "
                        f"{', '.join(fields)}."
                    )
        elif not isinstance(role, Scaling) and role not in (*ROLES, "tied"):
            raise ValueError(
                f"overrides[{pattern!r}] must be one of {', '.join(ROLES)}, tied, or a "
                f"Scaling, got {role!r}."
            )
        for name in _matched("The override", pattern, names):
            if given.setdefault(name, role) != role:
                raise ValueError(
                    f"Two overrides match {trees.label(name)} and disagree: "
                    f"{given[name]!r} and {role!r} (from {pattern!r})."
                )
    return given


def by_name(
    what: str, said: Mapping[str, Any], names: Iterable[str], check: Callable[..., None]
) -> dict[str, Any]:
    """What a caller says by pattern, by name; the first pattern that matches holds."""
    names = list(names)
    found: dict[str, Any] = {}
    for pattern, value in said.items():
        check(value, what)
        for name in _matched(f"In {what} the pattern", pattern, names):
            found.setdefault(name, value)
    return found


def counts(what: str, said: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """Numbers by pattern, by name."""
    return by_name(
        what, said, names, lambda n, _: numbers.check_size(f"A number in {what}", n)
    )


def _matched(what: str, pattern: str, names: list[str]) -> list[str]:
    matched = fnmatch.filter(names, pattern)
    if not matched:
        raise ValueError(
            f"{what} {pattern!r} matches no leaf{hints.nearest(pattern, names)} "
            f"Leaves: {', '.join(names)}."
        )
    return matched
