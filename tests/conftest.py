"""Settings every test runs under: strict shapes, one place for shared data."""

import jax

# A silent broadcast between ranks is how per-parameter features go wrong.
jax.config.update("jax_numpy_rank_promotion", "raise")
