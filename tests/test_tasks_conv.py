import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.convnet_oracle import conv, random_params, relu
from helpers.task_trees import leaves_by_path, shapes_of

import tasks


@pytest.mark.parametrize(
    ("name", "activation", "logit_multiplier"),
    [
        ("conv-w2-d3-synthetic:5x4x2:3", relu, 1 / 4),
        ("sp-conv-w2-d3-tanh-synthetic:5x4x2:3", np.tanh, 1.0),
    ],
)
def test_the_forward_pass_equals_loops_in_numpy(name, activation, logit_multiplier):
    task = tasks.get(name, batch_size=2)
    params = random_params(shapes_of(task), seed=1)
    inputs = np.random.default_rng(0).standard_normal((2, 5, 4, 2)).astype(np.float32)
    got = jax.jit(task.activations)(params, inputs)

    assert set(got) == {"conv_0", "conv_1", "conv_2", "logits"}
    x = inputs
    for i, (stride, shape) in enumerate(
        [(2, (2, 3, 2, 2)), (1, (2, 3, 2, 4)), (1, (2, 3, 2, 4))]
    ):
        layer = params[f"conv_{i}"]
        x = conv(x, layer["kernel"], stride, layer["bias"])
        assert x.shape == shape
        np.testing.assert_allclose(got[f"conv_{i}"], x, rtol=1e-5, atol=1e-5)
        x = activation(x)
    readout = params["readout"]
    logits = x.mean(axis=(1, 2)) @ readout["kernel"] + readout["bias"]
    np.testing.assert_allclose(
        got["logits"], logits * logit_multiplier, rtol=1e-5, atol=1e-5
    )


def test_layers_are_named_in_the_order_in_which_they_are_computed():
    task = tasks.get("conv-w2-d3-synthetic:4x4x1:3")
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes_of(task))
    found = task.activations(params, jnp.zeros((1, 4, 4, 1)))
    assert list(found) == ["conv_0", "conv_1", "conv_2", "logits"]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # VeLOdrome's 32x64x64: 3·9·32 + 32, 32·9·64 + 64, 64·9·64 + 64, 64·10 + 10.
        ("conv-w32-d3-synthetic:32x32x3:10", 56_970),
        ("conv-w64-d3-synthetic:32x32x3:10", 224_522),
        # One convolution: 9·8 + 8, 8·10 + 10.
        ("conv-w8-d1-synthetic:8x8x1:10", 170),
    ],
)
def test_parameter_counts(name, count):
    for task in (tasks.get(name), tasks.get(f"sp-{name}")):
        assert sum(x.size for x in jax.tree.leaves(shapes_of(task))) == count


def test_scalings_count_the_pixels_of_a_kernel_as_fan_in():
    # 4 channels in the images, in the first layer and as classes.
    scalings = leaves_by_path(tasks.get("conv-w4-d3-synthetic:4x4x4:4").scalings())
    found = {path: (s.role, s.fan_in) for path, s in scalings.items()}
    assert found == {
        "conv_0/kernel": ("input", 36),
        "conv_1/kernel": ("hidden", 36),
        "conv_2/kernel": ("hidden", 72),
        "readout/kernel": ("output", 8),
        **{f"conv_{i}/bias": ("input", 1) for i in range(3)},
        "readout/bias": ("input", 1),
    }


@pytest.mark.parametrize("sp", [False, True])
def test_initial_kernels_have_variance_one_over_fan_in_or_haikus(sp):
    task = tasks.get(f"{'sp-' if sp else ''}conv-w64-d2-synthetic:4x4x3:10")
    params = leaves_by_path(jax.jit(task.init)(jax.random.key(0)))
    for name, fan_in in (("conv_0", 27), ("conv_1", 576)):
        kernel = params[f"{name}/kernel"]
        # Four standard errors; 0.8796 is the std of a normal truncated at 2.
        std = (0.8796 if sp else 1.0) * fan_in**-0.5
        error = 4 / np.sqrt(2 * kernel.size)
        assert np.std(kernel) == pytest.approx(std, rel=error)
        assert (params[f"{name}/bias"] == 0).all() == sp
    assert (params["readout/kernel"] == 0).all() != sp
