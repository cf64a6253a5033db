"""Compiling without optimizing, for tests whose time is XLA's, or as users do."""

import functools

import jax

_OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


_AS_USERS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}


jit = functools.partial(jax.jit, compiler_options=_OPTIONS)
# For what is compared with optimized programs, or whose program is looked at.
users_jit = functools.partial(jax.jit, compiler_options=_AS_USERS)


class Jax:
    """The module jax, for a module under test; its own jit optimizes nothing."""

    jit = staticmethod(jit)

    def __getattr__(self, name):
        return getattr(jax, name)
