"""The optimizer of theta: AdamW, warm-up and cosine decay, clipping by global norm."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

CLIP_ORDERS = ("before", "after")

_NORM_DECAY = 0.99  # Per meta-step, of the mean squares of gradient norms.


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaOptimizerConfig:
    """AdamW on meta-gradients.

    Attributes:
      peak_lr: Learning rate after warm-up.
      end_lr: Learning rate at the end of the decay.
      warmup_steps: Meta-steps of linear warm-up from (nearly) zero.
      decay_steps: Meta-step at which the cosine decay reaches ``end_lr``, warm-up
        included, as in optax.
      weight_decay: Decoupled, of theta.
      clip_norm: Global norm at which clipping sets in.
      clip_order: ``"before"`` clips the gradient before AdamW sees it; ``"after"``
        clips AdamW's update, as the code of the μLO paper does, where it practically
        never acts.
    """

    peak_lr: float = 3e-3
    end_lr: float = 1e-3
    warmup_steps: int = 100
    decay_steps: int = 5_000
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    clip_order: str = "before"

    def __post_init__(self):
        """Check every field."""
        if self.clip_order not in CLIP_ORDERS:
            raise ValueError(
                f"meta_optimizer.clip_order must be one of {CLIP_ORDERS}, got "
                f"{self.clip_order!r}."
            )
        for name in ("peak_lr", "clip_norm"):
            if not getattr(self, name) > 0.0:
                raise ValueError(
                    f"meta_optimizer.{name} must be > 0, got {getattr(self, name)}."
                )
        for name in ("end_lr", "weight_decay"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(
                    f"meta_optimizer.{name} must be >= 0, got {getattr(self, name)}."
                )
        if not 0 <= self.warmup_steps < self.decay_steps:
            raise ValueError(
                "meta_optimizer.warmup_steps must lie in [0, decay_steps), got "
                f"{self.warmup_steps} with decay_steps {self.decay_steps}."
            )

    def schedule(self) -> optax.Schedule:
        """Learning rate by meta-step: linear warm-up, cosine decay, constant."""
        return optax.warmup_cosine_decay_schedule(
            init_value=1e-7 * self.peak_lr,
            peak_value=self.peak_lr,
            warmup_steps=self.warmup_steps,
            decay_steps=self.decay_steps,
            end_value=self.end_lr,
        )

    def make(self) -> optax.GradientTransformation:
        """Build the optax transformation."""
        adamw = optax.adamw(self.schedule(), weight_decay=self.weight_decay)
        clip = optax.clip_by_global_norm(self.clip_norm)
        order = (clip, adamw) if self.clip_order == "before" else (adamw, clip)
        return optax.chain(*order)


def normalize(
    grads: Sequence[Any], norms: jax.Array, square: jax.Array, meta_step: jax.Array
) -> tuple[list[Any], jax.Array]:
    """Gradients over the root mean squares of their norms, and the mean squares.

    Args:
      grads: One of each family.
      norms: (families,), their global norms.
      square: (families,), running mean of the squares of earlier norms, from zero.
      meta_step: shape=(), int32: how many they are.
    """
    square = _NORM_DECAY * square + (1.0 - _NORM_DECAY) * jnp.square(norms)
    rms = jnp.sqrt(square / (1.0 - jnp.power(_NORM_DECAY, meta_step + 1)))
    rms = jnp.maximum(rms, jnp.finfo(rms.dtype).tiny)  # A gradient of zeros stays.
    scaled = [
        jax.tree.map(lambda x, i=i: x / rms[i], grad) for i, grad in enumerate(grads)
    ]
    return scaled, square
