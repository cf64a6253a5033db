"""Text on the device: windows of one long row of tokens, drawn inside jit.

A split is its documents one after the other, each followed by a separator (see
:mod:`tasks.data.tokenizers`), as one row of n tokens. A training example is a window of
``window`` tokens at a random offset o, each of the n - window offsets as likely as any
other, and so it may begin inside a document and reach over several. Its label at every
position is the next token::

    inputs = tokens[o : o + window]
    labels = tokens[o + 1 : o + window + 1]

Evaluation goes through windows that lie end to end: number i begins at i * window, and
less than a window at the end of the split is left out.

Axes: b examples of a batch, n tokens of a split.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tasks import base
from tasks.data import names

MAX_TOKENS = (1 << 31) - 1  # Of a split: offsets are int32, as JAX has them by default.
_WINDOW = 64  # Tokens of a window, unless told otherwise.


@dataclasses.dataclass(frozen=True, eq=False)
class TextDataset(base.Dataset):
    """Splits of ``tokens``: uint8 or uint16 (n,); made by :func:`from_arrays`.

    Raises:
      ValueError: If the vocabulary does not fit 16 bits, or a split is of another type,
        no longer than a window or too long to be indexed.
    """

    vocabulary: int  # Tokens are in [0, vocabulary).
    window: int = _WINDOW  # Tokens of an example.

    def __post_init__(self) -> None:
        if not 1 <= self.vocabulary <= names.MAX_VOCABULARY:
            raise ValueError(
                "the vocabulary must have 1 to "
                f"{names.MAX_VOCABULARY} tokens, got {self.vocabulary} in "
                f"{self.name!r}."
            )
        if self.window < 1:
            raise ValueError(f"windows must have at least 1 token, got {self.window}.")
        for split, arrays in self.splits.items():
            tokens = arrays["tokens"]
            if tokens.ndim != 1 or tokens.dtype != token_dtype(self.vocabulary):
                raise ValueError(
                    f"tokens of a vocabulary of {self.vocabulary} must be one row of "
                    f"{token_dtype(self.vocabulary)}, got {tokens.dtype} of shape "
                    f"{tokens.shape} in the split {split!r} of {self.name!r}."
                )
            if tokens.size <= self.window:
                raise ValueError(
                    f"a split must have more tokens than a window of {self.window}, "
                    f"got {tokens.size} in the split {split!r} of {self.name!r}: "
                    "choose shorter windows."
                )
            if tokens.size > MAX_TOKENS:
                raise ValueError(
                    f"a split must have at most {MAX_TOKENS} tokens, got {tokens.size} "
                    f"in the split {split!r} of {self.name!r}: keep fewer, as in "
                    f"':first={MAX_TOKENS}', or use pieces instead of bytes."
                )

    def windows(self, length: int) -> "TextDataset":
        """Return the same text, cut into windows of ``length`` tokens.

        Raises:
          ValueError: If ``length`` is below 1, or a split has no more tokens than that.
        """
        return dataclasses.replace(self, window=length)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return (window,)."""
        return (self.window,)

    @property
    def input_dtype(self) -> Any:
        """Return int32."""
        return jnp.int32

    @property
    def num_classes(self) -> int:
        """Return the size of the vocabulary."""
        return self.vocabulary

    def sample(
        self, arrays: base.Arrays, key: jax.Array, batch_size: int
    ) -> base.Batch:
        """Draw int32 inputs and labels (b, window) at random offsets."""
        offsets = arrays["tokens"].shape[0] - self.window
        # One draw of 32 bits; `randint`, which draws twice, takes twice as long to
        # compile.
        return self._cut(arrays, _spread(jax.random.bits(key, (batch_size,)), offsets))

    def num_examples(self, arrays: base.Arrays) -> int:
        """Return the number of windows end to end: the last one needs a label more."""
        return (arrays["tokens"].shape[0] - 1) // self.window

    def examples(self, arrays: base.Arrays, index: jax.Array) -> base.Batch:
        """Return the windows of these numbers: int32 inputs and labels (b, window)."""
        return self._cut(arrays, jnp.asarray(index, jnp.int32) * self.window)

    def _cut(self, arrays: base.Arrays, offsets: jax.Array) -> base.Batch:
        tokens = jnp.asarray(arrays["tokens"])

        def at(offset):
            return jax.lax.dynamic_slice(tokens, (offset,), (self.window + 1,))

        windows = jax.vmap(at)(offsets).astype(jnp.int32)
        return {"inputs": windows[:, :-1], "labels": windows[:, 1:]}


def from_arrays(
    name: str, splits: Mapping[str, Mapping[str, np.ndarray]], vocabulary: int
) -> TextDataset:
    """Make a data set; windows have 64 tokens, fewer where a split is shorter.

    Args:
      name: Canonical name, with the options.
      splits: ``train``, ``valid`` and ``test``, as TextDataset holds them.
      vocabulary: Tokens are in [0, vocabulary).

    Raises:
      ValueError: As :class:`TextDataset`.
    """
    shortest = min(arrays["tokens"].size for arrays in splits.values())
    window = max(1, min(_WINDOW, shortest - 1))
    return TextDataset(name, splits, vocabulary, window)


def token_dtype(vocabulary: int) -> np.dtype:
    """Return the narrower of uint8 and uint16 that holds the vocabulary."""
    return np.dtype(np.uint8 if vocabulary <= 256 else np.uint16)


def _spread(bits: jax.Array, count: int) -> jax.Array:
    """Return floor(bits * count / 2^32), int32: random numbers below ``count``.

    Where ``count`` is not small against 2^32, some numbers are met by one value of
    ``bits`` more than others. Here those lie evenly among the rest; the remainder of a
    division would make them the beginning of the text.

    Args:
      bits: Any shape, uint32.
      count: In [1, 2^31).
    """
    high, low = bits >> 16, bits & np.uint32(0xFFFF)
    count_high, count_low = np.uint32(count >> 16), np.uint32(count & 0xFFFF)
    # The upper half of a product of 32 bits each, of which JAX has only the lower.
    first, second = high * count_low, low * count_high
    carry = (first & 0xFFFF) + (second & 0xFFFF) + (low * count_low >> 16)
    upper = high * count_high + (first >> 16) + (second >> 16) + (carry >> 16)
    return upper.astype(jnp.int32)
