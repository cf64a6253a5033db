"""Compiling without optimizing, for tests whose time is XLA's."""

import functools

import jax

_OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


jit = functools.partial(jax.jit, compiler_options=_OPTIONS)


class Jax:
    """The module jax, for a module under test; its own jit optimizes nothing."""

    jit = staticmethod(jit)

    def __getattr__(self, name):
        return getattr(jax, name)
