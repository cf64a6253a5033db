"""Settings every test runs under: strict shapes, fast compiling."""

import os

# Most of the tests' time is XLA's. Subprocesses inherit it, too.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax

# A silent broadcast between ranks is how per-parameter features go wrong.
jax.config.update("jax_numpy_rank_promotion", "raise")
