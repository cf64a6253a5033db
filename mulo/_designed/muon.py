"""optax's Muon under μP: hidden matrices are orthogonalized, by their roles."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mulo import mup as mup_lib
from mulo._checks import masked_leaves, numbers
from mulo._designed.chains import chain, finish
from mulo._designed.weight_decay import WeightDecay, WeightDecayRule, check_weight_decay
from mulo._transforms.float32 import in_float32
from mulo.mup._views import sees_weights


@sees_weights(batched=True)
def muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    mup: Any = None,
    base_width: jax.typing.ArrayLike = 1.0,
    beta: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    ns_steps: int = 5,
    nesterov: bool = True,
    consistent_rms: float | None = None,
    weight_decay: WeightDecay = 0.0,
    weight_decay_rule: WeightDecayRule = "independent",
    mask: Any = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.999,
    adam_weight_decay: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Muon for matrices, AdamW for the rest.

    optax scales an orthogonal step by ``√max(1, fan_out/fan_in)``, or to root mean
    square ``consistent_rms``, for every leaf of two axes. With a μP tree, hidden
    matrices alone are orthogonalized, as (fan_in, fan_out) whatever their axes, and
    the factor of :func:`mulo.mup.update_multipliers` takes the place of optax's
    (``muon``), or follows it (``muon_rms``).

    Args:
      learning_rate: Spectral norm of a step at ``base_width`` (entries' root mean
        square over ``consistent_rms`` if that is given); float or schedule.
      mup: As in :func:`mulo.sgd`; None is ``optax.contrib.muon``.
      base_width: Width at which a hidden matrix steps by the whole learning rate.
      beta: Decay of the momentum per step.
      eps: Added to the norm a matrix is divided by.
      ns_steps: Newton-Schulz iterations.
      nesterov: Whether momentum is Nesterov's.
      consistent_rms: Root mean square of a step before the learning rate, 0.2 to be
        like AdamW's; None for Muon's own scale.
      weight_decay: Fraction of a matrix removed per step and learning rate.
      weight_decay_rule: As in :func:`mulo.nadamw`.
      mask: As in :func:`mulo.nadamw`, for the matrices.
      adam_learning_rate: AdamW's learning rate; None for the same.
      adam_b1: AdamW's decay of the first moment per step.
      adam_b2: AdamW's decay of the second moment per step.
      adam_weight_decay: AdamW's weight decay.

    Returns:
      As :func:`mulo.sgd`.
    """
    check_weight_decay(weight_decay_rule, weight_decay)
    check_weight_decay(weight_decay_rule, adam_weight_decay)
    numbers.check_scale(learning_rate, base_width)
    decay: Any = 0.0 if weight_decay is None else weight_decay
    adam_decay: Any = 0.0 if adam_weight_decay is None else adam_weight_decay
    if adam_learning_rate is not None:
        numbers.check_learning_rate(adam_learning_rate, "adam_learning_rate")
    options = {"beta": beta, "eps": eps, "ns_steps": ns_steps, "nesterov": nesterov}
    if mup is None:
        # Arguments that came late to optax are passed only if they are used.
        late: dict[str, Any] = {
            "consistent_rms": consistent_rms,
            "adam_learning_rate": adam_learning_rate,
        }
        return in_float32(
            optax.contrib.muon(
                learning_rate,
                **options,
                weight_decay=decay,
                weight_decay_mask=mask,
                adam_b1=adam_b1,
                adam_b2=adam_b2,
                adam_weight_decay=adam_decay,
                muon_weight_dimension_numbers=_matrices,
                **{k: v for k, v in late.items() if v is not None},
            )
        )

    def scalings(tree):
        return mup_lib.align(mup, tree, scalings=mup)

    def of_axes(tree, function):
        if masked_leaves.is_placeholder(tree):
            return tree
        return jax.tree.map(
            lambda x, s: function(_matrix_axes(jnp.shape(x), s)), tree, scalings(tree)
        )

    def dimensions(tree):
        return of_axes(tree, lambda axes: axes)

    def labels(tree):
        return of_axes(tree, lambda axes: "adam" if axes is None else "muon")

    kind = "muon"
    steps = [
        optax.contrib.scale_by_muon(**options, weight_dimension_numbers=dimensions)
    ]
    if consistent_rms is not None:
        kind = "muon_rms"
        steps.append(_to_rms(scalings, consistent_rms))
    hidden = optax.chain(
        *steps,
        *finish(learning_rate, mup, base_width, kind, decay, weight_decay_rule, mask),
    )
    adam_rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    rest = optax.chain(
        optax.scale_by_adam(adam_b1, adam_b2, eps, nesterov=nesterov),
        *finish(adam_rate, mup, base_width, "adam", adam_decay, weight_decay_rule),
    )
    return chain(optax.partition({"muon": hidden, "adam": rest}, labels))


def _matrices(params: Any) -> Any:
    """Leaves of two axes, as in optax, less those without entries."""
    return jax.tree.map(
        lambda x: (
            optax.contrib.MuonDimensionNumbers()
            if jnp.ndim(x) == 2 and jnp.size(x)
            else None
        ),
        params,
    )


def _matrix_axes(
    shape: tuple[int, ...], scaling: mup_lib.Scaling
) -> optax.contrib.MuonDimensionNumbers | None:
    """Input and output axes of a hidden matrix; None for leaves that Adam steps."""
    if scaling.role != "hidden" or scaling.finite or len(shape) < 2:
        return None
    if scaling.copies > 1:
        return optax.contrib.MuonDimensionNumbers(-2, -1)  # The others are a batch.
    sizes = [math.prod(shape[:k]) for k in range(len(shape) + 1)]
    cut = sizes.index(scaling.fan_in) if scaling.fan_in in sizes else len(shape) - 1
    axes = tuple(range(len(shape)))
    return optax.contrib.MuonDimensionNumbers(axes[:cut], axes[cut:])


def _to_rms(scalings: Any, rms: float) -> optax.GradientTransformation:
    """Bring orthogonal steps, whose singular values are 1, to a root mean square."""

    def update_fn(updates, state, params=None):
        del params
        factors = jax.tree.map(
            lambda s: rms * math.sqrt(max(s.fan_in, s.fan_out)), scalings(updates)
        )
        return jax.tree.map(lambda u, f: (u * f).astype(u.dtype), updates, factors), (
            state
        )

    return optax.GradientTransformation(optax.init_empty_state, update_fn)
