"""Roles of μP, inferred from the shapes of one model at two widths.

Public names are re-exported by :mod:`mulo.mup`, which says what each role gets.
"""

import dataclasses
import difflib
import fnmatch
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import jax
import numpy as np

from mulo import _mup_axes as axes_lib
from mulo import _mup_doubts as doubts
from mulo._mup_axes import Layout

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
      copies: Independent weights in the leaf, such as the layers of ``nn.scan``, or 3
        for a fused query, key and value; the leaf has ``fan_in * fan_out * copies``
        entries. Rules step each as if it were a leaf of its own.
      layout: Order of a weight's axes, see :func:`infer`.
      copy_axes: Where the copies are: pairs of an axis of the leaf and the number of
        copies it holds, as its outer factor. Empty: in front (``(copies, …)``) or,
        where that does not fit, at the beginning of the output side.
      tied: True for an embedding that is the readout too: its transpose gives the
        logits, which then are to be multiplied by 1/fan_out.
      shape: Of the leaf, if known; not compared.
    """

    role: Role
    fan_in: int
    fan_out: int
    finite: bool = False
    copies: int = 1
    layout: Layout = "in_out"
    copy_axes: axes_lib.CopyAxes = ()
    tied: bool = False
    shape: tuple[int, ...] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(
                f"A μP role is one of {', '.join(ROLES)}; got {self.role!r}."
            )
        for name in ("fan_in", "fan_out", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {self!r}.")
        _check_layout(self.layout)
        pairs = tuple(sorted((int(k), int(n)) for k, n in self.copy_axes))
        object.__setattr__(self, "copy_axes", pairs)
        if pairs and math.prod(n for _, n in pairs) != self.copies:
            raise ValueError(
                f"copy_axes must hold as many copies as copies says, got {self!r}."
            )
        if self.tied and self.role != "input":
            raise ValueError(f"A tied embedding has the role 'input', got {self!r}.")

    @property
    def size(self) -> int:
        """Entries of the leaf this belongs to."""
        return self.fan_in * self.fan_out * self.copies


# What overrides say of a leaf: its role, everything, or some fields of Scaling.
Override = Role | Scaling | Mapping[str, Any]


def infer(
    narrow: Any,
    target: Any,
    *,
    layout: Layout | Mapping[str, Layout] = "in_out",
    overrides: Mapping[str, Override] | None = None,
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

    Libraries order axes differently. ``layout`` says how:

    ================= ====================== =======================================
    layout            axes                   of
    ================= ====================== =======================================
    ``in_out``        ``(*kernel, in, out)`` flax, haiku; embeddings everywhere
    ``out_in``        ``(out, in, *kernel)`` equinox, torch
    ``in_out_kernel`` ``(in, out, *kernel)`` torch's ConvTranspose
    ``kernel_out_in`` ``(*kernel, out, in)`` flax's ConvTranspose, transpose_kernel
    ================= ====================== =======================================

    Where a weight has a bias beside it, the bias's size must be that of the weight's
    output; if another layout's fits instead, that is an error.

    Layers stacked in one leaf (``nn.scan``: ``(layers, in, out)``) cannot be told from
    a convolution: give them an override with ``copies``.

    Args:
      narrow: Arrays or ``jax.ShapeDtypeStruct`` of the model at some other width;
        only shapes are read. The same depth and data as ``target``. Or a function that
        makes the parameters, of a PRNG key or of nothing: it is traced, not run.
      target: The same for the width to be trained; fans are read from it.
      layout: Of all leaves of two axes and more; or by path pattern, ``fnmatch`` on
        paths such as ``"params/readout/kernel"``: the first that matches holds, and
        ``in_out`` where none does.
      overrides: Role, or whole :class:`Scaling`, by path pattern. A role leaves fans
        and layout as they are inferred, except that ``"output"`` on an embedding is
        read along its rows. A dict changes the fields of Scaling that it names.

    Returns:
      A tree of :class:`Scaling` with the structure of ``target``.

    Raises:
      ValueError: If the trees differ in more than axis sizes, nothing differs, a leaf
        is ambiguous or has another layout than its bias says (all name the leaf), or an
        override or layout matches nothing.
    """
    narrow, target = _evaluated(narrow), _evaluated(target)
    narrow_shapes = {name: _shape(x) for name, x in named_leaves(narrow)}
    target_shapes = {name: _shape(x) for name, x in named_leaves(target)}
    _check_same_names(narrow_shapes, target_shapes, "narrow", "target")
    given = _resolve_overrides(overrides or {}, target_shapes)
    layouts = _resolve_layouts(layout, target_shapes)
    for name, shape in target_shapes.items():
        if len(shape) != len(narrow_shapes[name]):
            raise ValueError(
                f"{label(name)} has {len(narrow_shapes[name])} axes in the narrow "
                f"model and {len(shape)} in the target: {narrow_shapes[name]} and "
                f"{shape}. Both must be the same model at two widths."
            )
    _check_directions(narrow_shapes, target_shapes)
    scalings = {
        name: _scaling(
            name, narrow_shapes[name], shape, given.get(name), layouts.get(name)
        )
        for name, shape in target_shapes.items()
    }
    doubts.check_layouts(scalings, [*given])
    return jax.tree.unflatten(jax.tree.structure(target), list(scalings.values()))


def _evaluated(model: Any) -> Any:
    """What a function makes, abstractly; anything else as it is."""
    # Equinox modules can be called too, but are trees.
    if not callable(model) or not jax.tree_util.all_leaves([model]):
        return model
    required = [
        p
        for p in inspect.signature(model).parameters.values()
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) > 1:
        raise ValueError(
            "A function given to mulo.mup.infer takes a PRNG key or nothing, got one "
            f"of {', '.join(p.name for p in required)}. Wrap it: "
            "lambda key: model.init(key, inputs)."
        )
    return jax.eval_shape(model, *[jax.random.key(0)][: len(required)])


def _scaling(
    name: str,
    narrow: tuple[int, ...],
    shape: tuple[int, ...],
    given: Override | None,
    layout: Layout | None,
) -> Scaling:
    """The scaling of one leaf, with its layout."""
    known: dict[str, Any] = {"shape": shape}
    if layout not in (None, "in_out") and not _is_output_side(name) and len(shape) > 1:
        known["layout"] = layout
        narrow, shape = (axes_lib.canonical(layout, x) for x in (narrow, shape))
    if isinstance(given, Scaling):
        scaling = given
        if given.layout != "in_out":
            known.pop("layout", None)
    elif isinstance(given, Mapping):
        role = given.get("role")
        scaling = _infer_leaf(name, narrow, shape, role)
        known |= given
    else:
        scaling = _infer_leaf(name, narrow, shape, given)
    scaling = dataclasses.replace(scaling, **known)
    if scaling.size != math.prod(shape):
        raise ValueError(
            f"The override of {label(name)} has fan_in × fan_out × copies = "
            f"{scaling.size}, but the leaf has {math.prod(shape)} entries {shape}."
        )
    return scaling


def _infer_leaf(
    name: str, narrow: tuple[int, ...], shape: tuple[int, ...], role: Role | None
) -> Scaling:
    """The scaling of one weight whose axes are (*kernel, in, out)."""
    infinite = [k for k, (a, b) in enumerate(zip(narrow, shape, strict=True)) if a != b]
    finite = not infinite
    if role is not None:
        return _overridden(name, narrow, shape, infinite, role)
    if _is_output_side(name):
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
        raise _Ambiguous(name, narrow, shape, "several finite axes follow the only one")
    # Every cut with infinite axes on both sides; Dense and Conv have only one.
    cuts = range(infinite[0] + 1, infinite[-1] + 1)
    if len(cuts) > 1:
        both = (narrow, shape)
        cuts = [
            k for k in cuts if all(math.prod(s[:k]) == math.prod(s[k:]) for s in both)
        ]
        if len(cuts) != 1:
            raise _Ambiguous(
                name, narrow, shape, "its sides can be cut in several ways"
            )
    return _cut("hidden", shape, cuts[0])


def _is_output_side(name: str) -> bool:
    # Boxed parameters (flax partitioning, nnx) add a "value" of their own to the path.
    return name.removesuffix("/value").rpartition("/")[2] in _OUTPUT_SIDE_NAMES


def _projects_to_heads(name: str, shape: tuple[int, ...]) -> bool:
    *_, module, leaf = ("", *name.removesuffix("/value").split("/"))
    return len(shape) == 3 and leaf == "kernel" and module in _HEAD_PROJECTIONS


def _overridden(
    name: str,
    narrow: tuple[int, ...],
    shape: tuple[int, ...],
    infinite: list[int],
    role: Role,
) -> Scaling:
    last = len(shape) - 1
    if role != "input" and (last < 0 or (role == "hidden" and last < 1)):
        raise ValueError(
            f"{label(name)} of shape {shape} has too few axes to be {role!r}; "
            "use 'input'."
        )
    if role != "input" and _is_output_side(name):
        name = ""  # Whatever it is called, it is no bias.
    try:
        inferred = _infer_leaf(name, narrow, shape, None)
    except _Ambiguous:
        cut = infinite[0] if role == "input" else last
        if role == "hidden":
            cut = infinite[-1]
        return _cut(role, shape, cut)
    if role == "output" and inferred.role == "input" and infinite:
        # Used transposed, as a tied embedding (vocabulary, width) is.
        fan_in = math.prod(shape[k] for k in infinite)
        return Scaling("output", fan_in, math.prod(shape) // fan_in)
    return dataclasses.replace(inferred, role=role)


def _cut(role: Role, shape: tuple[int, ...], k: int, finite: bool = False) -> Scaling:
    return Scaling(role, math.prod(shape[:k]), math.prod(shape[k:]), finite)


class _Ambiguous(ValueError):
    """The sides of a leaf cannot be told from its shapes."""

    def __init__(
        self, name: str, narrow: tuple[int, ...], shape: tuple[int, ...], why: str
    ):
        super().__init__(
            f"The μP role of {label(name)} is ambiguous: {narrow} in the narrow model, "
            f"{shape} in the target, and of the axes that differ, {why}. Say what it "
            f'is: overrides={{"{name}": mulo.mup.Scaling(role, fan_in, fan_out)}}, '
            "where fan_in × fan_out × copies is the number of entries (a fused query, "
            "key and value is 3 copies); a role alone will do where the last axis is "
            "the output side."
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
                        f"a Scaling{nearest(field, fields)} It has: "
                        f"{', '.join(fields)}."
                    )
        elif not isinstance(role, Scaling) and role not in ROLES:
            raise ValueError(
                f"overrides[{pattern!r}] must be one of {', '.join(ROLES)} or a "
                f"Scaling, got {role!r}."
            )
        for name in _matched("The override", pattern, names):
            if given.setdefault(name, role) != role:
                raise ValueError(
                    f"Two overrides match {label(name)} and disagree: "
                    f"{given[name]!r} and {role!r} (from {pattern!r})."
                )
    return given


def _resolve_layouts(
    layout: Layout | Mapping[str, Layout], names: Iterable[str]
) -> dict[str, Layout]:
    names = list(names)
    if not isinstance(layout, Mapping):
        _check_layout(layout)
        return dict.fromkeys(names, layout)
    found: dict[str, Layout] = {}
    for pattern, one in layout.items():
        _check_layout(one)
        for name in _matched("The layout", pattern, names):
            found.setdefault(name, one)
    return found


def _check_layout(layout: Any) -> None:
    if layout not in axes_lib.LAYOUTS:
        raise ValueError(
            f"layout must be one of {', '.join(axes_lib.LAYOUTS)}; got {layout!r}."
        )


def _matched(what: str, pattern: str, names: list[str]) -> list[str]:
    matched = fnmatch.filter(names, pattern)
    if not matched:
        raise ValueError(
            f"{what} {pattern!r} matches no leaf{nearest(pattern, names)} "
            f"Leaves: {', '.join(names)}."
        )
    return matched


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
