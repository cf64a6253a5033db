import jax
import numpy as np
import pytest
from helpers.convnet_oracle import conv, group_norm, random_params, relu
from helpers.task_trees import leaves_by_path, shapes_of

import tasks
from tasks.models import resnet


@pytest.mark.parametrize(
    ("name", "activation", "multiplier", "logit_multiplier"),
    [
        ("resnet-w8-d3-synthetic:5x4x2:3", relu, 1.0, 1 / 32),
        ("sp-resnet-w8-d3-tanh-a1-synthetic:5x4x2:3", np.tanh, 1 / 3, 1.0),
    ],
)
def test_the_forward_pass_equals_loops_in_numpy(
    name, activation, multiplier, logit_multiplier
):
    task = tasks.get(name, batch_size=2)
    params = random_params(shapes_of(task), seed=1)
    inputs = np.random.default_rng(0).standard_normal((2, 5, 4, 2)).astype(np.float32)
    got = jax.jit(task.activations)(params, inputs)

    expected = {}
    x = expected["stem"] = conv(inputs, params["stem"]["kernel"])
    for i, stride in enumerate((1, 2, 2)):
        block = params[f"block_{i}"]
        before = activation(group_norm(x, **block["norm_0"]))
        y = conv(before, block["conv_0"]["kernel"], stride)
        expected[f"block_{i}/conv_0"] = y
        y = activation(group_norm(y, **block["norm_1"]))
        y = expected[f"block_{i}/conv_1"] = conv(y, block["conv_1"]["kernel"])
        if i > 0:
            x = conv(before, block["shortcut"]["kernel"], stride)
        x = expected[f"block_{i}"] = x + y * multiplier
    x = activation(group_norm(x, **params["norm"])).mean(axis=(1, 2))
    logits = x @ params["readout"]["kernel"] + params["readout"]["bias"]
    expected["logits"] = logits * logit_multiplier

    assert got.keys() == expected.keys()
    assert got["block_2"].shape == (2, 2, 1, 32)
    for layer, value in expected.items():
        # Sums of up to 288 terms of size 1 in float32.
        np.testing.assert_allclose(
            got[layer], value, rtol=1e-4, atol=1e-4, err_msg=layer
        )


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # Stem 432; blocks 4,672 + 14,432 + 57,536; norm 128; readout 650.
        ("resnet-w16-d3-synthetic:32x32x3:10", 77_850),
        # And 4,672 + 18,560 + 73,984 for a second block in each stage.
        ("resnet-w16-d6-synthetic:32x32x3:10", 175_066),
        # Stem 864; blocks 18,560 + 57,536 + 229,760; norm 256; readout 1,290.
        ("resnet-w32-d3-synthetic:32x32x3:10", 308_266),
    ],
)
def test_parameter_counts(name, count):
    for task in (tasks.get(name), tasks.get(f"sp-{name}")):
        assert sum(x.size for x in jax.tree.leaves(shapes_of(task))) == count


def test_only_the_first_block_of_a_later_stage_has_a_shortcut_with_weights():
    shapes = shapes_of(tasks.get("resnet-w8-d6-synthetic:4x4x1:3"))
    blocks = [shapes[f"block_{i}"] for i in range(6)]
    assert ["shortcut" in block for block in blocks] == [
        False,
        False,
        *[True, False] * 2,
    ]
    channels = [block["conv_1"]["kernel"].shape[-1] for block in blocks]
    assert channels == [8, 8, 16, 16, 32, 32]


def test_scalings_are_hidden_for_all_kernels_but_the_stem_and_the_readout():
    # 8 channels in the images, in the first stage and as classes.
    scalings = leaves_by_path(tasks.get("resnet-w8-d3-synthetic:4x4x8:8").scalings())
    for path, scaling in scalings.items():
        if path == "stem/kernel" or not path.endswith("kernel"):
            assert scaling.role == "input", path
        elif path == "readout/kernel":
            assert (scaling.role, scaling.fan_in) == ("output", 32)
        else:
            assert scaling.role == "hidden", path
    assert scalings["block_2/conv_0/kernel"].fan_in == 9 * 16
    assert scalings["block_2/shortcut/kernel"].fan_in == 16


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_alpha_multiplies_what_a_block_adds_by_a_power_of_depth(alpha):
    plain = tasks.get("resnet-w8-d3-synthetic:4x4x1:3", batch_size=2)
    scaled = tasks.get(f"resnet-w8-d3-a{alpha:g}-synthetic:4x4x1:3", batch_size=2)
    params = random_params(shapes_of(plain), seed=2)
    inputs = np.random.default_rng(0).standard_normal((2, 4, 4, 1)).astype(np.float32)
    one, other = (jax.jit(task.activations)(params, inputs) for task in (plain, scaled))
    # The first block's shortcut is the identity and sees the same stem.
    added = one["block_0"] - one["stem"]
    np.testing.assert_allclose(
        other["block_0"] - other["stem"], added * 3**-alpha, rtol=1e-4, atol=1e-4
    )
    assert float(np.std(added)) > 0.1


@pytest.mark.parametrize("name", ["sp-resnet-w8-d3", "resnet-w8-d3"])
def test_initial_gains_are_one_and_only_the_readout_has_a_bias(name):
    task = tasks.get(f"{name}-synthetic:4x4x1:3")
    sp = name.startswith("sp-")
    for path, leaf in leaves_by_path(jax.jit(task.init)(jax.random.key(0))).items():
        if path.endswith("scale"):
            assert (leaf == 1).all(), path
        elif path == "readout/bias":
            assert (leaf == 0).all() == sp
        elif path.endswith("bias"):
            assert "norm" in path
            assert (leaf == 0).all(), path
        else:
            fan_in = np.prod(leaf.shape[:-1])
            std = (0.8796 if sp else 1.0) * fan_in**-0.5
            if path == "readout/kernel" and not sp:
                std = 0.0
            # Four standard errors.
            error = 4 / np.sqrt(2 * leaf.size)
            assert np.std(leaf) == pytest.approx(std, rel=error), path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet-w4-d3", "width of a ResNet must be a multiple of 8, .* got 4"),
        ("resnet-w12-d3", "width of a ResNet must be a multiple of 8, .* got 12"),
        ("resnet-w8-d2", "depth of a ResNet must be a multiple of 3, .* got 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        tasks.get(f"{name}-synthetic:4x4x1:3")


@pytest.mark.parametrize("alpha", [-1.0, float("nan")])
def test_an_alpha_that_is_not_at_least_zero_is_refused(alpha):
    dataset = tasks.data.load("synthetic:4x4x1:3")
    with pytest.raises(ValueError, match="alpha must be at least 0"):
        resnet.ResNetTask(
            name="x", dataset=dataset, batch_size=4, width=8, depth=3, alpha=alpha
        )
