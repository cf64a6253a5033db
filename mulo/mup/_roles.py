"""Roles of μP, inferred from the shapes of one model at two widths.

Public names are re-exported by :mod:`mulo.mup`, which says what each role gets.
"""

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any

import jax

from mulo._checks import leaf_names as trees
from mulo.mup import _axes as axes_lib
from mulo.mup import _doubts as doubts
from mulo.mup import _layouts as layouts_lib
from mulo.mup import _said as said_lib
from mulo.mup._axes import Layout
from mulo.mup._said import Override, Said
from mulo.mup._scaling import Role, Scaling, check_layout

# A leaf of this name (flax) is added to, or scales, what a layer produces: all its axes
# lie on the output side, also when there are several (DenseGeneral biases). Short names
# such as "b" are left out: people call matrices that.
_OUTPUT_SIDE_NAMES = ("bias", "scale")

# flax's projections to heads: kernels (in, heads, head_dim), output side (heads,
# head_dim) whichever of the two grows.
_HEAD_PROJECTIONS = ("query", "key", "value")


def infer(
    narrow: Any,
    target: Any,
    *,
    layout: Layout | Mapping[str, Layout] = "in_out",
    stacked: Mapping[str, int] | None = None,
    fused: Mapping[str, int] | None = None,
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
    a convolution, nor a fused query, key and value from a wide weight: ``stacked`` and
    ``fused`` say so, and every rule then steps them as leaves of their own.

    Args:
      narrow: Arrays or ``jax.ShapeDtypeStruct`` of the model at some other width;
        only shapes are read. The same depth and data as ``target``. Or a function that
        makes the parameters, of a PRNG key or of nothing: it is traced, not run.
      target: The same for the width to be trained; fans are read from it.
      layout: Of all leaves of two axes and more; or by path pattern, ``fnmatch`` on
        paths such as ``"params/readout/kernel"``: the first that matches holds, and
        ``in_out`` where none does.
      stacked: Number of leading axes that are copies, by path pattern:
        ``{"blocks/*": 1}`` for ``nn.scan`` over layers, ``{"*": 1}`` for an ensemble.
        ``layout`` is that of the axes behind them.
      fused: Number of copies on the output side, by path pattern: ``{"*/qkv/*": 3}``
        for ``(in, 3 * out)`` or ``(in, 3, heads, head_dim)`` and their biases; equal
        sizes only, one after the other.
      overrides: Role, or whole :class:`Scaling`, by path pattern. A role leaves fans
        and layout as they are inferred, except that ``"output"`` on an embedding is
        read along its rows, and ``"input"`` on a weight whose first axis grows says
        that its axes come in another order. ``"tied"`` is an embedding whose
        transpose gives the logits: it has a readout's forward multiplier and does not
        start at zero. A dict changes the fields of Scaling that it names.

    Returns:
      A tree of :class:`Scaling` with the structure of ``target``.

    Warns:
      UserWarning: If several leaves look like readouts, or one in the same module as a
        hidden weight, and no override says so; if none does and there is an embedding.

    Raises:
      ValueError: If the trees differ in more than axis sizes, nothing differs, a leaf
        is ambiguous, has another layout than its bias says or does not hold the copies
        it should (all name the leaf), or a pattern matches nothing.
    """
    narrow, target = _evaluated(narrow), _evaluated(target)
    narrow_shapes = {name: trees.shape_of(x) for name, x in trees.named_leaves(narrow)}
    target_shapes = {name: trees.shape_of(x) for name, x in trees.named_leaves(target)}
    _check_same_names(narrow_shapes, target_shapes, "narrow", "target")
    given = said_lib.overrides_of(overrides or {}, target_shapes)
    if not isinstance(layout, Mapping):
        layout = {"*": layout} if target_shapes else {}
    layouts = said_lib.by_name("layout", layout, target_shapes, check_layout)
    stacks = said_lib.counts("stacked", stacked or {}, target_shapes)
    fusions = said_lib.counts("fused", fused or {}, target_shapes)
    for name, shape in target_shapes.items():
        if len(shape) != len(narrow_shapes[name]):
            raise ValueError(
                f"{trees.label(name)} has {len(narrow_shapes[name])} axes in the "
                f"narrow model and {len(shape)} in the target: {narrow_shapes[name]} "
                f"and {shape}. Both must be the same model at two widths."
            )
    _check_directions(narrow_shapes, target_shapes)
    scalings = {}
    for name, shape in target_shapes.items():
        said = Said(
            given.get(name),
            layouts.get(name, "in_out"),
            stacks.get(name, 0),
            fusions.get(name, 1),
        )
        try:
            scalings[name] = _scaling(name, narrow_shapes[name], shape, said)
        except _Ambiguous as error:
            raise ValueError(str(error)) from None
    whole = [name for name, said in given.items() if not isinstance(said, str)]
    layouts_lib.check(scalings, narrow_shapes, target_shapes, whole)
    layouts_lib.warn_of_stacks(scalings, narrow_shapes, target_shapes, given)
    turned = [
        name
        for name in given
        if scalings[name].layout != layouts.get(name, "in_out")
        and scalings[name].role == "input"
        and not scalings[name].tied
    ]
    doubts.warn(scalings, given, turned)
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
    name: str, narrow: tuple[int, ...], shape: tuple[int, ...], said: Said
) -> Scaling:
    """The scaling of one leaf, with its layout and copies."""
    given, layout = said.override, said.layout
    role = given.get("role") if isinstance(given, Mapping) else given
    if isinstance(given, Mapping):
        layout = given.get("layout", layout)
    whole: dict[str, Any] = {"shape": shape}
    copy_axes = _stacked_axes(name, narrow, shape, said.stacked)
    if said.fused > 1:
        copy_axes += (_fused_axis(name, narrow, shape, said),)
    if copy_axes:
        whole |= {"copies": math.prod(n for _, n in copy_axes), "copy_axes": copy_axes}
    # One copy, as (*kernel, in, out).
    one, one_narrow = (axes_lib.without_copies(x, copy_axes) for x in (shape, narrow))
    if given == "tied":
        layout = "in_out"  # An embedding is (vocabulary, width) in every library.
    if role == "input" and not _is_output_side(name):
        layout = _turned(layout, one_narrow, one)
    if layout != "in_out" and len(one) > 1 and not _is_output_side(name):
        whole["layout"] = layout
        one, one_narrow = (axes_lib.canonical(layout, x) for x in (one, one_narrow))
    if isinstance(given, Scaling):
        scaling = given
        if given.layout != "in_out":
            whole.pop("layout", None)
        if given.copies > 1:
            whole = {k: x for k, x in whole.items() if not k.startswith("cop")}
    elif isinstance(given, Mapping):
        scaling = _infer_leaf(name, one_narrow, one, given.get("role"))
        if "copies" in given:
            whole.pop("copy_axes", None)
        whole |= given
    elif given == "tied":
        scaling = _infer_leaf(name, one_narrow, one, "input")
        whole["tied"] = True
    else:
        scaling = _infer_leaf(name, one_narrow, one, given)
    scaling = dataclasses.replace(scaling, **whole)
    if scaling.size != math.prod(shape):
        raise ValueError(
            f"The override of {trees.label(name)} has fan_in × fan_out × copies = "
            f"{scaling.size}, but the leaf has {math.prod(shape)} entries {shape}."
        )
    return scaling


def _turned(layout: str, narrow: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """The layout in which the axis that grows is the output, as an input weight's is.

    Only where the first axis of all would be the input side, and grows alone.
    """
    ones = [axes_lib.canonical(layout, x) for x in (shape, narrow)]
    grown = [k for k, (a, b) in enumerate(zip(*ones, strict=True)) if a != b]
    if len(shape) < 2 or grown != [0]:
        return layout
    return "out_in" if shape[0] != narrow[0] else "in_out"


def _stacked_axes(
    name: str, narrow: tuple[int, ...], shape: tuple[int, ...], count: int
) -> axes_lib.CopyAxes:
    if len(shape) < count:
        raise ValueError(
            f"{trees.label(name)} of shape {shape} has fewer than the {count} leading "
            "axes that stacked says are copies."
        )
    if narrow[:count] != shape[:count]:
        raise ValueError(
            f"{trees.label(name)} has shape {narrow} in the narrow model and {shape} "
            f"in the target: the first {count} of its axes are not copies, as stacked "
            "says, but grow with width."
        )
    return tuple(enumerate(shape[:count]))


def _fused_axis(
    name: str, narrow: tuple[int, ...], shape: tuple[int, ...], said: Said
) -> tuple[int, int]:
    """The axis that copies on the output side are in, and their number."""
    axes = range(said.stacked, len(shape))
    out = axes_lib.output_axis(said.layout, len(axes)) if axes else 0
    if _is_output_side(name) or len(axes) == 1:
        out, own = 0, axes
    elif said.layout == "in_out":
        own = axes[1:]  # (in, 3, heads, head_dim).
    else:
        own = axes[out : out + 1]
    for k in own:
        if narrow[k] == shape[k] == said.fused:
            return k, said.fused
    k = said.stacked + out
    if axes and all(x[k] % said.fused == 0 for x in (narrow, shape)):
        return k, said.fused
    raise ValueError(
        f"{trees.label(name)} of shape {shape} has no output axis that holds "
        f"{said.fused} copies, as fused says."
    )


def _infer_leaf(
    name: str, narrow: tuple[int, ...], shape: tuple[int, ...], role: Role | None
) -> Scaling:
    """The scaling of one weight whose axes are (*kernel, in, out)."""
    if not math.prod(shape):
        raise ValueError(
            f"{trees.label(name)} of shape {shape} has no entries, and so no μP role: "
            "leave it out of the trees, or train the others with optax.masked."
        )
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
    return trees.cut(name)[1] in _OUTPUT_SIDE_NAMES


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
            f"{trees.label(name)} of shape {shape} has too few axes to be {role!r}; "
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


class _Ambiguous(Exception):
    """The sides of a leaf cannot be told from its shapes."""

    def __init__(
        self, name: str, narrow: tuple[int, ...], shape: tuple[int, ...], why: str
    ):
        super().__init__(
            f"The μP role of {trees.label(name)} is ambiguous: {narrow} in the narrow "
            f"model, {shape} in the target (axes ordered as (*kernel, in, out), copies "
            f"left out), and of the axes that differ, {why}. Say "
            f'what it is: overrides={{"{name}": mulo.mup.Scaling(role, fan_in, '
            "fan_out)}, where fan_in × fan_out × copies is the number of entries (for "
            "copies of a layer say stacked=, for a fused query, key and value fused=); "
            "a role alone will do where the last axis is the output side. If its axes "
            "come in another order, as in equinox and torch, say layout=."
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
            f"From the narrow to the target model {trees.label(grown)} grows "
            f"({narrow[grown]} to {target[grown]}) and {trees.label(shrunk)} shrinks "
            f"({narrow[shrunk]} to {target[shrunk]}). Change the width alone, not the "
            "data or the vocabulary."
        )


def _check_same_names(
    a: Mapping[str, Any], b: Mapping[str, Any], a_is: str, b_is: str
) -> None:
    for only, other, is_in, not_in in ((a, b, a_is, b_is), (b, a, b_is, a_is)):
        for name in only:
            if name not in other:
                raise ValueError(
                    f"{trees.label(name)} is in the {is_in} model and not in the "
                    f"{not_in} one. Both must be the same model at two widths."
                )
