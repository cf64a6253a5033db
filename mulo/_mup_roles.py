"""Roles of μP, inferred from the shapes of one model at two widths.

Public names are re-exported by :mod:`mulo.mup`, which says what each role gets.
"""

import dataclasses
import difflib
import fnmatch
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import jax
import numpy as np

Role = Literal["input", "hidden", "output"]

ROLES: tuple[str, ...] = get_args(Role)

# A leaf of this name (flax) is added to, or scales, what a layer produces: all its axes
# lie on the output side, also when there are several (DenseGeneral biases). Short names
# such as "b" are left out: people call matrices that.
_OUTPUT_SIDE_NAMES = ("bias", "scale")

# flax's projections to heads: kernels (in, heads, head_dim), output side (heads,
# head_dim) whichever of the two grows.
_HEAD_PROJECTIONS = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How one leaf takes part in μP. Not a pytree: one leaf in ``jax.tree.map``.

    Attributes:
      role: ``"input"``, ``"hidden"`` or ``"output"``.
      fan_in: Product of the axis sizes on the input side; 1 if there are none.
      fan_out: Product of the axis sizes on the output side; 1 if there are none.
      finite: True if no axis of the leaf grows with width: every rule leaves it alone.
      copies: Independent weights stacked in the leaf, such as the layers of
        ``nn.scan``; the leaf has ``fan_in * fan_out * copies`` entries.
    """

    role: Role
    fan_in: int
    fan_out: int
    finite: bool = False
    copies: int = 1

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(
                f"A μP role is one of {', '.join(ROLES)}; got {self.role!r}."
            )
        for name in ("fan_in", "fan_out", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {self!r}.")

    @property
    def size(self) -> int:
        """Entries of the leaf this belongs to."""
        return self.fan_in * self.fan_out * self.copies


def infer(
    narrow: Any, target: Any, *, overrides: Mapping[str, Role | Scaling] | None = None
) -> Any:
    """Infer every leaf's role from the shapes of one model at two widths.

    The last infinite axis and what follows it is the output side, every axis before it
    the input side, as in variance scaling: Dense ``(in, out)``, Conv ``(kh, kw, in,
    out)``, attention ``(in, heads, head_dim)`` and ``(heads, head_dim, out)``. Where
    that leaves a choice (``(d, heads, head_dim)`` with infinite ``head_dim``), the
    split that makes both sides equal is taken, and without one there is an error. One
    infinite axis followed by exactly one finite axis is a readout. Leaves called
    ``bias`` or ``scale`` lie on the output side whole; of ``query``, ``key`` and
    ``value`` kernels with three axes, the last two do.

    Layers stacked in one leaf (``nn.scan``: ``(layers, in, out)``) cannot be told from
    a convolution: give them an override with ``copies``.

    Args:
      narrow: Arrays or ``jax.ShapeDtypeStruct`` of the model at some other width;
        only shapes are read. The same depth and data as ``target``.
      target: The same for the width to be trained; fans are read from it.
      overrides: Role, or whole :class:`Scaling`, by path pattern: ``fnmatch`` on paths
        such as ``"params/readout/kernel"``.

    Returns:
      A tree of :class:`Scaling` with the structure of ``target``.

    Raises:
      ValueError: If the trees differ in more than axis sizes, nothing differs, a leaf
        is ambiguous (all name the leaf), or an override matches nothing.
    """
    narrow_shapes = {name: _shape(x) for name, x in named_leaves(narrow)}
    target_shapes = {name: _shape(x) for name, x in named_leaves(target)}
    _check_same_names(narrow_shapes, target_shapes, "narrow", "target")
    given = _resolve_overrides(overrides or {}, target_shapes)
    for name, shape in target_shapes.items():
        if len(shape) != len(narrow_shapes[name]):
            raise ValueError(
                f"{label(name)} has {len(narrow_shapes[name])} axes in the narrow "
                f"model and {len(shape)} in the target: {narrow_shapes[name]} and "
                f"{shape}. Both must be the same model at two widths."
            )
    _check_directions(narrow_shapes, target_shapes)
    scalings = [
        _infer_leaf(name, narrow_shapes[name], shape, given.get(name))
        for name, shape in target_shapes.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(target), scalings)


def _infer_leaf(
    name: str, narrow: tuple[int, ...], shape: tuple[int, ...], given: Any
) -> Scaling:
    if isinstance(given, Scaling):
        if given.size != math.prod(shape):
            raise ValueError(
                f"The override of {label(name)} has fan_in × fan_out × copies = "
                f"{given.size}, but the leaf has {math.prod(shape)} entries {shape}."
            )
        return given
    infinite = [k for k, (a, b) in enumerate(zip(narrow, shape, strict=True)) if a != b]
    finite = not infinite
    if given is not None:
        return _overridden(name, shape, infinite, given)
    # Boxed parameters (flax partitioning, nnx) add a "value" of their own to the path.
    if name.removesuffix("/value").rpartition("/")[2] in _OUTPUT_SIDE_NAMES:
        return Scaling("input", 1, math.prod(shape), finite)
    last = len(shape) - 1
    if _projects_to_heads(name, shape) and not finite:
        role = "input" if infinite[0] > 0 else "output" if infinite == [0] else "hidden"
        return _cut(role, shape, 1)
    if finite or infinite == [last]:
        return _cut("input", shape, max(last, 0), finite)
    if len(infinite) == 1:
        if infinite == [last - 1]:
            return _cut("output", shape, last)
        raise _ambiguous(name, narrow, shape, "several finite axes follow the only one")
    # Every cut with infinite axes on both sides; Dense and Conv have only one.
    cuts = range(infinite[0] + 1, infinite[-1] + 1)
    if len(cuts) > 1:
        both = (narrow, shape)
        cuts = [
            k for k in cuts if all(math.prod(s[:k]) == math.prod(s[k:]) for s in both)
        ]
        if len(cuts) != 1:
            raise _ambiguous(
                name, narrow, shape, "its sides can be cut in several ways"
            )
    return _cut("hidden", shape, cuts[0])


def _projects_to_heads(name: str, shape: tuple[int, ...]) -> bool:
    *_, module, leaf = ("", *name.removesuffix("/value").split("/"))
    return len(shape) == 3 and leaf == "kernel" and module in _HEAD_PROJECTIONS


def _overridden(
    name: str, shape: tuple[int, ...], infinite: list[int], role: Role
) -> Scaling:
    last = len(shape) - 1
    finite = not infinite
    if role == "input":
        return _cut("input", shape, infinite[0] if infinite else max(last, 0), finite)
    if last < 0 or (role == "hidden" and last < 1):
        raise ValueError(
            f"{label(name)} of shape {shape} has too few axes to be {role!r}; "
            "use 'input'."
        )
    if role == "output" and last in infinite:
        # Used transposed, as a tied embedding (vocabulary, width) is.
        fan_in = math.prod(shape[k] for k in infinite)
        return Scaling("output", fan_in, math.prod(shape) // fan_in)
    cut = infinite[-1] if role == "hidden" and infinite and infinite[-1] > 0 else last
    return _cut(role, shape, cut, finite)


def _cut(role: Role, shape: tuple[int, ...], k: int, finite: bool = False) -> Scaling:
    return Scaling(role, math.prod(shape[:k]), math.prod(shape[k:]), finite)


def _ambiguous(
    name: str, narrow: tuple[int, ...], shape: tuple[int, ...], why: str
) -> ValueError:
    return ValueError(
        f"The μP role of {label(name)} is ambiguous: {narrow} in the narrow model, "
        f"{shape} in the target, and of the axes that differ, {why}. Say what it is: "
        f'overrides={{"{name}": mulo.mup.Scaling(role, fan_in, fan_out)}}, where '
        "fan_in × fan_out × copies is the number of entries (a fused query, key and "
        "value is 3 copies); a role alone will do where the last axis is the output "
        "side."
    )


def _check_directions(
    narrow: Mapping[str, tuple[int, ...]], target: Mapping[str, tuple[int, ...]]
) -> None:
    grown = shrunk = None
    for name, shape in target.items():
        for a, b in zip(narrow[name], shape, strict=True):
            grown = name if b > a else grown
            shrunk = name if b < a else shrunk
    if grown is None and shrunk is None:
        raise ValueError(
            "Nothing differs between the narrow and the target model: every leaf has "
            "the same shape in both, so μP cannot tell which axes grow with width. "
            "Give the same model at two different widths."
        )
    if grown is not None and shrunk is not None:
        raise ValueError(
            f"From the narrow to the target model {label(grown)} grows "
            f"({narrow[grown]} to {target[grown]}) and {label(shrunk)} shrinks "
            f"({narrow[shrunk]} to {target[shrunk]}). Change the width alone, not the "
            "data or the vocabulary."
        )


def _resolve_overrides(
    overrides: Mapping[str, Role | Scaling], names: Iterable[str]
) -> dict[str, Role | Scaling]:
    names = list(names)
    given: dict[str, Role | Scaling] = {}
    for pattern, role in overrides.items():
        if not isinstance(role, Scaling) and role not in ROLES:
            raise ValueError(
                f"overrides[{pattern!r}] must be one of {', '.join(ROLES)} or a "
                f"Scaling, got {role!r}."
            )
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise ValueError(
                f"The override {pattern!r} matches no leaf{nearest(pattern, names)} "
                f"Leaves: {', '.join(names)}."
            )
        for name in matched:
            if given.setdefault(name, role) != role:
                raise ValueError(
                    f"Two overrides match {label(name)} and disagree: "
                    f"{given[name]!r} and {role!r} (from {pattern!r})."
                )
    return given


def _check_same_names(
    a: Mapping[str, Any], b: Mapping[str, Any], a_is: str, b_is: str
) -> None:
    for only, other, is_in, not_in in ((a, b, a_is, b_is), (b, a, b_is, a_is)):
        for name in only:
            if name not in other:
                raise ValueError(
                    f"{label(name)} is in the {is_in} model and not in the {not_in} "
                    "one. Both must be the same model at two widths."
                )


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    return [(keystr(path), leaf) for path, leaf in flatten(tree)]


def flatten(tree: Any, is_leaf: Any = None) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]


def keys(path: Any) -> tuple[str, ...]:
    # Boxes count for nothing: nnx hands optimizers its parameters without them.
    boxed = path and path[-1] == jax.tree_util.GetAttrKey("value")
    return tuple(keystr((key,)) for key in (path[:-1] if boxed else path))


def keystr(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(leaf.shape) if hasattr(leaf, "shape") else np.shape(leaf)


def label(name: str) -> str:
    return f"Leaf {name!r}" if name else "The only leaf"


def nearest(name: Any, known: Iterable[str]) -> str:
    if not isinstance(name, str):
        return "."
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."
