"""What speaks against a μP role that was read off shapes: errors and warnings."""

import itertools
import math
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mulo import _mup_axes as axes_lib
from mulo import _mup_trees as trees

_WEIGHT = re.compile(r"(weight|kernel)(_\w+)?|w")
_BIAS = ("bias", "b")
_HEADS = ("head", "lm_head", "readout", "logits", "classifier", "unembed", "output")


def check_layouts(
    scalings: Mapping[str, Any],
    narrow: Mapping[str, tuple[int, ...]],
    target: Mapping[str, tuple[int, ...]],
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
        module, leaf = trees.cut(name)
        if name in trusted or len(target[name]) < 2 or not _WEIGHT.fullmatch(leaf):
            continue
        siblings = [f"{module}{bias}{_box(name)}" for bias in _BIAS]
        biases = [k for k in siblings if k in scalings]
        if not biases:
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
            raise ValueError(
                f"Leaf {name!r} of shape {shape} and its bias of shape "
                f"{target[biases[0]]} begin alike and fit no layout: they look like "
                f'copies of a layer. Say so: mulo.mup.infer(…, stacked={{"{module}*": '
                f"{len(lead)}}}), the number of leading axes that are copies."
            )


def _fits(layout: str, shapes: Sequence[tuple[int, ...]], sizes: Sequence[int]) -> bool:
    """Whether a bias is of a layout's output, and nothing but its sides grows."""
    *kernels, _, out = zip(
        *(axes_lib.canonical(layout, x) for x in shapes), strict=True
    )
    return out == tuple(sizes) and all(a == b for a, b in kernels)


def warn(scalings: Mapping[str, Any], trusted: Collection[str]) -> None:
    """Warn of readouts that may be none, and of leaves that may be one.

    Args:
      scalings: A :class:`mulo.mup.Scaling` by path.
      trusted: Paths that somebody has spoken for.
    """
    readouts = [
        name for name, x in scalings.items() if x.role == "output" and not x.finite
    ]
    if _looks_transposed(readouts, scalings, trusted):
        return
    # Embeddings are (vocabulary, width) whatever the layout of weights is.
    tables = [
        name
        for name in readouts
        if scalings[name].layout != "in_out"
        and _is_embedding(name, scalings[name])
        and name not in trusted
    ]
    if tables:
        layout = scalings[tables[0]].layout
        write = ", ".join(f'"{name}": "in_out"' for name in tables)
        warnings.warn(
            f"{' and '.join(map(repr, tables))}, read with the layout {layout!r}, "
            "would be readouts. Embeddings have a row for each token in every library: "
            f'layout={{{write}, "*": "{layout}"}}.',
            stacklevel=3,
        )
        readouts = [name for name in readouts if name not in tables]
    doubtful = readouts if len(readouts) > 1 else []
    if len(readouts) == 1 and _beside_hidden(readouts[0], scalings):
        doubtful = readouts
    doubtful = [name for name in doubtful if name not in trusted]
    if doubtful:
        shapes = ", ".join(f"{name!r} {scalings[name].shape}" for name in doubtful)
        write = ", ".join(f'"{name}": "hidden"' for name in doubtful)
        warnings.warn(
            f"Only the input side of {shapes} grows with width, so that μP takes "
            "such leaves for readouts: to start at zero, with what they produce "
            "multiplied by 1/fan_in. Projections to a fixed size within a network "
            "(keys and values of fixed size, LoRA's A, routers) are hidden: "
            f"overrides={{{write}}}. Name the readouts among them "
            '"output" to say that they are right. mulo.mup.describe shows all roles.',
            stacklevel=3,
        )
    if set(readouts) - set(doubtful):
        return
    tables = [
        name
        for name, x in scalings.items()
        if x.role == "input"
        and _is_embedding(name, x)
        and not (x.finite or x.tied or x.copies > 1 or name in trusted)
    ]
    if tables:
        write = ", ".join(f'"{name}": "tied"' for name in tables)
        warnings.warn(
            f"No leaf is a readout. If {' or '.join(map(repr, tables))} is used "
            "transposed to give the logits, they need the multiplier of a readout: "
            f'overrides={{{write}}}; otherwise "input" says that this is right.',
            stacklevel=3,
        )


def _looks_transposed(
    readouts: Sequence[str], scalings: Mapping[str, Any], trusted: Collection[str]
) -> bool:
    """Warn if the roles at both ends of a model are exchanged, as transposed ones are.

    What no bias can tell: with the wrong layout the first of a model's numbered weights
    is a readout and the last an input, or what is called a head is an input.
    """
    weights = [
        name
        for name, x in scalings.items()
        if len(x.shape) > 1 and not (x.finite or _is_embedding(name, x))
    ]
    if not set(weights).isdisjoint(trusted):
        return False
    inputs = [name for name in weights if scalings[name].role == "input"]
    first = readouts[0] if len(readouts) == 1 else ""
    later = [
        name
        for name in inputs
        if _unnumbered(name) == _unnumbered(first)
        and trees.natural(name) > trees.natural(first)
    ]
    heads = [] if readouts else [name for name in inputs if _is_head(name)]
    if later:
        seen = (
            f"{first!r} {scalings[first].shape} would be the readout and {later[-1]!r} "
            f"{scalings[later[-1]].shape} an input"
        )
    elif heads:
        first = heads[0]
        seen = f"{first!r} {scalings[first].shape} would be an input"
    else:
        return False
    layout = scalings[first].layout
    other = "out_in" if layout == "in_out" else "in_out"
    warnings.warn(
        f"With the layout {layout!r}, {seen}: weights seem to come in another order of "
        f'axes. Say mulo.mup.infer(…, layout="{other}"), as equinox and torch have it '
        'if that is "out_in"; if this is right, say so by overrides, as in '
        f'overrides={{"{first}": "{scalings[first].role}"}}.',
        stacklevel=4,
    )
    return True


def _is_embedding(name: str, scaling: Any) -> bool:
    return "embed" in name.lower() and len(scaling.shape) == 2


def _unnumbered(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _is_head(name: str) -> bool:
    """Whether a leaf's module is called as readouts are."""
    return trees.keys_of(trees.cut(name)[0])[-1:] in [(x,) for x in _HEADS]


def _beside_hidden(name: str, scalings: Mapping[str, Any]) -> bool:
    """Whether hidden weights lie in the same module, or in modules beside its own.

    Of those beside its own, the ones in a model's topmost module do not count, nor is
    one meant that is called as readouts are or is the last of a numbered sequence.
    """
    weights = [trees.keys_of(x) for x, s in scalings.items() if len(s.shape) > 1]
    in_common = itertools.takewhile(
        lambda x: len(set(x)) == 1, zip(*weights, strict=False)
    )
    whole = len(list(in_common))
    keys = trees.keys_of(name)
    hidden = [
        trees.keys_of(other)
        for other, x in scalings.items()
        if x.role == "hidden" and not x.finite
    ]
    module, parent = keys[:-1], keys[:-2]
    if module not in ((), ("params",)) and any(x[:-1] == module for x in hidden):
        return True
    if len(parent) <= whole or _is_head(name) or _is_last(module, weights):
        return False
    return any(x[: len(parent)] == parent for x in hidden)


def _is_last(module: tuple[str, ...], weights: Sequence[tuple[str, ...]]) -> bool:
    """Whether a module has the highest number of a sequence, as Dense_2 or layers/2."""
    stem = module[-1].rstrip("0123456789")
    siblings = {
        x[len(module) - 1] for x in weights if x[:-1][: len(module) - 1] == module[:-1]
    }
    numbers = [
        int(key[len(stem) :])
        for key in siblings
        if key.startswith(stem) and key[len(stem) :].isdigit()
    ]
    return len(numbers) > 1 and module[-1] == f"{stem}{max(numbers)}"


def _box(name: str) -> str:
    return "/value" if name.endswith("/value") else ""
