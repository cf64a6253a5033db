import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.convnet_oracle import random_params, relu
from helpers.task_trees import leaves_by_path, shapes_of

import tasks
from tasks.models import autoencoder

SMALL = "mlpae-w8-d3-synthetic:3x2x2:3"


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("name", "activation", "logit_multiplier"),
    [
        (SMALL, relu, 1 / 8),
        ("sp-mlpae-w8-d3-tanh-synthetic:3x2x2:3", np.tanh, 1.0),
    ],
)
def test_the_loss_is_the_squared_error_against_raw_pixels_over_255(
    name, activation, logit_multiplier
):
    task = tasks.get(name)
    params = random_params(shapes_of(task), seed=1)
    index = np.array([0, 3, 4])
    pixels = task.dataset.arrays("train")["inputs"][index] / 255
    batch = task.dataset.examples(task.dataset.arrays("train"), index)

    x = np.float64(batch["inputs"]).reshape(3, 12)
    assert abs(x - pixels.reshape(3, 12)).max() > 0.5  # What it reads is normalized.
    found = task.activations(params, batch["inputs"])
    for i in range(3):
        layer = params[f"linear_{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        np.testing.assert_allclose(found[f"linear_{i}"], x, rtol=1e-5, atol=1e-5)
        x = activation(x)
    x = (x @ params["readout"]["kernel"] + params["readout"]["bias"]) * logit_multiplier
    np.testing.assert_allclose(found["logits"], x, rtol=1e-5, atol=1e-5)
    images = sigmoid(x).reshape(3, 3, 2, 2)
    np.testing.assert_allclose(
        task.apply(params, batch["inputs"]), images, rtol=1e-5, atol=1e-6
    )
    loss = np.mean((images - pixels) ** 2)
    got = task.loss(params, jax.random.key(0), batch)
    assert float(got) == pytest.approx(loss, rel=1e-5)
    assert got.shape == ()
    metrics = task.metrics(params, batch)
    assert list(metrics) == ["loss"]
    assert float(metrics["loss"]) == float(got)


def test_the_loss_of_a_constant_image_is_computed_by_hand():
    task = tasks.get("mlpae-w4-d3-synthetic:1x2x1:2")
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes_of(task))
    # Pixels 0.2 and 0.6 against sigmoid(0) = 0.5: (0.09 + 0.01) / 2.
    pixels = np.array([51, 153], np.uint8).reshape(1, 1, 2, 1)
    batch = task.dataset.normalize({"inputs": pixels, "labels": np.zeros(1, np.int32)})
    assert float(task.loss(params, jax.random.key(0), batch)) == pytest.approx(
        0.05, rel=1e-5
    )


@pytest.mark.parametrize(("depth", "sizes"), [(3, [8, 2, 8]), (5, [8, 8, 2, 8, 8])])
def test_the_bottleneck_is_in_the_middle_and_a_quarter_as_wide(depth, sizes):
    shapes = shapes_of(tasks.get(f"mlpae-w8-d{depth}-synthetic:3x2x2:3"))
    assert [shapes[f"linear_{i}"]["bias"].size for i in range(depth)] == sizes
    assert shapes["readout"]["kernel"].shape == (8, 12)
    assert len(shapes) == depth + 1


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # VeLOdrome's 128x32x128: 100,480 + 4,128 + 4,224 + 101,136.
        ("mlpae-w128-d3-synthetic:28x28x1:10", 209_968),
        ("mlpae-w64-d3-synthetic:28x28x1:10", 103_328),
    ],
)
def test_parameter_counts(name, count):
    for task in (tasks.get(name), tasks.get(f"sp-{name}")):
        assert sum(x.size for x in jax.tree.leaves(shapes_of(task))) == count


def test_scalings_take_the_bottleneck_as_growing_with_width():
    # 4 pixels: as many as there are units.
    scalings = leaves_by_path(tasks.get("mlpae-w4-d3-synthetic:2x2x1:2").scalings())
    kernels = {
        path.removesuffix("/kernel"): (s.role, s.fan_in, s.fan_out)
        for path, s in scalings.items()
        if path.endswith("kernel")
    }
    assert kernels == {
        "linear_0": ("input", 4, 4),
        "linear_1": ("hidden", 4, 1),
        "linear_2": ("hidden", 1, 4),
        "readout": ("output", 4, 4),
    }
    assert all(s.role == "input" for k, s in scalings.items() if k.endswith("bias"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlpae-w2-d3", "width of an autoencoder must be a multiple of 4, .* got 2"),
        ("mlpae-w10-d3", "width of an autoencoder must be a multiple of 4, .* got 10"),
        ("mlpae-w8-d1", "depth of an autoencoder must be odd and at least 3, .* got 1"),
        ("mlpae-w8-d4", "depth of an autoencoder must be odd and at least 3, .* got 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        tasks.get(f"{name}-synthetic:4x4x1:3")


def test_text_is_refused():
    text = tasks.data.load("synthetic_text:16", modality="text")
    with pytest.raises(ValueError, match=r"needs images, got .*synthetic_text:16"):
        autoencoder.MLPAutoencoderTask(
            name="x", dataset=text, batch_size=4, width=8, depth=3
        )
