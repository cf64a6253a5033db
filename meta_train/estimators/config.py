"""Settings of a gradient estimator, one class for all of them."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from mulo import _hints as hints

LOSS_DIFFS = ("value", "sign")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EstimatorConfig:
    """What the estimator is; a setting that the named one has no use for is not read.

    Attributes:
      name: One of :func:`meta_train.estimators.names`.
      sigma: Standard deviation of ε, in units of theta.
      num_pairs: P. Antithetic pairs of runs; as many single runs of truncated backprop.
      trunc_steps: S, inner steps between two meta-gradients.
      min_length_steps: Shortest inner training run.
      max_length_steps: Longest; lengths are log-uniform between the two.
      curriculum: Pairs of (meta-step, max_length_steps from then on), ascending.
      noise_period: K of GPES, truncations that share one ε.
      loss_diff: ``"value"``: L+ - L-. ``"sign"``: its sign, in nats, as VeLO was
        meta-trained: no estimate of the gradient, but of a direction.
      loss_diff_clip: L+ - L- is clipped to ± this (nats, as the objective counts
        them); infinity for the published estimators. Clipping biases the estimate and
        tames its tails.
      winsorize_frac: This share of the pairs, those with the largest |L+ - L-| of an
        estimate, is clipped to the largest of the others.
      num_truncs: Successive truncations whose estimates are averaged into one.
      restart_prob: Probability that runs begin from a state where earlier ones of the
        pair struggled, if one is kept (:mod:`meta_train.estimators.restarts`).
      restart_slack: By how much losses may rise per truncation, nats.
      restart_threshold: Nats of rise, slack subtracted, from which on states are kept.
    """

    name: str = "pes"
    sigma: float = 0.01
    num_pairs: int = 8
    trunc_steps: int = 50
    min_length_steps: int = 100
    max_length_steps: int = 1_000
    curriculum: tuple[tuple[int, int], ...] = ()
    noise_period: int = 4
    loss_diff: str = "value"
    loss_diff_clip: float = math.inf
    winsorize_frac: float = 0.0
    num_truncs: int = 1
    restart_prob: float = 0.0
    restart_slack: float = 0.0
    restart_threshold: float = 0.1

    def __post_init__(self):
        """Check every field but the name, which the table of estimators does."""
        if self.loss_diff not in LOSS_DIFFS:
            raise ValueError(
                f"estimator.loss_diff must be one of {', '.join(LOSS_DIFFS)}, got "
                f"{self.loss_diff!r}.{hints.question(str(self.loss_diff), LOSS_DIFFS)}"
            )
        for name in ("sigma", "loss_diff_clip"):
            if not getattr(self, name) > 0.0:
                raise ValueError(
                    f"estimator.{name} must be > 0, got {getattr(self, name)}."
                )
        if self.sigma == math.inf:
            raise ValueError("estimator.sigma must be finite, got inf.")
        if not 0.0 <= self.winsorize_frac < 1.0:
            raise ValueError(
                "estimator.winsorize_frac must lie in [0, 1), got "
                f"{self.winsorize_frac}."
            )
        if self.winsorize_frac and int(self.winsorize_frac * self.num_pairs) < 1:
            raise ValueError(
                f"estimator.winsorize_frac {self.winsorize_frac} of {self.num_pairs} "
                "pairs is less than one: nothing would be clipped."
            )
        if self.restart_prob and self.name in ("full_es", "truncated_backprop"):
            raise ValueError(
                f"estimator.restart_prob needs pairs that go on, {self.name} has none; "
                f"got {self.restart_prob}."
            )
        if self.loss_diff == "sign" and self.name == "pes_a":
            raise ValueError(
                'estimator.loss_diff must be "value" for pes_a: a sign and a gradient '
                "have no common scale."
            )
        if not 0.0 <= self.restart_prob <= 1.0:
            raise ValueError(
                f"estimator.restart_prob must lie in [0, 1], got {self.restart_prob}."
            )
        for name in ("restart_slack", "restart_threshold"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"estimator.{name} must be finite and >= 0 nats, got "
                    f"{getattr(self, name)}."
                )
        for name in (
            "num_pairs",
            "trunc_steps",
            "min_length_steps",
            "noise_period",
            "num_truncs",
        ):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"estimator.{name} must be >= 1, got {getattr(self, name)}."
                )
        if not all(_is_pair(stage) for stage in self.curriculum):
            raise ValueError(
                "estimator.curriculum must be pairs of (meta-step, longest run), like "
                f"((100, 2000),), got {self.curriculum!r}."
            )
        stages = tuple((int(start), int(longest)) for start, longest in self.curriculum)
        object.__setattr__(self, "curriculum", stages)  # Lists from JSON become tuples.
        for longest in (self.max_length_steps, *(longest for _, longest in stages)):
            if longest < self.min_length_steps:
                raise ValueError(
                    "estimator.max_length_steps (and those of estimator.curriculum) "
                    "must be at least estimator.min_length_steps, got "
                    f"{longest} < {self.min_length_steps}."
                )
        starts = [start for start, _ in stages]
        if starts != sorted(set(starts)) or (starts and starts[0] < 1):
            raise ValueError(
                "estimator.curriculum must have ascending meta-steps >= 1, got "
                f"{starts}."
            )

    @property
    def longest(self) -> int:
        """Longest inner training run of all, the curriculum's included."""
        return max(self.max_length_steps, *(x for _, x in self.curriculum), 0)

    def longest_at(self, meta_step: jax.typing.ArrayLike) -> jax.Array:
        """Longest inner training run begun at a meta-step: shape=(), int32."""
        starts = jnp.asarray([start for start, _ in self.curriculum], jnp.int32)
        longest = [self.max_length_steps, *(longest for _, longest in self.curriculum)]
        stage = jnp.sum(jnp.asarray(meta_step) >= starts)
        return jnp.asarray(longest, jnp.int32)[stage]

    def draw_length(self, key: jax.Array, longest: jax.Array) -> jax.Array:
        """Draw steps of a run, log-uniform, in whole truncations: shape=(), int32."""
        low, high = jnp.log(self.min_length_steps), jnp.log(longest)
        exponent = jax.random.uniform(key, (), minval=low, maxval=high)
        return self.whole_truncations(jnp.exp(exponent))

    def whole_truncations(self, steps: jax.Array) -> jax.Array:
        """Round steps up to whole truncations, at least one: int32."""
        truncations = jnp.maximum(jnp.ceil(steps / self.trunc_steps - 1e-4), 1.0)
        return truncations.astype(jnp.int32) * self.trunc_steps

    def clip_diff(self, diff: jax.Array) -> jax.Array:
        """Clip the pairs' L+ - L-, and the largest to the others: (P,), float32."""
        kept = jnp.clip(diff, -self.loss_diff_clip, self.loss_diff_clip)
        if not self.winsorize_frac:
            return kept
        rest = diff.size - int(self.winsorize_frac * diff.size)
        bound = jnp.sort(jnp.abs(kept))[rest - 1]
        return jnp.clip(kept, -bound, bound)


def _is_pair(stage) -> bool:
    return isinstance(stage, tuple | list) and len(stage) == 2
