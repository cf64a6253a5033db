"""Axes in another order, and layers that share a leaf: read as they are, or refused."""

import dataclasses
import math
import warnings

import jax
import jax.numpy as jnp
import pytest
from helpers.mup_parts import network, one, shape

from mulo import mup
from mulo.mup import Scaling
from mulo.mup import _axes as axes


@pytest.mark.parametrize(
    ("layout", "narrow", "target", "expected"),
    [
        ("out_in", (8, 3), (16, 3), Scaling("input", 3, 16)),
        ("out_in", (8, 8), (16, 16), Scaling("hidden", 16, 16)),
        ("out_in", (32, 8), (64, 16), Scaling("hidden", 16, 64)),  # Up,
        ("out_in", (8, 32), (16, 64), Scaling("hidden", 64, 16)),  # and down.
        ("out_in", (10, 8), (10, 16), Scaling("output", 16, 10)),
        ("out_in", (8, 3, 5, 5), (16, 3, 5, 5), Scaling("input", 75, 16)),
        ("out_in", (32, 8, 5, 5), (64, 16, 5, 5), Scaling("hidden", 400, 64)),
        ("out_in", (10, 8, 1, 1), (10, 16, 1, 1), Scaling("output", 16, 10)),
        ("in_out_kernel", (8, 32, 5, 5), (16, 64, 5, 5), Scaling("hidden", 400, 64)),
        ("kernel_out_in", (5, 5, 32, 8), (5, 5, 64, 16), Scaling("hidden", 400, 64)),
        ("kernel_out_in", (5, 5, 3, 8), (5, 5, 3, 16), Scaling("output", 400, 3)),
    ],
)
def test_a_layout_says_in_which_order_axes_come(layout, narrow, target, expected):
    got = mup.infer(
        {"leaf": shape(*narrow), "bias": shape(8, 1, 1)},
        {"leaf": shape(*target), "bias": shape(16, 1, 1)},
        layout=layout,
    )
    assert got["leaf"] == dataclasses.replace(expected, layout=layout)
    assert got["bias"] == Scaling("input", 1, 16)


def equinox_mlp(width):
    return {
        "embed": {"weight": shape(50, width)},
        "layers": [
            {"weight": shape(width, 3), "bias": shape(width)},
            {"weight": shape(width, width), "bias": shape(width)},
            {"weight": shape(10, width), "bias": shape(10)},
        ],
    }


def test_layouts_hold_by_path_and_the_first_that_matches_wins():
    tree = mup.infer(
        equinox_mlp(8),
        equinox_mlp(16),
        layout={"embed/*": "in_out", "*": "out_in"},
    )
    assert tree["embed"]["weight"] == Scaling("input", 50, 16)
    first, mid, last = (layer["weight"] for layer in tree["layers"])
    assert (first.role, first.fan_in) == ("input", 3)
    assert (mid.role, mid.fan_in) == ("hidden", 16)
    assert (last.role, last.fan_in, last.layout) == ("output", 16, "out_in")


def test_a_bias_tells_the_layout():
    with pytest.raises(ValueError, match=r"'layers/0/weight' of shape \(16, 3\).*bias"):
        mup.infer(equinox_mlp(8), equinox_mlp(16))
    # torch's names, in one flat tree; and the other way round.
    flat = [{"a.weight": shape(w, 3), "a.bias": shape(w)} for w in (8, 16)]
    with pytest.raises(ValueError, match=r'layout="out_in"'):
        mup.infer(*flat)
    with pytest.raises(ValueError, match=r"'in/kernel' .* layout 'out_in'.*'in_out'"):
        mup.infer(network(8), network(16), layout="out_in")
    # flax's transposed convolution has its output before its input, if asked to.
    deconv = [{"kernel": shape(3, 3, 2 * w, w), "bias": shape(2 * w)} for w in (8, 16)]
    with pytest.raises(ValueError, match=r'layout="kernel_out_in"'):
        mup.infer(*deconv)
    with pytest.raises(ValueError, match=r'layout="out_in"'):
        mup.infer(*flat, overrides={"a.weight": "hidden"})
    # A convolution's axes cannot be told at all.
    conv = [{"c": {"weight": shape(w, 3, 5, 5)}} for w in (8, 16)]
    with pytest.raises(ValueError, match=r"ambiguous.*layout="):
        mup.infer(*conv)
    # Who speaks for a whole leaf knows better.
    mup.infer(*flat, overrides={"a.weight": Scaling("input", 16, 3)})


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("oi", "layout must be one of in_out, out_in, in_out_kernel"),
        ({"mid/kernel": "oi"}, "layout must be one of"),
        (
            {"mid/kernl": "out_in"},
            r"layout the pattern 'mid/kernl' matches no leaf; did",
        ),
    ],
)
def test_bad_layouts_are_errors(layout, message):
    with pytest.raises(ValueError, match=message):
        mup.infer(network(8), network(16), layout=layout)


def test_stacked_layers_are_described_by_copies():
    narrow, target = network(8, (3,)), network(16, (3,))
    stacked = Scaling("hidden", 16, 16, copies=3)
    tree = mup.infer(narrow, target, overrides={"mid/kernel": stacked})
    multipliers = mup.update_multipliers(tree, optimizer="adam", base_width=1.0)
    assert multipliers["mid"]["kernel"] == 1 / 16


@pytest.mark.parametrize(
    ("narrow", "target", "kwargs", "expected"),
    [
        ((5, 8, 8), (5, 16, 16), {"stacked": {"leaf": 1}}, ("hidden", 16, 16, 5)),
        ((5, 8), (5, 16), {"stacked": {"leaf": 1}}, ("input", 1, 16, 5)),
        ((5,), (5,), {"stacked": {"leaf": 1}}, ("input", 1, 1, 5)),
        ((5, 2, 8, 3), (5, 2, 16, 3), {"stacked": {"le*": 2}}, ("output", 16, 3, 10)),
        (
            (5, 8, 3),
            (5, 16, 3),
            {"stacked": {"leaf": 1}, "layout": "out_in"},
            ("input", 3, 16, 5),
        ),
        ((8, 24), (16, 48), {"fused": {"leaf": 3}}, ("hidden", 16, 16, 3)),
        ((8, 3, 2, 4), (16, 3, 4, 4), {"fused": {"leaf": 3}}, ("hidden", 16, 16, 3)),
        (
            (24, 8),
            (48, 16),
            {"fused": {"leaf": 3}, "layout": "out_in"},
            ("hidden", 16, 16, 3),
        ),
        ((24,), (48,), {"fused": {"leaf": 3}}, ("input", 1, 16, 3)),
        (
            (5, 8, 24),
            (5, 16, 48),
            {"stacked": {"leaf": 1}, "fused": {"leaf": 3}},
            ("hidden", 16, 16, 15),
        ),
    ],
)
def test_copies_in_one_leaf_are_told_apart(narrow, target, kwargs, expected):
    role, fan_in, fan_out, copies = expected
    got = one(narrow, target, **kwargs)
    assert (got.role, got.fan_in, got.fan_out, got.copies) == expected
    # And stepped apart: the axes that hold them belong to the leaf.
    parts = axes.split(jnp.zeros(target), got.layout, got.copy_axes)
    assert parts.shape[0] == copies
    assert math.prod(parts.shape[1:]) == fan_in * fan_out
    # A role that is said changes nothing else.
    said = one(narrow, target, overrides={"leaf": role}, **kwargs)
    assert said == got


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"stacked": {"mid/*": 1}}, r"'mid/bias' has shape \(8,\) .* grow with width"),
        ({"stacked": {"mid/bias": 2}}, r"fewer than the 2 leading axes"),
        ({"stacked": {"mid/bias": 0}}, "number in stacked must be an integer >= 1"),
        ({"stacked": {"blocks/*": 1}}, "stacked the pattern 'blocks/.' matches no"),
        ({"fused": {"mid/kernel": 3}}, r"'mid/kernel' of shape .* holds 3 copies"),
    ],
)
def test_copies_that_are_not_there_are_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        mup.infer(network(8), network(16), **kwargs)


def test_a_bias_in_a_box_is_still_a_bias():
    # flax's partitioning boxes and nnx states end every path in "value".
    def tree(heads):
        return {
            "query": {"bias": {"value": jax.ShapeDtypeStruct((heads, 4), "float32")}}
        }

    scaling = mup.infer(tree(2), tree(8))["query"]["bias"]["value"]
    assert (scaling.role, scaling.fan_in) == ("input", 1)


@pytest.mark.parametrize("override", ["input", {"role": "input", "layout": "out_in"}])
@pytest.mark.parametrize("kernel", [(), (3,), (3, 3)])
def test_a_weight_whose_first_axis_grows_is_an_input_in_another_layout(
    kernel, override
):
    def model(width):
        return {"c": {"weight": shape(width, 3, *kernel)}, "f": shape(width, 10)}

    def infer(narrow, target):
        return mup.infer(narrow, target, overrides={"c/*": override, "f": "output"})

    found = infer(model(8), model(16))["c"]["weight"]
    assert found == Scaling("input", 3 * math.prod(kernel), 16, layout="out_in")


@pytest.mark.parametrize(
    ("weight", "bias", "size"),
    [
        ("W", "b", ("w", 64)),
        ("w1", "b1", ("w", 64)),
        ("in_proj_weight", "in_proj_bias", ("3w", "w")),
        ("weight_ih", "bias_ih", ("4w", 3)),
    ],
)
def test_a_bias_tells_the_layout_whatever_the_two_are_called(weight, bias, size):
    def model(width):
        sizes = {"w": width, "3w": 3 * width, "4w": 4 * width}
        a, b = (sizes.get(n, n) for n in size)
        return {
            "inp": {weight: shape(a, b), bias: shape(a)},
            "mid": shape(width, width),
        }

    with pytest.raises(ValueError, match=f"'inp/{weight}' .*which 'out_in' explains"):
        mup.infer(model(8), model(16))
    mup.infer(model(8), model(16), layout="out_in")


def test_layers_that_share_leaves_without_biases_are_told_by_their_gains():
    def model(width):
        blocks = {
            "norm": {"scale": shape(3, width)},
            "up": {"kernel": shape(3, width, 4 * width)},
            "down": {"kernel": shape(3, 4 * width, width)},
        }
        return {"params": {"blocks": blocks, "out": {"kernel": shape(width, 10)}}}

    with pytest.warns(UserWarning, match=r'stacked={"params/blocks/\*": 1}'):
        mup.infer(model(8), model(16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mup.infer(model(8), model(16), stacked={"params/blocks/*": 1})


def test_the_layouts_that_a_bias_and_the_axes_that_grow_allow_are_listed():
    def model(*last):
        return lambda w: {
            "mid": {"weight": shape(w, w)},
            "rgb": {"weight": shape(*(w if n == "w" else n for n in last))},
        }

    def infer(last, layout):
        narrow, target = model(*last)(8), model(*last)(16)
        for tree in (narrow, target):
            tree["rgb"]["bias"] = shape(3)
        return mup.infer(narrow, target, layout={"rgb/*": layout})

    # Transposed convolutions to three channels, torch's (in, out, 5, 5) and flax's.
    with pytest.raises(ValueError, match="entries, which 'in_out_kernel' explains"):
        infer(("w", 3, 5, 5), "out_in")
    # In no other layout is it a side that grows.
    with pytest.raises(ValueError, match="entries, which 'kernel_out_in' explains"):
        infer((3, 3, 3, "w"), "in_out")
    with pytest.raises(ValueError, match="which 'in_out' or 'kernel_out_in' explains"):
        infer((5, 5, 3, 3), "out_in")


def test_a_layout_that_only_the_narrow_model_tells_is_an_error():
    def torch(width):
        shapes = {"l0": (width, 64), "l1": (width, width), "l2": (10, width)}
        tree = {k: {"weight": jnp.zeros(s)} for k, s in shapes.items()}
        return tree | {
            "l0": {"weight": jnp.zeros((width, 64)), "bias": jnp.zeros(width)}
        }

    # At width 64 the first layer is square: its bias fits either way.
    with pytest.raises(ValueError, match=r"'l0/weight' of shape \(64, 64\).*out_in"):
        mup.infer(torch(32), torch(64))


def test_a_stack_that_was_not_declared_is_told_by_its_bias():
    def tree(width):
        shapes = {"kernel": (3, width, 3 * width), "bias": (3, 3 * width)}
        return {"blocks": {"qkv": {k: jnp.zeros(s) for k, s in shapes.items()}}}

    with pytest.raises(ValueError, match=r'stacked=\{"blocks/\*": 1\}'):
        mup.infer(tree(4), tree(8))
    mup.infer(tree(4), tree(8), stacked={"blocks/qkv/*": 1})
