"""Language modelling by a decoder-only transformer, in μP and in SP.

Tokens are embedded, learned positions added, :mod:`tasks.models.blocks` with causal
attention applied, and a readout of its own (not the embedding transposed) gives the
logits of the next token; under μP it starts at zero and its logits are times 1/width.
The loss is in nats per token, over all positions of a window. No dropout.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from tasks.data import text_dataset
from tasks.models import blocks


class _Network(nn.Module):
    """Tokens (b, s) to (logits (b, s, vocabulary), activations by layer name)."""

    config: blocks.BlockConfig
    vocabulary: int
    logit_multiplier: float

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        c = self.config
        embed = nn.Embed(
            self.vocabulary,
            c.width,
            embedding_init=blocks.table_init(sp=c.sp),
            name="token",
        )
        positions = self.param(
            "positions",
            blocks.table_init(sp=c.sp),
            (inputs.shape[1], c.width),
            jnp.float32,
        )
        x = embed(inputs) + positions[None]
        x, found = blocks.apply(c, x, {"embed": x})
        logits = blocks.readout(c, self.vocabulary, x, self.logit_multiplier)
        found["logits"] = logits
        return logits, found


@dataclasses.dataclass(frozen=True, eq=False)
class TransformerTask(blocks.BlocksTask):
    """A language model of ``depth`` blocks on windows of ``length`` tokens.

    Raises:
      ValueError: If the data set is none of text.
    """

    length: int = 64  # Tokens of a window.

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}.")
        if not isinstance(self.dataset, text_dataset.TextDataset):
            raise ValueError(
                f"a transformer needs text, got the data set {self.dataset.name!r}; "
                "one of text is pystdlib."
            )
        object.__setattr__(self, "dataset", self.dataset.windows(self.length))

    @property
    def positions(self) -> int:
        """Tokens of an example."""
        return self.length

    def _network(self, width: int, logit_multiplier: float) -> nn.Module:
        return _Network(
            self._block_config(width, causal=True),
            self.dataset.num_classes,
            logit_multiplier,
        )
