"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

For a matrix G, with the eigenvectors Q_L of an average of G Gᵀ and Q_R of Gᵀ G, Adam
runs on Q_Lᵀ G Q_R and its step is rotated back. Tensors with more axes have one basis
per axis. The rule here is that of the authors' code, which in four points is more than
the paper's algorithm 3: the first gradient of a leaf only makes its bases and moves
nothing; the first moment is kept in the rotated space and carried over when a basis
changes; the second moment is permuted, not rotated, when the basis is reordered; and a
gradient enters the averages after its own step.

References:
  Vyas et al., `SOAP: Improving and Stabilizing Shampoo using Adam
  <https://arxiv.org/abs/2409.11321>`_, 2024, algorithms 3 and 4.
  Qiu et al., `arXiv 2512.05620 <https://arxiv.org/abs/2512.05620>`_, 2025 (μP).
"""

import math
from typing import Any

import jax
import optax

from mulo import mup as mup_lib
from mulo._checks import numbers
from mulo._designed import blocks, soap_step
from mulo._designed.chains import chain
from mulo._designed.weight_decay import (
    WeightDecay,
    WeightDecayRule,
    check_weight_decay,
    decay_after_step,
)
from mulo._transforms.meshes import on_meshes
from mulo.mup._transforms import scale_by_mup
from mulo.mup._views import sees_weights


@on_meshes
def scale_by_soap(
    *,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    shampoo_beta: jax.typing.ArrayLike | None = None,
    eps: jax.typing.ArrayLike = 1e-8,
    precondition_frequency: jax.typing.ArrayLike | None = None,
    refresh: soap_step.Refresh = "after",
    max_precondition_dim: int = 10_000,
    block_size: int | None = None,
    merge_dims: bool = False,
    precondition_1d: bool = False,
    one_sided: bool = False,
    normalize_grads: bool = False,
    correct_bias: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by Adam in the eigenbasis of Shampoo's preconditioner.

    In float32 a rank-one gradient has no part in most rotated directions but rounding
    noise; roots of second moments count as at least 16 times the dtype's resolution of
    the largest one of their block, so that noise is not divided by noise.

    A leaf whose gradient is not finite (or whose squared norm overflows) is treated as
    if it had none: no update for it on that step, its state stays.

    A block's first bases are eigenvectors of the outer products of its first gradient
    that is not zero: leaves behind a readout of zeros have none at first. Where
    eigenvalues are equal, as in the null space of a gradient of lower rank or of a
    matrix's longer side, any rotation of them is as good: which one it is depends on
    the platform's eigendecomposition, and so do the steps.

    Args:
      b1: Decay of the first moment per step.
      b2: Decay of the second moment per step.
      shampoo_beta: Decay of the outer products per step; None for b2.
      eps: Added to the root of the second moment, gradient units.
      precondition_frequency: Steps between two updates of the bases (one power
        iteration and a QR decomposition each); None for 10, or with
        ``refresh="before"`` for 1.
      refresh: ``"after"`` the step, by bases that have not seen its gradient, as
        published; the gradient that makes the first ones makes no step. Or
        ``"before"``: a step's gradient is in the outer products and, where they are
        due, the bases that it is projected on, the first one too. Steps along stale
        bases are where SOAP's losses spike; see docs/optimizers.md for what it costs.
      max_precondition_dim: Axes larger than this are not rotated.
      block_size: Cut axes larger than this into blocks with their own bases; the last
        block may be smaller. None for whole axes.
      merge_dims: Merge neighbouring axes while their product is at most
        max_precondition_dim (block_size if given), as for convolutions.
      precondition_1d: Rotate vectors too; otherwise they get plain Adam.
      one_sided: Do not rotate the largest axis of a leaf (of a square matrix, the
        last): a quarter to a half of the memory for nearly the same steps.
      normalize_grads: Divide every leaf's step by its root mean square.
      correct_bias: Divide out the start at zero of both moments, as Adam.

    Returns:
      A transformation whose updates keep the shape and dtype of the gradients, in the
      gradient's direction; statistics are float32, or float64 for float64 leaves.

    Raises:
      ValueError: If an argument breaks its rule; at init and update, if a leaf is not
        of a real floating dtype (names it) or the state belongs to other parameters.

    References:
      Vyas et al., `SOAP <https://arxiv.org/abs/2409.11321>`_, 2024. Bases refreshed
      before: `2607.20548 <https://arxiv.org/abs/2607.20548>`_.
    """
    return soap_step.transformation(soap_step.SOAPConfig.of(locals()))


@sees_weights()
def soap(  # noqa: D417 -- Those of scale_by_soap are described there.
    learning_rate: optax.ScalarOrSchedule,
    *,
    mup: Any = None,
    base_width: jax.typing.ArrayLike = 1.0,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    shampoo_beta: jax.typing.ArrayLike | None = None,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: WeightDecay = 0.01,
    weight_decay_rule: WeightDecayRule = "independent",
    mask: Any = None,
    precondition_frequency: jax.typing.ArrayLike | None = None,
    refresh: soap_step.Refresh = "after",
    max_precondition_dim: int = 10_000,
    block_size: int | None = None,
    merge_dims: bool = False,
    precondition_1d: bool = False,
    one_sided: bool = False,
    normalize_grads: bool = False,
    correct_bias: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """SOAP with decoupled weight decay and, given a μP tree, its multipliers.

    Under μP choose a ``block_size`` well below the width: in a whole eigenbasis Adam
    lifts tiny entries to the size of all others, steps become dense and no power of
    width keeps features moving alike (Qiu et al., appendix E.2). In blocks of fixed
    size the rule is Adam's.

    All arguments that are not listed are those of :func:`scale_by_soap`.

    Args:
      learning_rate: Parameter units per step at ``base_width``; float or schedule. 3e-3
        is a usual start in the standard parametrization, 0.1 under μP (that of width 1)
        in blocks.
      mup: Tree of :class:`mulo.mup.Scaling` from ``mulo.mup.infer``; None for the
        standard parametrization, where base_width and weight_decay_rule change
        nothing. Multipliers are those of :func:`mulo.mup.update_multipliers`; leaves
        and sides that are not rotated follow Adam's rule.
      base_width: Fan-in at which a hidden weight steps by the whole learning rate; may
        be traced.
      weight_decay: Fraction of a parameter removed per step and learning rate, after
        the step; not on the first. A number, a schedule or None for none. Goes on in a
        leaf whose gradient is not usable.
      weight_decay_rule: ``"independent"`` of the leaf's μP multiplier, or
        ``"coupled"``, times it.
      mask: Which leaves decay, as in ``optax.adamw``: a tree of bools or a function of
        the parameters.

    Returns:
      A transformation that takes ``value=`` and ignores unknown keyword arguments.

    Raises:
      ValueError: As :func:`scale_by_soap`; if the weight-decay rule is unknown, the
        learning rate or the base width out of range, or ``mup`` does not fit the
        parameters (names the leaf); at update, if there is weight decay and no
        ``params``.

    References:
      Vyas et al., `SOAP <https://arxiv.org/abs/2409.11321>`_, 2024.
    """
    check_weight_decay(weight_decay_rule, weight_decay)
    numbers.check_scale(learning_rate, base_width)
    config = soap_step.SOAPConfig.of(locals())

    def multiplier(scaling, shape, base_width):
        return soap_multiplier(scaling, shape, config, base_width)

    decay = decay_after_step(
        learning_rate,
        weight_decay,
        mup=mup if weight_decay_rule == "coupled" else None,
        factor_of=multiplier,
        base_width=base_width,
    )
    return chain(
        soap_step.transformation(config),
        scale_by_mup(mup, optimizer=multiplier, base_width=base_width),
        optax.scale_by_learning_rate(learning_rate),
        decay if mask is None else optax.masked(decay, mask),
    )


def soap_multiplier(
    scaling: mup_lib.Scaling,
    shape: tuple[int, ...],
    options: blocks.Options,
    base_width: float,
) -> float:
    """Factor on one leaf's step; Adam's rule on sides that are not rotated whole."""

    def rule(optimizer):
        return mup_lib.update_multipliers(
            scaling, optimizer=optimizer, base_width=base_width
        )

    tracked = blocks.tracked_axes(shape, options)
    if options.block_size is not None or scaling.finite or not any(tracked):
        return rule("adam")
    if all(tracked):
        return rule("soap")
    # The axes of the input side come first; where they end follows from fan_in.
    cut = 0
    while math.prod(shape[:cut]) < scaling.fan_in and cut < len(shape):
        cut += 1
    factor = 1.0
    if scaling.role != "input" and all(tracked[:cut]):
        factor *= math.sqrt(scaling.fan_in / base_width)
    if scaling.role != "output" and all(tracked[cut:]):
        factor *= math.sqrt(scaling.fan_out / base_width)
    return rule("adam") * factor
