"""μP's factors on steps: as a function of trees, and as a transformation."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mulo._checks import numbers
from mulo.mup import _multipliers as multipliers_lib
from mulo.mup._scaling import Scaling

# Factor on a leaf's step from its μP scaling, its shape and the base width, of which it
# is a power.
FactorOf = Callable[[Scaling, tuple[int, ...], float], float]


def step_factors(
    mup: Any, factor_of: str | FactorOf, base_width: jax.typing.ArrayLike
) -> Callable[[Any], Any]:
    """Make a function from a tree to the factor on each of its leaves' steps.

    Args:
      mup: Tree of :class:`mulo.mup.Scaling`, or None for the standard parametrization:
        all factors are 1.
      factor_of: The factor of one leaf, or whose steps they are, as in
        :func:`mulo.mup.update_multipliers`.
      base_width: The width at which factors are 1. May be traced, as it is inside
        ``optax.inject_hyperparams``.

    Returns:
      A function from parameters or updates, maybe masked, to a tree of numbers in their
      structure. It raises ValueError, naming the leaf, if ``mup`` has other leaves.

    Raises:
      ValueError: If base_width is not finite and positive, or the optimizer unknown.
    """
    numbers.check_base_width(base_width)
    if mup is None:
        return lambda tree: jax.tree.map(lambda _: 1.0, tree)  # Keeps MaskedNodes.
    if isinstance(mup, str):
        raise ValueError(
            f"mup must be a tree of mulo.mup.Scaling, or None for the standard "
            f'parametrization, got {mup!r}; "standard" is for thetas of mulo.load.'
        )
    if isinstance(factor_of, str):
        optimizer = factor_of
        # Of all leaves at once, for its errors to name them.
        multipliers_lib.update_multipliers(mup, optimizer=optimizer, base_width=1.0)

        def own(scaling, shape, width):
            del shape
            return multipliers_lib.update_multipliers(
                scaling, optimizer=optimizer, base_width=width
            )
    else:
        own = factor_of

    def factor(leaf, scaling):
        width: Any = base_width
        shape = tuple(np.shape(leaf))
        if not numbers.is_traced(base_width):
            return own(scaling, shape, float(width))
        # A power of the base width, which two of them tell.
        one, two = (own(scaling, shape, width) for width in (1.0, 2.0))
        return one if one == two else one * base_width ** math.log2(two / one)

    def factors(tree):
        aligned = multipliers_lib.align(mup, tree, scalings=mup)
        return jax.tree.map(factor, tree, aligned)

    return factors


def scale_by_mup(
    mup: Any,
    *,
    optimizer: str | FactorOf = "adam",
    base_width: jax.typing.ArrayLike = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Multiply every leaf's update by its μP multiplier.

    Args:
      mup: Tree of :class:`mulo.mup.Scaling` for the parameters, or None for the
        standard parametrization: updates pass unchanged.
      optimizer: Whose updates they are, as in :func:`mulo.mup.update_multipliers`; or a
        function of a leaf's scaling, its shape and the base width.
      base_width: The width at which the multipliers are 1. May be traced, as it is
        inside ``optax.inject_hyperparams``.

    Returns:
      A stateless transformation that keeps shape and dtype and MaskedNode leaves.

    Raises:
      ValueError: If base_width is not finite and positive, or the optimizer unknown; at
        init and update, if ``mup`` and the parameters do not have the same leaves
        (names the leaf).
    """
    factors = step_factors(mup, optimizer, base_width)
    if mup is None:
        return optax.with_extra_args_support(optax.identity())

    def init_fn(params):
        factors(params)
        return optax.EmptyState()

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        updates = jax.tree.map(
            lambda u, m: (u * m).astype(jnp.result_type(u)), updates, factors(updates)
        )
        return updates, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
