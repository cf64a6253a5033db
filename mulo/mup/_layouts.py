"""Layouts and copies that shapes speak against: errors, or a warning of copies."""

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mulo._checks import leaf_names as trees
from mulo.mup import _axes as axes_lib
from mulo.mup import _names as names_lib

Shapes = Mapping[str, tuple[int, ...]]


def check(
    scalings: Mapping[str, Any],
    narrow: Shapes,
    target: Shapes,
    trusted: Collection[str],
) -> None:
    """Raise ValueError if a bias has the size of another axis than the output's.

    Args:
      scalings: A :class:`mulo.mup.Scaling` by path.
      narrow: Shapes by path; in one of two models sides may be equal by chance.
      target: The same.
      trusted: Paths that somebody has spoken for.
    """
    for name, scaling in scalings.items():
        biases = [k for k in names_lib.biases_of(name) if k in scalings]
        if name in trusted or len(target[name]) < 2 or not biases:
            continue
        # The weight's copies are the bias's, too: both are compared without them.
        copies = scalings[biases[0]].copies
        sizes = [math.prod(x[biases[0]]) // copies for x in (narrow, target)]
        ones = [
            axes_lib.without_copies(x[name], scaling.copy_axes)
            for x in (narrow, target)
        ]
        if len(ones[0]) < 2:
            continue
        sides = [axes_lib.canonical(scaling.layout, one) for one in ones]
        if any(
            all(n == math.prod(x[k:]) for n, x in zip(sizes, sides, strict=True))
            for k in range(1, len(sides[0]))
        ):
            continue
        shape, size = target[name], sizes[1]
        fitting = []
        for layout in axes_lib.LAYOUTS:
            order = axes_lib.permutation(layout, len(ones[0]))
            same = [axes_lib.permutation(x, len(order)) for x in fitting]
            if _fits(layout, ones, sizes) and order not in same:
                fitting.append(layout)
        if fitting:
            first, others = fitting[0], " or ".join(map(repr, fitting))
            raise ValueError(
                f"Leaf {name!r} of shape {shape} was read with the layout "
                f"{scaling.layout!r}, but the bias beside it has {size} entries, "
                f"which {others} explains. Say how the weights are laid out: "
                f'mulo.mup.infer(…, layout="{first}"), or for some of them '
                f'layout={{"{name}": "{first}"}}; equinox and torch have "out_in", '
                'torch\'s transposed convolutions "in_out_kernel".'
            )
        lead = target[biases[0]][:-1]
        if lead and shape[: len(lead)] == lead:
            pattern = _common(name, target, lead)
            raise ValueError(
                f"Leaf {name!r} of shape {shape} and its bias of shape "
                f"{target[biases[0]]} begin alike and fit no layout: they look like "
                f"copies of a layer. Say so: mulo.mup.infer(…, "
                f'stacked={{"{pattern}": {len(lead)}}}), the number of leading axes '
                "that are copies."
            )


def warn_of_stacks(
    scalings: Mapping[str, Any],
    narrow: Shapes,
    target: Shapes,
    trusted: Collection[str],
) -> None:
    """Warn of modules whose leaves all begin with the same fixed axis, gains too.

    Weights alone tell nothing: (3, in, out) may be a convolution.
    """
    for name, scaling in scalings.items():
        shape = target[name]
        vector = trees.cut(name)[1] in ("scale", "bias", "weight") and len(shape) == 2
        grows = [a != b for a, b in zip(narrow[name], shape, strict=True)]
        if not vector or scaling.copies > 1 or grows != [False, True]:
            continue
        pattern = _common(name, target, shape[:1])
        inside = [k for k in target if k.startswith(pattern.removesuffix("*"))]
        weights = [k for k in inside if len(target[k]) > 2]
        if pattern == f"{trees.cut(name)[0]}*" or not weights:
            continue
        if not set(inside).isdisjoint(trusted):
            continue
        warnings.warn(
            f"All leaves of {pattern!r} begin with an axis of {shape[0]}, {name!r} "
            f"{shape} and {weights[0]!r} {target[weights[0]]} among them: they look "
            "like copies of layers and were read as larger ones. Say so: "
            f'mulo.mup.infer(…, stacked={{"{pattern}": 1}}).',
            stacklevel=3,
        )
        return


def _common(name: str, shapes: Shapes, lead: tuple[int, ...]) -> str:
    """Pattern of the largest module around a leaf whose leaves all begin alike."""
    keys = trees.keys_of(name)
    whole = trees.cut(name)[0]
    for depth in range(1, len(keys)):
        inside = [k for k in shapes if trees.keys_of(k)[:depth] == keys[:depth]]
        if all(shapes[k][: len(lead)] == lead for k in inside):
            ends = [i for i, letter in enumerate(name) if letter in "/."]
            return f"{name[: ends[depth - 1] + 1]}*"
    return f"{whole}*"


def _fits(layout: str, shapes: Sequence[tuple[int, ...]], sizes: Sequence[int]) -> bool:
    """Whether a bias is of a layout's output, and nothing but its sides grows."""
    *kernels, _, out = zip(
        *(axes_lib.canonical(layout, x) for x in shapes), strict=True
    )
    return out == tuple(sizes) and all(a == b for a, b in kernels)
