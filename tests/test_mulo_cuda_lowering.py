"""Every optimizer becomes a program for CUDA devices, where there is none as well."""

import re

import jax
import jax.export
import jax.numpy as jnp
import pytest
from helpers import contract_parts as parts

# What XLA calls of cuSOLVER: eigenvectors and QR decompositions.
SOLVER = {"cusolver_syevd_ffi", "cusolver_geqrf_ffi", "cusolver_orgqr_ffi"}


@pytest.mark.parametrize("name", parts.NAMES)
def test_it_lowers_for_cuda(name):
    params = parts.shapes(parts.SHAPES)
    tx = parts.make(name)
    state = jax.eval_shape(tx.init, params)

    @jax.jit
    def step(grads, state, params):
        return tx.update(grads, state, params, value=jnp.float32(1.0))

    exported = jax.export.export(step, platforms=["cuda"])(params, state, params)
    assert exported.platforms == ("cuda",)
    calls = set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))
    assert calls <= (SOLVER if name in ("soap", "shampoo") else set())
