"""Imitation: early on, theta is told to step as a hand-designed expert would.

The expert sees the gradients of the same runs. What counts of a step is, beside the
loss, how far the learned update u is from the expert's e, the mean over tensors of

    0.7 (1 - cos(u, e)) + 0.3 (‖u‖ - ‖e‖)² / (‖u‖² + ‖e‖²),

and the runs go along (1 - s) u + s e. The weight of the imitation and the share s fall
linearly to zero within the first meta-steps; after them, nothing of it is left.

Reference: Huang et al., `Efficient Long-Horizon Learning for Learned Optimization
<https://arxiv.org/abs/2607.06772>`_, 2026. Differs from it: the expert has accumulators
of its own.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mulo
from mulo import _hints as hints
from mulo._safe_sqrt import safe_sqrt

_DIRECTION, _LENGTH = 0.7, 0.3
_TINY = 1e-30  # Entries below count as none.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """Whom to imitate, how much and for how long.

    Attributes:
      expert: A hand-designed optimizer of :func:`mulo.optimizers.names`; empty: none.
      learning_rate: The expert's at a run's start, parameter units per step.
      end_learning_rate: At its end; the decay is a cosine over the run.
      weight: Of the imitation at the first meta-step, in [0, 1]; the loss has the rest.
      expert_share: s at the first meta-step, in [0, 1].
      until_meta_step: Meta-step at which both have fallen to zero.
    """

    expert: str = ""
    learning_rate: float = 1e-2
    end_learning_rate: float = 1e-4
    weight: float = 1.0
    expert_share: float = 0.5
    until_meta_step: int = 1_000

    def __post_init__(self):
        """Check every field."""
        names = mulo.optimizers.names()
        known = [n for n in names if not mulo.optimizers.info(n).learned]
        if self.expert and self.expert not in known:
            raise ValueError(
                "imitation.expert must be a hand-designed optimizer, got "
                f"{self.expert!r}{hints.nearest(self.expert, known)} Known: "
                f"{', '.join(known)}."
            )
        for name in ("learning_rate", "end_learning_rate"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"imitation.{name} must be finite and >= 0, got "
                    f"{getattr(self, name)}."
                )
        for name in ("weight", "expert_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(
                    f"imitation.{name} must lie in [0, 1], got {getattr(self, name)}."
                )
        if self.until_meta_step < 1:
            raise ValueError(
                f"imitation.until_meta_step must be >= 1, got {self.until_meta_step}."
            )

    def left_at(self, meta_step: jax.Array) -> jax.Array:
        """Share of the imitation that is left at a meta-step: shape=(), float32."""
        return jnp.maximum(0.0, 1.0 - meta_step / self.until_meta_step)

    def make(self, mup: Any, length: jax.Array) -> optax.GradientTransformation:
        """Make the expert for a run.

        Args:
          mup: Tree of :class:`mulo.mup.Scaling`, or None.
          length: shape=(), int32. Steps of the run.
        """

        def rate(count):
            done = jnp.minimum(count / length, 1.0)
            factor = 0.5 * (1.0 + jnp.cos(jnp.pi * done))
            span = self.learning_rate - self.end_learning_rate
            return self.end_learning_rate + span * factor

        return mulo.optimizers.get(self.expert, learning_rate=rate, mup=mup)


NONE = ImitationConfig()


def distance(updates: Any, expert: Any) -> jax.Array:
    """How far updates are from the expert's, in [0, 1.7]: shape=(), float32.

    Args:
      updates: A tree.
      expert: One of the same structure and shapes.
    """

    def one(u, e):
        # Neither direction nor share of length depends on scale: where entries are of
        # size one, nothing underflows, derivatives included.
        (u, u_scale), (e, e_scale) = _scaled(u), _scaled(e)
        most = jnp.maximum(u_scale, e_scale)
        u_norm, e_norm = safe_sqrt(jnp.sum(u * u)), safe_sqrt(jnp.sum(e * e))
        cosine = _ratio(jnp.sum(u * e), u_norm * e_norm)
        a, b = u_norm * (u_scale / most), e_norm * (e_scale / most)
        length = _ratio(jnp.square(a - b), jnp.square(a) + jnp.square(b))
        return _DIRECTION * (1.0 - cosine) + _LENGTH * length

    return jnp.mean(jnp.stack(jax.tree.leaves(jax.tree.map(one, updates, expert))))


def _scaled(x):
    """An array with its largest entry at 1 or -1, and what it was divided by."""
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    scale = jnp.maximum(scale, _TINY)
    return x / scale, scale


def _ratio(x, y):
    """Quotient x / y; 0, with derivatives 0, where y is 0."""
    positive = y > 0.0
    return jnp.where(positive, x / jnp.where(positive, y, 1.0), 0.0)
