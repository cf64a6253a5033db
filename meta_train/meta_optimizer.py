"""The optimizer of theta: warm-up and cosine decay, clipping; or a learned one."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mulo
from mulo import _hints as hints

CLIP_ORDERS = ("before", "after")
HAND_DESIGNED = ("adamw", "adam", "lion", "soap")

_NORM_DECAY = 0.99  # Per meta-step, of the mean squares of gradient norms.


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaOptimizerConfig:
    """What steps theta along the meta-gradients.

    Attributes:
      name: One of `HAND_DESIGNED`, or a released theta or the path of one: a learned
        optimizer then trains a learned optimizer. It has its own schedule, if any,
        over ``decay_steps``; the learning rates are not read.
      step_factor: On every step of a learned one.
      peak_lr: Learning rate after warm-up.
      end_lr: Learning rate at the end of the decay.
      warmup_steps: Meta-steps of linear warm-up from (nearly) zero.
      decay_steps: Meta-step at which the cosine decay reaches ``end_lr``, warm-up
        included, as in optax.
      weight_decay: Decoupled, of theta; Adam has none.
      clip_value: Entries of the gradient are clipped to ± this, before its norm is;
        infinity for none.
      clip_norm: Global norm at which clipping sets in.
      clip_order: ``"before"`` clips the gradient before the optimizer sees it;
        ``"after"`` clips the update, as the code of the μLO paper does, where it
        practically never acts.
    """

    name: str = "adamw"
    step_factor: float = 1.0
    peak_lr: float = 3e-3
    end_lr: float = 1e-3
    warmup_steps: int = 100
    decay_steps: int = 5_000
    weight_decay: float = 1e-4
    clip_value: float = math.inf
    clip_norm: float = 1.0
    clip_order: str = "before"

    def __post_init__(self):
        """Check every field."""
        if self.clip_order not in CLIP_ORDERS:
            raise ValueError(
                f"meta_optimizer.clip_order must be one of {CLIP_ORDERS}, got "
                f"{self.clip_order!r}."
            )
        for name in ("step_factor", "peak_lr", "clip_value", "clip_norm"):
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

    def make(self) -> optax.GradientTransformationExtraArgs:
        """Build the optax transformation; its update takes ``value``, the objective.

        Raises:
          ValueError: If there is none of that name; says the nearest.
        """
        return self.clipped(self._hand_designed() or self._learned())

    def clipped(
        self, optimizer: optax.GradientTransformation
    ) -> optax.GradientTransformationExtraArgs:
        """An optimizer with the clipping that these settings say around it."""
        clip = optax.clip_by_global_norm(self.clip_norm)
        order = (clip, optimizer) if self.clip_order == "before" else (optimizer, clip)
        if self.clip_value < math.inf:
            order = (optax.clip(self.clip_value), *order)
        return optax.with_extra_args_support(optax.chain(*order))

    def _hand_designed(self) -> optax.GradientTransformation | None:
        rate, decay = self.schedule(), self.weight_decay
        match self.name:
            case "adamw":
                return optax.adamw(rate, weight_decay=decay)
            case "adam":
                return optax.adam(rate)
            case "lion":
                return optax.lion(rate, weight_decay=decay)
            case "soap":
                return mulo.soap(rate, weight_decay=decay)
        return None

    def _learned(self) -> optax.GradientTransformation:
        try:
            pretrained = mulo.load(self.name)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"meta_optimizer.name must be one of {', '.join(HAND_DESIGNED)}, a "
                f"released theta or the path of one, got {self.name!r}."
                f"{hints.question(self.name, HAND_DESIGNED)} {error}"
            ) from error
        rate = getattr(pretrained.rule, "learning_rate", 1.0)
        return pretrained.transform(
            mup="standard",
            learning_rate=self.step_factor * rate,
            weight_decay=self.weight_decay,
            num_steps=self.decay_steps if pretrained.rule.NEEDS_NUM_STEPS else None,
        )


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
