"""What of a training run counts: weights over its steps, a transform, a split.

A run of n steps has step s cover the share [s/n, (s+1)/n] of it. A step's weight is the
mean over its share of a density on [0, 1]; so the weights of whole runs average to one
however short these are. Densities at x: 1 (``mean``), (p+1) x^p (``late``), and 1/f on
the last f, else 0 (``last``).

Axis names: S steps of a truncation.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from mulo import _hints as hints

WEIGHTS = ("mean", "late", "last")
TRANSFORMS = ("none", "log")
SPLITS = ("train", "valid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What meta-training makes small: a weighted mean of the transformed losses.

    Attributes:
      weights: One of `WEIGHTS`.
      power: p of ``late``; 0 is ``mean``.
      last_frac: f of ``last``, share of a run.
      transform: ``none``, or ``log`` for log(loss + log_floor): halving a loss counts
        the same wherever it is, as long as it is well above the floor.
      log_floor: Of ``log``, in nats.
      data: ``train``, the loss of the step's own batch, or ``valid``, that of the same
        parameters on a fresh batch of the task's validation split.
    """

    weights: str = "mean"
    power: float = 4.0
    last_frac: float = 0.05
    transform: str = "none"
    log_floor: float = 0.1
    data: str = "train"

    def __post_init__(self):
        """Check every field."""
        for field, known in (
            ("weights", WEIGHTS),
            ("transform", TRANSFORMS),
            ("data", SPLITS),
        ):
            value = getattr(self, field)
            if value not in known:
                raise ValueError(
                    f"objective.{field} must be one of {list(known)}, got {value!r}."
                    f"{hints.question(str(value), known)}"
                )
        if not 0.0 <= self.power < math.inf:
            raise ValueError(
                f"objective.power must be finite and >= 0, got {self.power}."
            )
        if not 0.0 < self.last_frac <= 1.0:
            raise ValueError(
                f"objective.last_frac must lie in (0, 1], got {self.last_frac}."
            )
        if not 0.0 < self.log_floor < math.inf:
            raise ValueError(
                f"objective.log_floor must be finite and > 0 nats, got "
                f"{self.log_floor}."
            )

    @property
    def is_plain(self) -> bool:
        """Whether it is the mean loss of the training batches."""
        plain = self.weights == "mean" and self.transform == "none"
        return plain and not self.needs_valid

    @property
    def needs_valid(self) -> bool:
        """Whether validation batches are drawn."""
        return self.data == "valid"

    def weigh(self, steps: jax.Array, length: jax.Array) -> jax.Array:
        """Weights of the steps of a run, one on average over all of them.

        Args:
          steps: (S,), integers in [0, length).
          length: shape=(), int32. Steps of the whole run.

        Returns:
          (S,), float32.
        """
        count = jnp.asarray(length).astype(jnp.float32)
        left = (length - 1 - steps).astype(jnp.float32)  # Steps after this one.
        if self.weights == "late":
            # n (x^q - (x - 1/n)^q) with x the end of the step's share and q = p + 1,
            # written so that long runs do not cancel.
            end = (steps + 1).astype(jnp.float32)
            power = self.power + 1.0
            share = -jnp.expm1(power * jnp.log1p(-1.0 / end))
            return count * jnp.power(end / count, power) * share
        if self.weights == "last":
            covered = jnp.clip(count * self.last_frac - left, 0.0, 1.0)
            return covered / self.last_frac
        return jnp.ones_like(left)

    def mean(self, losses: jax.Array, step: jax.Array, length: jax.Array) -> jax.Array:
        """Mean over a truncation of weight times transformed loss.

        Args:
          losses: (2 signs, S), float32, nats: of the split that counts.
          step: shape=(), int32. Steps done before the truncation.
          length: shape=(), int32. Steps of the whole run.

        Returns:
          (2 signs,), float32.
        """
        if self.transform == "log":
            losses = jnp.log(losses + self.log_floor)
        if self.weights != "mean":
            steps = step + jnp.arange(losses.shape[1], dtype=jnp.int32)
            losses = self.weigh(steps, length)[None, :] * losses
        return jnp.mean(losses, axis=1)


MEAN_LOSS = ObjectiveConfig()  # What PES is published with.
