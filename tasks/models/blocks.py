"""Pre-LayerNorm transformer blocks, in μP and in SP, and what their tasks share.

A block adds two branches to the residual stream: attention, and a GELU layer of four
times the width. Heads are of ``head_dim`` units, and wider networks have more of them,
unless the number of heads is fixed. Attention logits are times 1/head_dim under μP and
1/sqrt(head_dim) under SP. Hidden matrices (query, key, value, out, mlp_in, mlp_out) are
plain 2-D kernels.

Initial weights:

* Kernels as :mod:`tasks.models.layers` has them; under μP the readout is zero.
* Vectors of tokens and positions N(0, 1) under μP: inputs are one-hot, with a single
  entry that is not zero. Under SP the same, truncated at two, as ``haiku.Embed``.
* Biases zero, gains of layer norms one.

Differs from the μLO code under μP: that has tokens of std 1/sqrt(vocabulary), biases
N(0, 1) and no positions. Loss in nats per byte of tiny_shakespeare after 200 steps of
μAdam at the best of four learning rates (width 64, two blocks, 64 tokens, batch 16, two
seeds, each difference with a standard error of some 0.02):

==============  ==========================  ======================
.               tokens, positions of std 1  of std 1/16 = 256^-1/2
==============  ==========================  ======================
biases of zero  2.39                        2.50
biases N(0, 1)  2.41                        2.45
==============  ==========================  ======================

Zero biases gain as little on four more seeds (2.39 against 2.42) and with eight blocks
(2.48 against 2.51); a vision transformer does not tell them apart.

``alpha`` multiplies both branches of a block by ``depth ** -alpha``, under μP and SP
alike: 0 is the usual network; 1 is CompleteP's, whose learning rates need no factor of
depth.

With ``bf16`` matrices and activations of the branches are bfloat16. Parameters, the
residual stream, layer norms, attention logits, softmax and output logits stay float32.

Axes: b examples, s positions, h heads, k units per head, w width.

References:
  Yang et al., `Tensor Programs V <https://arxiv.org/abs/2203.03466>`_, 2022, for
  1/head_dim.
  Dey et al., `CompleteP <https://arxiv.org/abs/2505.01618>`_, 2025, for ``alpha``.
  ``src/mu_transformer.py`` of ``bentherien/mu_learned_optimization``, the μLO code.
  ``learned_optimization/tasks/models/transformer.py``, for haiku's defaults under SP.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tasks.models import layers, network

HEAD_DIM = 64  # Units, where a task names neither heads nor their size.


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """What the blocks of a network have in common."""

    width: int  # Units of the residual stream.
    heads: int  # Divides the width.
    depth: int  # Blocks.
    sp: bool  # Standard parametrization instead of μP.
    alpha: float  # Branches are times depth ** -alpha.
    causal: bool  # A position sees itself and those before it, and no others.
    dtype: Any  # Of matrix products: float32 or bfloat16.


class _Block(nn.Module):
    """Residual stream (b, s, w) to itself: (stream, activations by layer name)."""

    config: BlockConfig

    def _dense(self, name: str, features: int, x: jax.Array) -> jax.Array:
        dense = nn.Dense(
            features,
            dtype=self.config.dtype,
            kernel_init=layers.kernel_init(sp=self.config.sp),
            name=name,
        )
        return dense(x)

    def _attention(self, x: jax.Array, found: dict[str, jax.Array]) -> jax.Array:
        c = self.config
        head_dim = c.width // c.heads
        by_head = (*x.shape[:2], c.heads, head_dim)
        for name in ("query", "key", "value"):
            found[name] = self._dense(name, c.width, x)
        query, key, value = (
            found[name].reshape(by_head) for name in ("query", "key", "value")
        )
        # Not jax.nn.dot_product_attention: it does not give the logits, which a
        # coordinate check must see, and on windows this short its fused kernels would
        # save nothing.
        logits = jnp.einsum(
            "bqhk,bthk->bhqt", query, key, preferred_element_type=jnp.float32
        ) * attention_multiplier(head_dim, sp=c.sp)
        seen = logits
        if c.causal:
            mask = np.tril(np.ones((1, 1, *logits.shape[2:]), bool))
            seen = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
            logits = jnp.where(mask, logits, 0.0)
        found["attention_logits"] = logits
        weights = jax.nn.softmax(seen, axis=-1).astype(value.dtype)
        mixed = jnp.einsum("bhqt,bthk->bqhk", weights, value).reshape(x.shape)
        return self._dense("out", c.width, mixed)

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        c = self.config
        found: dict[str, jax.Array] = {}
        multiplier = c.depth**-c.alpha
        found["attention"] = self._attention(
            layers.layer_norm("ln_attention")(x), found
        )
        x = x + found["attention"].astype(jnp.float32) * multiplier
        found["mlp_in"] = self._dense(
            "mlp_in", 4 * c.width, layers.layer_norm("ln_mlp")(x)
        )
        found["mlp_out"] = self._dense("mlp_out", c.width, nn.gelu(found["mlp_in"]))
        x = x + found["mlp_out"].astype(jnp.float32) * multiplier
        return x, found


def attention_multiplier(head_dim: int, *, sp: bool) -> float:
    """Return the factor on the products of query and key."""
    return head_dim**-0.5 if sp else 1 / head_dim


def table_init(*, sp: bool) -> Any:
    """Return the initializer of token vectors; see the module's docstring."""
    return nn.initializers.truncated_normal(1.0) if sp else nn.initializers.normal(1.0)


def apply(
    config: BlockConfig, x: jax.Array, found: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Put a residual stream through all blocks and a last layer norm.

    To be called inside ``nn.compact``, whose module gets the blocks as children.

    Args:
      config: Of the blocks.
      x: (b, s, w), float32.
      found: Activations so far, by name.

    Returns:
      The normalized stream (b, s, w), float32; ``found`` and those of the blocks,
      float32, named ``block_<i>/<layer>`` and, for the stream, ``block_<i>``.
    """
    found = dict(found)
    for i in range(config.depth):
        x, inside = _Block(config, name=f"block_{i}")(x)
        for name, value in inside.items():
            found[f"block_{i}/{name}"] = value.astype(jnp.float32)
        found[f"block_{i}"] = x
    return layers.layer_norm("ln_final")(x), found


def readout(
    config: BlockConfig, classes: int, x: jax.Array, multiplier: float
) -> jax.Array:
    """Return logits (..., classes), float32, of (..., w); for ``nn.compact``.

    Args:
      config: Of the blocks.
      classes: Logits.
      x: Where from; rounded to ``config.dtype``, as the kernel is.
      multiplier: Factor on the logits.
    """
    dense = nn.Dense(
        classes,
        dtype=config.dtype,
        kernel_init=layers.kernel_init(sp=config.sp, readout=True),
        # bfloat16 logits would err by as much as 1/256 of their size.
        dot_general=_dot_general_to_float32,
        name="readout",
    )
    return dense(x) * multiplier


def _dot_general_to_float32(*args: Any, **kwargs: Any) -> jax.Array:
    return jax.lax.dot_general(*args, **kwargs, preferred_element_type=jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class BlocksTask(network.ClassifierTask):
    """A classifier of transformer blocks: ``depth`` of them, between embed and readout.

    Raises:
      ValueError: If the heads do not make up the width, or ``alpha`` is negative.
    """

    heads: int | None = None  # Fixed number of heads; None: it grows with the width.
    head_dim: int | None = None  # Units per head; None: HEAD_DIM, or width / heads.
    alpha: float = 0.0  # Residual branches are times depth ** -alpha.
    bf16: bool = False  # Compute in bfloat16; parameters are float32.

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha >= 0:
            raise ValueError(f"alpha must be at least 0, got {self.alpha}.")
        for field in ("heads", "head_dim"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} must be at least 1, got {value}.")
        if self.heads is not None and self.head_dim is not None:
            if self.heads * self.head_dim != self.width:
                raise ValueError(
                    f"heads × head_dim must be the width {self.width}, got "
                    f"{self.heads} × {self.head_dim}; give only one of them."
                )
        elif self.heads is not None and self.width % self.heads:
            raise ValueError(
                f"heads must divide the width {self.width}, got {self.heads}; "
                f"{_nearby('-h', self.width, self.heads)} would."
            )
        elif self.heads is None and self.width % (self.head_dim or HEAD_DIM):
            given = self.head_dim or HEAD_DIM
            raise ValueError(
                f"the width must be a multiple of head_dim "
                f"({given}{'' if self.head_dim else ', the default'}), got "
                f"{self.width}; {_nearby('-k', self.width, given)} would fit, or "
                "-h<heads> fixes the number of heads."
            )

    @property
    def _width_step(self) -> int:
        """A unit more in each head where their number is fixed, else a head more."""
        if self.heads is not None and self.head_dim is None:
            return self.heads
        return self.head_dim or HEAD_DIM

    def _block_config(self, width: int, *, causal: bool) -> BlockConfig:
        return BlockConfig(
            width=width,
            heads=self._heads_at(width),
            depth=self.depth,
            sp=self.sp,
            alpha=self.alpha,
            causal=causal,
            dtype=jnp.bfloat16 if self.bf16 else jnp.float32,
        )

    def _heads_at(self, width: int) -> int:
        if self.heads is not None and self.head_dim is None:
            return self.heads
        return width // (self.head_dim or HEAD_DIM)


def _nearby(option: str, width: int, given: int) -> str:
    """The divisor of the width that is nearest to what was given, as an option."""
    divisors = [n for n in range(1, width + 1) if width % n == 0]
    return f"{option}{min(divisors, key=lambda n: abs(n - given))}"
