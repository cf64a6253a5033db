"""Shampoo: precondition every axis of a gradient by an inverse root of its statistics.

For a matrix G, with L and R averages of G Gᵀ and Gᵀ G, the direction is
``L^(-e/2) G R^(-e/2)``; a tensor with k axes gets the power -e/k on each. e = 1/2 is
Shampoo as published, e = 1 the variant with two inverse square roots. *Grafting* gives
the direction, leaf by leaf, the norm of a simpler rule's step.

Like the authors' distributed implementation, except:

* directions are preconditioned from the first step on, so there is one momentum;
* averages are bias-corrected, unless told otherwise;
* a root that fails, or belongs to statistics that are all zero, is not used.

References:
  Gupta, Koren, Singer, `Shampoo <https://arxiv.org/abs/1802.09568>`_, 2018.
  Anil et al., `Scalable Second Order Optimization for Deep Learning
  <https://arxiv.org/abs/2002.09018>`_, 2020.
"""

from typing import Any

import jax
import optax

from mulo import mup as mup_lib
from mulo._checks import numbers
from mulo._designed import blocks, roots, shampoo_step
from mulo._designed import matrix_checks as checks
from mulo._designed.chains import chain
from mulo._designed.weight_decay import (
    WeightDecay,
    WeightDecayRule,
    check_weight_decay,
    decayed_weights,
)
from mulo._transforms.meshes import on_meshes
from mulo.mup._transforms import scale_by_mup
from mulo.mup._views import sees_weights


@on_meshes
def scale_by_shampoo(
    *,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    exponent: float = 0.5,
    grafting: shampoo_step.Grafting = "rmsprop",
    nesterov: bool = True,
    average_momentum: bool = True,
    precondition_frequency: jax.typing.ArrayLike = 10,
    block_size: int | None = 128,
    max_precondition_dim: int = 4_096,
    merge_dims: bool = False,
    precondition_1d: bool = True,
    matrix_eps: jax.typing.ArrayLike = 1e-6,
    diagonal_eps: jax.typing.ArrayLike = 1e-10,
    root: roots.RootMethod = "eigh",
    correct_bias: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by inverse roots of per-axis second moments.

    A leaf whose gradient is not finite (or whose squared norm overflows) is treated as
    if it had none: no update for it on that step, its state stays. Leaves without a
    preconditioned axis (scalars, axes that are too large) take the grafting step; where
    grafting is ``"none"``, RMSProp's.

    Args:
      b1: Decay of the momentum per step.
      b2: Decay of the statistics and of RMSProp's squares per step; 1 for sums.
      exponent: e above, the total inverse power over a leaf's axes, in (0, 1].
      grafting: Whose norm each leaf's step has: ``"none"`` (its own), ``"sgd"``,
        ``"adagrad"``, ``"rmsprop"`` or ``"sign"``.
      nesterov: Look one step of momentum ahead.
      average_momentum: Whether new directions enter the momentum times 1 - b1, so that
        it is an average; otherwise whole, and steps are up to 1/(1 - b1) times larger.
      precondition_frequency: Steps between two computations of the roots. A block's
        first gradient that is not zero triggers one too.
      block_size: Cut axes larger than this into blocks with their own statistics; the
        last block may be smaller. None for whole axes.
      max_precondition_dim: Axes larger than this (after blocking) have no statistics.
      merge_dims: Merge neighbouring axes while their product is at most block_size
        (max_precondition_dim without blocks).
      precondition_1d: Precondition vectors too.
      matrix_eps: Ridge of the statistics relative to their largest eigenvalue.
      diagonal_eps: Added to roots of squared gradients, gradient units.
      root: How: ``"eigh"``, or ``"newton"`` (coupled Newton iteration, matmuls only;
        needs 1/power to be whole).
      correct_bias: Divide out the start at zero of all averages but the momentum.

    Returns:
      A transformation whose updates keep the shape and dtype of the gradients, in the
      gradient's direction; statistics are float32, or float64 for float64 leaves.

    Raises:
      ValueError: If an argument breaks its rule; at init and update, if a leaf is not
        of a real floating dtype (names it) or the state belongs to other parameters.

    References:
      Anil et al., `arXiv 2002.09018 <https://arxiv.org/abs/2002.09018>`_, 2020.
    """
    return shampoo_step.transformation(shampoo_step.ShampooConfig.of(locals()))


@sees_weights()
def shampoo(  # noqa: D417 -- Those of scale_by_shampoo are described there.
    learning_rate: optax.ScalarOrSchedule,
    *,
    mup: Any = None,
    base_width: jax.typing.ArrayLike = 1.0,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    weight_decay: WeightDecay = 0.0,
    weight_decay_rule: WeightDecayRule = "independent",
    mask: Any = None,
    exponent: float = 0.5,
    grafting: shampoo_step.Grafting = "rmsprop",
    nesterov: bool = True,
    average_momentum: bool = True,
    precondition_frequency: jax.typing.ArrayLike = 10,
    block_size: int | None = 128,
    max_precondition_dim: int = 4_096,
    merge_dims: bool = False,
    precondition_1d: bool = True,
    matrix_eps: jax.typing.ArrayLike = 1e-6,
    diagonal_eps: jax.typing.ArrayLike = 1e-10,
    root: roots.RootMethod = "eigh",
    correct_bias: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Shampoo with decoupled weight decay and, given a μP tree, its multipliers.

    Under μP a grafted step follows the rule of whose norm it has (Adam's for RMSProp,
    AdaGrad and sign); an ungrafted one follows Shampoo's own.

    All arguments that are not listed are those of :func:`scale_by_shampoo`.

    Args:
      learning_rate: Parameter units per step at ``base_width``; float or schedule.
      mup: Tree of :class:`mulo.mup.Scaling` from ``mulo.mup.infer``; None for the
        standard parametrization, where base_width and weight_decay_rule change
        nothing.
      base_width: Fan-in at which a hidden weight steps by the whole learning rate. May
        be traced, but for ungrafted steps in blocks.
      weight_decay: Fraction of a parameter removed per step and learning rate; a
        number, a schedule or None for none. Goes on in a leaf whose gradient is not
        usable.
      weight_decay_rule: ``"independent"`` of the leaf's μP multiplier, or
        ``"coupled"``, times it.
      mask: Which leaves decay, as in ``optax.adamw``: a tree of bools or a function of
        the parameters.

    Returns:
      A transformation that takes ``value=`` and ignores unknown keyword arguments.

    Raises:
      ValueError: As :func:`scale_by_shampoo`; if the weight-decay rule is unknown, the
        learning rate or the base width out of range, or ``mup`` does not fit the
        parameters (names the leaf).

    References:
      Anil et al., `arXiv 2002.09018 <https://arxiv.org/abs/2002.09018>`_, 2020.
    """
    check_weight_decay(weight_decay_rule, weight_decay)
    numbers.check_scale(learning_rate, base_width)
    config = shampoo_step.ShampooConfig.of(locals())
    if mup is not None and grafting == "none" and block_size is not None:
        checks.check_known("base_width", base_width, "blocks are counted at it")

    def multiplier(scaling, shape, base_width):
        if grafting == "none" and any(blocks.tracked_axes(shape, config)):
            return mup_lib.update_multipliers(
                scaling,
                optimizer="shampoo",
                base_width=base_width,
                block_size=block_size,
                shampoo_exponent=exponent,
            )
        rule = "sgd" if grafting == "sgd" else "adam"
        return mup_lib.update_multipliers(
            scaling, optimizer=rule, base_width=base_width
        )

    tail: list[optax.GradientTransformation]
    tail = [scale_by_mup(mup, optimizer=multiplier, base_width=base_width)]
    decay = decayed_weights(weight_decay, mask)
    tail.insert(0 if weight_decay_rule == "coupled" else 1, decay)
    return chain(
        shampoo_step.transformation(config),
        *tail,
        optax.scale_by_learning_rate(learning_rate),
    )
