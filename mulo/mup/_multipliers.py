"""What each role of μP gets: initial scale, forward multiplier, factor on the step.

Public names are re-exported by :mod:`mulo.mup`, which has the table.

Axis names: i = fan_in, o = fan_out, both in entries of the leaf at the target width.
"""

import math
from typing import Any

import jax
import numpy as np

from mulo import _hints as hints
from mulo._checks import leaf_names as trees
from mulo._checks import numbers
from mulo._checks.masked_leaves import is_masked
from mulo.mup._scaling import Scaling

OPTIMIZERS = ("adam", "sgd", "muon", "shampoo", "soap", "muon_rms", "adafactor")

_FIX = "mulo.mup.infer(narrow, target)"


def init_std(scaling: Scaling) -> float:
    """Standard deviation of the initial weights: 1/sqrt(fan_in), 0 for a readout."""
    return 0.0 if scaling.role == "output" else scaling.fan_in**-0.5


def forward_multiplier(scaling: Scaling, *, base_width: float = 1.0) -> float:
    """Factor on what the weight produces: base_width/fan_in for a readout, else 1.

    A tied embedding is a readout when transposed, with the width as fan_in: its factor,
    on the logits alone, is base_width/fan_out. The μLO paper uses ``base_width=1``,
    i.e. logits times 1/fan_in.
    """
    numbers.check_base_width(base_width)
    if scaling.tied:
        return base_width / scaling.fan_out
    return base_width / scaling.fan_in if scaling.role == "output" else 1.0


def update_multipliers(
    scalings: Any,
    *,
    optimizer: str,
    base_width: float,
    block_size: int | None = None,
    shampoo_exponent: float = 0.5,
) -> Any:
    r"""Factor on every leaf's step that keeps feature learning the same at any width.

    The model is the one of this module: init variance 1/fan_in, zero readout, logits
    times base/fan_in. Write ``i = fan_in / base_width``, ``o = fan_out / base_width``
    on sides that grow with width, 1 on the others. A step must change what a layer
    produces by Θ(1) per entry. Activations are Θ(1) per entry and gradients with
    respect to them Θ(1/o), so a weight's gradient has entries Θ(1/o) (input, hidden)
    or Θ(1/i) (readout, from the forward multiplier), and stable rank Θ(1). Then:

    ========= =========  ================ =========
    .         input      hidden           output
    ========= =========  ================ =========
    adam      1          1/i              1
    sgd       o          o/i              i
    muon      √o         √(o/i)           √i
    shampoo   o^(1-e)    (o/i)^(1-e)      i^(1-e)
    soap      √o         √(o·i)/i         √i
    muon_rms  1          √(o/i)/√max(o,i) 1
    adafactor 1          1/√i             1
    ========= =========  ================ =========

    * adam (learned optimizers too) makes entries Θ(1): ``ΔW x`` sums i aligned terms.
    * sgd: a hidden step is ``(1/o) δ xᵀ`` with ``|x|² = i``, so it needs o/i; input
      and readout undo the 1/o and 1/i of their gradients (Tensor Programs V, table 8).
    * muon makes the spectral norm 1 where √(o/i) is wanted; the readout's is divided
      by i in the forward pass.
    * shampoo with ``e = e_L + e_R`` makes it ``|G|^(1-2e)``, ``|G| = √(i/o)``. In
      blocks it grows by ``n_blk^e``, hence the factor ``1/n_blk^e``.
    * soap rotates to the eigenbasis, where Adam's entries of 1 have norm √(o·i) at rank
      one; with a fixed block size that factor is constant and the rule is Adam's. The
      unblocked rule fails coordinate checks in practice: use blocks.
    * muon_rms: muon's step brought to root mean square 1 (``consistent_rms``, Celo2).
      All singular values are then √max(o, i), by which muon's factor is divided; for
      an input or a readout weight the two cancel.
    * adafactor steps by the root mean square of the weights themselves, 1/√i for a
      hidden matrix and constant for the others, times adam's entries of Θ(1).

    Args:
      scalings: Tree of :class:`Scaling`, from :func:`infer`.
      optimizer: One of :data:`OPTIMIZERS`.
      base_width: The width at which every multiplier is 1 (up to a side's shape): the
        width the learning rate was tuned at. 1 for the public μLO checkpoint.
      block_size: Block size of shampoo or soap's preconditioner, in entries; None for
        no blocks. Counted along sides that grow, relative to the count at
        ``base_width``.
      shampoo_exponent: e above; 0.5 for Shampoo's usual two quarter powers.

    Returns:
      A tree of Python floats with the structure of ``scalings``.

    Raises:
      ValueError: If the optimizer is unknown, a leaf is not a Scaling, or an argument
        does not fit.

    References:
      Yang et al., `Tensor Programs V <https://arxiv.org/abs/2203.03466>`_, 2022.
      Qiu et al., `arXiv 2512.05620 <https://arxiv.org/abs/2512.05620>`_, table 1, 2025.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(
            f"No μP rule for optimizer {optimizer!r}"
            f"{hints.nearest(optimizer, OPTIMIZERS)} Known: {', '.join(OPTIMIZERS)}."
        )
    numbers.check_base_width(base_width)
    if block_size is not None and optimizer not in ("shampoo", "soap"):
        raise ValueError(
            f"block_size is for shampoo and soap; got {block_size} with {optimizer}."
        )
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}.")

    def blocks(fan: float) -> float:
        # Relative to the base, so that the base width keeps its learning rate.
        if block_size is None:
            return 1.0
        return math.ceil(fan / block_size) / math.ceil(base_width / block_size)

    def multiplier(path, scaling):
        if not isinstance(scaling, Scaling):
            raise ValueError(
                f"{trees.label(trees.keystr(path))} of the μP tree must be a "
                f"mulo.mup.Scaling, got {type(scaling).__name__}. Make the tree with "
                "mulo.mup.infer."
            )
        if scaling.finite:
            return 1.0
        output = scaling.role == "output"
        i = 1.0 if scaling.role == "input" else scaling.fan_in / base_width
        o = 1.0 if output else scaling.fan_out / base_width
        if optimizer == "adam" or (optimizer == "soap" and block_size is not None):
            return float(1.0 if output else 1.0 / i)
        if optimizer == "soap":
            return float(math.sqrt(o * i) / (1.0 if output else i))
        if optimizer in ("muon_rms", "adafactor"):
            if scaling.role != "hidden":
                return 1.0
            if optimizer == "adafactor":
                return float(i**-0.5)
            return float(math.sqrt(o / i) / math.sqrt(max(o, i)))
        exponent = {"sgd": 0.0, "muon": 0.5}.get(optimizer, shampoo_exponent)
        number = 1.0
        if scaling.role != "input":
            number *= blocks(scaling.fan_in)
        if not output:
            number *= blocks(scaling.fan_out)
        # Without the forward multiplier a readout would follow the hidden rule at
        # o = 1, (1/i)^(1-e); with it i^2(1-e) more: i for the step, i^(1-2e) for G.
        ratio = i if output else o / i
        return float(ratio ** (1.0 - exponent) / number**exponent)

    return jax.tree_util.tree_map_with_path(
        multiplier, scalings, is_leaf=lambda x: isinstance(x, Scaling)
    )


def align(values: Any, params: Any, *, scalings: Any = None) -> Any:
    """Lay a full tree of per-leaf values over params that may be masked.

    Args:
      values: Tree with one value per leaf of the model, such as update multipliers.
      params: Parameters or gradients; ``optax.MaskedNode`` may stand for a leaf or a
        whole branch (``optax.masked``, ``optax.partition``).
      scalings: Tree of :class:`Scaling` whose leaves' sizes must be those of params;
        None to compare names only.

    Returns:
      The values in the structure of params, MaskedNodes kept.

    Raises:
      ValueError: If a leaf is missing on either side or has another size; names it.
    """
    by_path = {trees.keys(path): value for path, value in trees.flatten(values)}
    if _is_placeholder(params):
        return params
    given = {trees.keys(path): leaf for path, leaf in trees.flatten(scalings)}
    leaves = trees.flatten(params, is_leaf=is_masked)
    paths = {trees.keys(path) for path, _ in leaves}
    masked = {trees.keys(path) for path, leaf in leaves if is_masked(leaf)}
    for keys in by_path:
        if not any(keys[: len(k)] == k for k in masked) and keys not in paths:
            raise ValueError(
                f"{trees.label('/'.join(keys))} of the μP tree is not among the "
                f"parameters. Infer the tree from this model: {_FIX}."
            )

    def pick(path, leaf):
        if is_masked(leaf):
            return leaf
        keys = trees.keys(path)
        if keys not in by_path:
            raise ValueError(
                f"{trees.label('/'.join(keys))} of the parameters has no μP scaling. "
                f"Infer the tree from this model: {_FIX}."
            )
        shape = np.shape(leaf)
        size = math.prod(shape)
        scaling = given.get(keys)
        if scaling is not None and scaling.size != size:
            raise ValueError(
                f"{trees.label('/'.join(keys))} has {size} entries, its μP scaling "
                f"is for {scaling.size}: it was inferred at another width. Infer "
                "it with this model as the target."
            )
        if scaling is not None and scaling.shape not in (None, shape):
            raise ValueError(
                f"{trees.label('/'.join(keys))} has shape {shape}, its μP scaling is "
                f"for {scaling.shape}. Infer it with this model as the target; if its "
                "axes come in another order than (in, out), say so with layout=."
            )
        return by_path[keys]

    return jax.tree_util.tree_map_with_path(pick, params, is_leaf=is_masked)


def _is_placeholder(params: Any) -> bool:
    """Whether this stands for parameters, as in ``optax.tree.map_params``."""
    known = params is None or isinstance(params, dict | list | tuple)
    return not known and not jax.tree.leaves(params)
