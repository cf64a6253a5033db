"""Compiling as users do, for tests of released and published numbers.

Other programs of the tests are compiled without optimizing: see conftest.py.
"""

import functools

import jax

_OPTIONS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}
if jax.__version_info__[:2] == (0, 10):
    _OPTIONS["xla_cpu_use_fusion_emitters"] = True


jit = functools.partial(jax.jit, compiler_options=_OPTIONS)
