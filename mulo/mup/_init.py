"""The model's part of μP for models we did not write: initial scales, and a table."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mulo._checks import leaf_names as trees
from mulo.mup import _multipliers as multipliers
from mulo.mup import _names as names_lib
from mulo.mup._scaling import Scaling


def init(params: Any, scalings: Any, key: jax.Array) -> Any:
    """Draw a model's weights again, at the scales of μP.

    ========================================== =====================================
    leaves                                     are drawn
    ========================================== =====================================
    input and hidden weights                   normal, standard deviation 1/√fan_in
    readouts                                   zero
    embeddings, by their names; tied leaves    normal, standard deviation 1
    biases, gains, other leaves of fan_in 1;   not: they stay as the model made them
    leaves that do not grow with width
    ========================================== =====================================

    A gain of a normalization starts at one and a bias at zero; drawn with the standard
    deviation 1/√1 of :func:`init_std` they would be noise that a network must unlearn.

    What this is for: models whose own initialization is not of the order 1/√fan_in
    (``normal(0.02)``, orthogonal, equinox's and torch's uniform ±1/√fan_in, which is √3
    smaller), or whose readout is not zero. Leave models alone that are in order as they
    are: flax's defaults have 1/√fan_in already, and a gain that belongs to an
    activation or to depth (He's √2, 1/√layers on residual branches) is constant in
    width and would be lost here. A readout of zeros belongs to logits that are
    multiplied by :func:`forward_multiplier`. With ``base_width=1`` that slows the start
    of a short run down, by more than any redrawing does: give it the width at which the
    model is right as it is. docs/mup.md has the measurement.

    Args:
      params: Arrays, in any dtype; only shapes and dtypes of those drawn are read.
      scalings: Tree of :class:`Scaling` from :func:`infer`.
      key: PRNG key.

    Returns:
      Params in the same structure, shapes and dtypes.

    Raises:
      ValueError: If a leaf has no scaling or another size; names it.
    """
    aligned = trees.flatten(multipliers.align(scalings, params, scalings=scalings))
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, max(len(leaves), 1))
    drawn = []
    for leaf, leaf_key, (path, scaling) in zip(leaves, keys, aligned, strict=True):
        scale = initial_scale(trees.keystr(path), scaling)
        if scale is None:
            drawn.append(leaf)
            continue
        # Drawn in float32, so that the numbers are the same in every dtype.
        values = scale * jax.random.normal(leaf_key, jnp.shape(leaf), jnp.float32)
        drawn.append(values.astype(jnp.result_type(leaf)))
    return jax.tree.unflatten(treedef, drawn)


def initial_scale(name: str, scaling: Scaling) -> float | None:
    """Standard deviation to draw a leaf with; None if it stays as the model has it."""
    if scaling.finite:
        return None
    if scaling.tied or names_lib.is_embedding(name, scaling.shape or ()):
        return 1.0  # Looked up, not summed over.
    if scaling.role == "input" and scaling.fan_in == 1:
        return None
    return multipliers.init_std(scaling)


def describe(scalings: Any, *, base_width: float = 1.0) -> str:
    """A table of what μP makes of every leaf, to be printed and read.

    Args:
      scalings: Tree of :class:`Scaling` from :func:`infer`.
      base_width: As in :func:`update_multipliers`.

    Returns:
      Lines with a leaf's path, shape, role, fan_in, the factor the model is to multiply
      what it produces by (:func:`forward_multiplier`), the factor on Adam's step, and
      the standard deviation :func:`init` draws it with ("as is": it does not).

    Raises:
      ValueError: If a leaf is not a Scaling; names it.
    """
    steps = multipliers.update_multipliers(
        scalings, optimizer="adam", base_width=base_width
    )
    rows = [("leaf", "shape", "role", "fan_in", "forward ×", "Adam ×", "initial scale")]
    pairs = zip(trees.flatten(scalings), jax.tree.leaves(steps), strict=True)
    for (path, scaling), step in pairs:
        name = trees.keystr(path)
        forward = multipliers.forward_multiplier(scaling, base_width=base_width)
        scale = initial_scale(name, scaling)
        rows.append(
            (
                name,
                "?" if scaling.shape is None else str(scaling.shape),
                _role(scaling),
                str(scaling.fan_in),
                f"{forward:.3g}",
                f"{step:.3g}",
                "as is" if scale is None else f"{scale:.3g}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _role(scaling: Scaling) -> str:
    """Role, and what else is special about a leaf."""
    notes: Mapping[str, bool] = {
        "tied": scaling.tied,
        "fixed": scaling.finite,
        f"{scaling.copies} copies": scaling.copies > 1,
        scaling.layout: scaling.layout != "in_out",
    }
    return ", ".join([scaling.role, *(note for note, holds in notes.items() if holds)])
