"""Truncated evolution strategies: each truncation is blamed on its own noise alone.

Biased: what theta did in earlier truncations counts for nothing. The variance is the
lowest of all. Background: Metz et al., `Understanding and correcting pathologies in the
training of learned optimizers <https://arxiv.org/abs/1810.10180>`_, 2019.
"""

from meta_train.estimators import pairs


class TruncatedES(pairs.AntitheticPairs):
    """ε is new in every truncation, and ξ is ε."""

    def _noise(self, fresh, state):
        del state
        return pairs.Noise(pert=fresh, pert_sum=fresh, credit=fresh)
