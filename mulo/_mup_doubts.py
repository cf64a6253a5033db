"""What speaks against a μP role that was read off shapes: errors and warnings."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from mulo import _mup_axes as axes_lib

_WEIGHT = re.compile(r"(weight|kernel)(_\w+)?|w")
_BIAS = ("bias", "b")


def check_layouts(scalings: Mapping[str, Any], trusted: Collection[str]) -> None:
    """Raise ValueError if a bias has the size of another axis than the output's.

    Args:
      scalings: A :class:`mulo.mup.Scaling`, with its shape, by path.
      trusted: Paths that somebody has spoken for.
    """
    for name, scaling in scalings.items():
        module, leaf = _cut(name)
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


def _cut(name: str) -> tuple[str, str]:
    """Path of a leaf's module, with what separates it, and the leaf's own name."""
    name = name.removesuffix("/value")  # Boxed parameters add it.
    start = max(name.rfind("/"), name.rfind(".")) + 1
    return name[:start], name[start:]


def _box(name: str) -> str:
    return "/value" if name.endswith("/value") else ""
