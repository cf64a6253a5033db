"""What speaks against a μP role that was read off shapes: errors and warnings."""

import math
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

from mulo import _mup_axes as axes_lib
from mulo import _mup_trees as trees

_WEIGHT = re.compile(r"(weight|kernel)(_\w+)?|w")
_BIAS = ("bias", "b")


def check_layouts(scalings: Mapping[str, Any], trusted: Collection[str]) -> None:
    """Raise ValueError if a bias has the size of another axis than the output's.

    Args:
      scalings: A :class:`mulo.mup.Scaling`, with its shape, by path.
      trusted: Paths that somebody has spoken for.
    """
    for name, scaling in scalings.items():
        module, leaf = trees.cut(name)
        if name in trusted or len(scaling.shape) < 2 or not _WEIGHT.fullmatch(leaf):
            continue
        siblings = [f"{module}{bias}{_box(name)}" for bias in _BIAS]
        biases = [scalings[k] for k in siblings if k in scalings]
        # The weight's copies are the bias's, too: both are compared without them.
        size = math.prod(biases[0].shape) // biases[0].copies if biases else None
        one = axes_lib.without_copies(scaling.shape, scaling.copy_axes)
        if size is None or len(one) < 2:
            continue
        sides = axes_lib.canonical(scaling.layout, one)
        if any(size == math.prod(sides[k:]) for k in range(1, len(sides))):
            continue
        for other in axes_lib.LAYOUTS:
            if axes_lib.canonical(other, one)[-1] == size:
                raise ValueError(
                    f"Leaf {name!r} of shape {scaling.shape} was read with the layout "
                    f"{scaling.layout!r}, but the bias beside it has {size} entries, "
                    f"which {other!r} explains. Say how the weights are laid out: "
                    f'mulo.mup.infer(…, layout="{other}"), or for some of them '
                    f'layout={{"{name}": "{other}"}}; equinox and torch have '
                    '"out_in".'
                )
        lead = biases[0].shape[:-1]
        if lead and scaling.shape[: len(lead)] == lead:
            raise ValueError(
                f"Leaf {name!r} of shape {scaling.shape} and its bias of shape "
                f"{biases[0].shape} begin alike and fit no layout: they look like "
                f'copies of a layer. Say so: mulo.mup.infer(…, stacked={{"{module}*": '
                f"{len(lead)}}}), the number of leading axes that are copies."
            )


def warn(scalings: Mapping[str, Any], trusted: Collection[str]) -> None:
    """Warn of readouts that may be none, and of an embedding that may be one.

    Args:
      scalings: A :class:`mulo.mup.Scaling` by path.
      trusted: Paths that somebody has spoken for.
    """
    readouts = [
        name for name, x in scalings.items() if x.role == "output" and not x.finite
    ]
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
        if "embed" in name.lower()
        and x.role == "input"
        and len(x.shape) == 2
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


def _beside_hidden(name: str, scalings: Mapping[str, Any]) -> bool:
    """Whether a hidden weight lies in the same module, which is not the whole model."""
    module, _ = trees.cut(name)
    return module not in ("", "params/") and any(
        trees.cut(other)[0] == module and x.role == "hidden" and not x.finite
        for other, x in scalings.items()
    )


def _box(name: str) -> str:
    return "/value" if name.endswith("/value") else ""
