"""Every optimizer becomes a program for CUDA devices, where there is none as well."""

import re

import jax
import jax.export
import jax.numpy as jnp
import pytest
from helpers import contract_parts as parts

import mulo

# What XLA calls of cuSOLVER: eigenvectors and QR decompositions.
SOLVER = {"cusolver_syevd_ffi", "cusolver_geqrf_ffi", "cusolver_orgqr_ffi"}

# Their products are those of Newton-Schulz iterations, in the precision of the device.
ORTHOGONALIZE = ("muon", "learned_muon", "celo2")


@pytest.mark.parametrize("name", parts.NAMES)
def test_it_lowers_for_cuda(name, monkeypatch):
    # What is traced for accelerators, not for the CPU that is here.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    params = parts.shapes(parts.SHAPES)
    tx = parts.make(name)
    state = jax.eval_shape(tx.init, params)

    @jax.jit
    def step(grads, state, params):
        return tx.update(grads, state, params, value=jnp.float32(1.0))

    exported = jax.export.export(step, platforms=["cuda"])(params, state, params)
    assert exported.platforms == ("cuda",)
    program = exported.mlir_module()
    calls = set(re.findall(r"custom_call @(\w+)", program))
    assert calls <= (SOLVER if name in ("soap", "shampoo") else set())
    assert name in ORTHOGONALIZE or not rounded(program)


def rounded(program):
    """Matrix products that are not at full float32 precision."""
    products = re.findall(r"stablehlo\.dot_general.*", program)
    return [p for p in products if "precision = [HIGHEST, HIGHEST]" not in p]


def test_products_of_a_wide_network_are_at_full_precision(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    rule = mulo.SmallFC(hidden_size=32)
    tx = rule.transform(rule.init(jax.random.key(0)))
    params = {"w": jnp.ones((6, 4)), "b": jnp.ones(4)}
    step = jax.jit(lambda x: tx.update(x, tx.init(x), x))
    program = jax.export.export(step, platforms=["cuda"])(params).mlir_module()
    assert program.count("stablehlo.dot_general") >= 6  # Three layers, twice.
    assert not rounded(program)
