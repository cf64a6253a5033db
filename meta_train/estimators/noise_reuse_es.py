"""Noise-reuse evolution strategies (NRES), also known as ES-Single.

A pair keeps the ε of its runs' first truncation to their end, and ξ is that ε: unbiased
up to the smoothing, with a variance that does not grow with the number of truncations.
A meta-step then moves theta, and a run goes on around the new theta with its old ε.

References:
  Li et al., `Variance-Reduced Gradient Estimation via Noise-Reuse in Online Evolution
  Strategies <https://arxiv.org/abs/2304.12180>`_, 2023.
  Vicol, Kolter, Swersky, `Low-Variance Gradient Estimation in Unrolled Computation
  Graphs with ES-Single <https://arxiv.org/abs/2304.11153>`_, 2023.
"""

from meta_train.estimators import pairs


class NoiseReuseES(pairs.AntitheticPairs):
    """ε is new in a run's first truncation, and ξ is ε."""

    def _noise(self, fresh, state):
        pert = pairs.choose(state.step == 0, fresh, state.pert_sum)
        return pairs.Noise(pert=pert, pert_sum=pert, credit=pert)
