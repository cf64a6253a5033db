"""What holds for every convnet and MLP: twins, gradients, vmap."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.convnet_oracle import random_params
from helpers.task_trees import leaves_by_path, shapes_of

import mulo
import tasks
from tasks.models import layers

NAMES = (
    "mlp-w8-d2-tanh-ln-synthetic:4x4x1:3",
    "mlpae-w8-d3-synthetic:4x4x1:3",
    "conv-w4-d2-synthetic:4x4x1:3",
    "resnet-w8-d3-synthetic:4x4x1:3",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_sp_twin_has_the_same_shapes_and_no_scalings(name):
    task, twin = tasks.get(name), tasks.get(f"sp-{name}")
    assert shapes_of(task) == shapes_of(twin)
    assert jax.tree.structure(task.scalings()) == jax.tree.structure(shapes_of(task))
    assert twin.scalings() is None


@pytest.mark.parametrize("name", NAMES)
def test_once_the_readout_has_moved_every_leaf_has_a_gradient_and_the_loss_falls(name):
    task = tasks.get(name, batch_size=16)
    batch = task.sample(task.dataset.arrays("train"), jax.random.key(1))
    transform = mulo.adam(0.03, mup=task.scalings(), base_width=1.0)

    @jax.jit
    def step(params, state):
        key = jax.random.key(2)
        loss, grads = jax.value_and_grad(task.loss)(params, key, batch)
        updates, state = transform.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        return params, state, loss, grads

    params = jax.jit(task.init)(jax.random.key(0))
    state = transform.init(params)
    losses = []
    for count in range(4):
        params, state, loss, grads = step(params, state)
        losses.append(float(loss))
        for path, grad in leaves_by_path(grads).items():
            assert np.isfinite(grad).all(), path
            # A zero readout lets no gradient pass at the first step.
            if count > 0 or path.startswith("readout"):
                assert (grad != 0).any(), path
            else:
                assert (grad == 0).all(), path
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_particles_under_vmap_give_what_each_gives_alone(name):
    task = tasks.get(f"sp-{name}", batch_size=4)
    batch = task.sample(task.dataset.arrays("train"), jax.random.key(1))
    single = jax.jit(task.loss)
    particles = [random_params(shapes_of(task), seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *particles)
    key = jax.random.key(2)
    together = jax.jit(jax.vmap(task.loss, (0, None, None)))(stacked, key, batch)
    alone = [float(single(params, key, batch)) for params in particles]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert alone[0] != alone[1]


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_activation_is_refused_when_the_task_is_made(name):
    task = tasks.get(name)
    fields = ("name", "dataset", "batch_size", "width", "depth")
    given: dict[str, Any] = {field: getattr(task, field) for field in fields}
    given["activation"] = "step"
    with pytest.raises(ValueError, match=r"activation must be one of .* got 'step'"):
        type(task)(**given)


def test_norms_of_a_stream_far_from_zero_do_not_cancel():
    x = 1e4 + jax.random.normal(jax.random.key(0), (1, 2, 16))
    layer = layers.layer_norm("norm")
    normalized = layer.apply(layer.init(jax.random.key(1), x), x)
    centred = np.asarray(x, np.float64)
    centred -= centred.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    # The rounding of x itself is 1e-3 of its spread.
    np.testing.assert_allclose(normalized, expected, atol=5e-3)
