"""What speaks against a μP role that was read off shapes: warnings."""

import itertools
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mulo._checks import leaf_names as trees
from mulo.mup import _names as names_lib


def warn(
    scalings: Mapping[str, Any], trusted: Collection[str], turned: Sequence[str]
) -> None:
    """Warn of readouts that may be none, and of leaves that may be one.

    Args:
      scalings: A :class:`mulo.mup.Scaling` by path.
      trusted: Paths that somebody has spoken for.
      turned: Those of them whose role says that their axes come in another order.
    """
    readouts = [
        name for name, x in scalings.items() if x.role == "output" and not x.finite
    ]
    if _looks_transposed(readouts, scalings, trusted, turned):
        return
    # Embeddings are (vocabulary, width) whatever the layout of weights is.
    tables = [
        name
        for name in readouts
        if scalings[name].layout != "in_out"
        and _is_embedding(name, scalings)
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
        write = ", ".join(
            f'"{name}": "{"output" if names_lib.is_head(name) else "hidden"}"'
            for name in doubtful
        )
        warnings.warn(
            f"Only the input side of {shapes} grows with width, so that μP takes "
            "such leaves for readouts: to start at zero, with what they produce "
            "multiplied by 1/fan_in. Projections to a fixed size within a network "
            "(keys and values of fixed size, LoRA's A, routers) are hidden: "
            f"overrides={{{write}}}. Name the readouts among them "
            '"output" to say that they are right. mulo.mup.describe shows all roles.',
            stacklevel=3,
        )
    if any(name not in doubtful or names_lib.is_head(name) for name in readouts):
        return
    tables = [
        name
        for name, x in scalings.items()
        if x.role == "input"
        and _is_embedding(name, scalings)
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
    readouts: Sequence[str],
    scalings: Mapping[str, Any],
    trusted: Collection[str],
    turned: Sequence[str],
) -> bool:
    """Warn if the roles at both ends of a model are exchanged, as transposed ones are.

    What no bias can tell: with the wrong layout the first of a model's numbered weights
    is a readout and the last an input, or what is called a head is an input. Or
    somebody has said of one weight that its axes come in another order.
    """
    weights = [
        name
        for name, x in scalings.items()
        if len(x.shape) > 1
        and not (x.finite or _is_embedding(name, scalings) or name in trusted)
    ]
    inputs = [name for name in weights if scalings[name].role == "input"]
    first = readouts[0] if len(readouts) == 1 and readouts[0] not in trusted else ""
    later = [
        name
        for name in inputs
        if _unnumbered(name) == _unnumbered(first)
        and trees.natural(name) > trees.natural(first)
    ]
    heads = [name for name in inputs if names_lib.is_head(name)]
    unturned = [
        name for name in weights if scalings[name].layout != _layout(turned, scalings)
    ]
    if turned and unturned:
        first, layout = unturned[0], scalings[unturned[0]].layout
        seen = (
            f"{first!r} {scalings[first].shape} is read, but {turned[0]!r} "
            f"{scalings[turned[0]].shape}, which was said to be an input, is "
            f"{scalings[turned[0]].layout!r}"
        )
    elif later:
        seen = (
            f"{first!r} {scalings[first].shape} would be the readout and {later[-1]!r} "
            f"{scalings[later[-1]].shape} an input"
        )
    elif heads and (not readouts or (first and not names_lib.is_head(first))):
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


def _layout(turned: Sequence[str], scalings: Mapping[str, Any]) -> str:
    return scalings[turned[0]].layout if turned else ""


def _is_embedding(name: str, scalings: Mapping[str, Any]) -> bool:
    return names_lib.is_embedding(name, scalings[name].shape)


def _unnumbered(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _beside_hidden(name: str, scalings: Mapping[str, Any]) -> bool:
    """Whether hidden weights lie in the same module, or in modules beside its own.

    Of those beside its own, the ones in a model's topmost module do not count, nor is
    one meant that is called as readouts are or is the last of a numbered sequence. What
    is called a router is always meant.
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
    if names_lib.is_router(name):
        return True
    module, parent = keys[:-1], keys[:-2]
    if module not in ((), ("params",)) and any(x[:-1] == module for x in hidden):
        return True
    if len(parent) <= whole or names_lib.is_head(name) or _is_last(module, weights):
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
