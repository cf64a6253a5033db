import pytest

from tasks import names
from tasks.data.names import DataName


@pytest.mark.parametrize(
    "name",
    [
        "mlp-w128-d3-cifar10",
        "sp-mlp-w128-d3-digits",
        "mlp-w32-d3-cifar10:8x8:gray",
        "mlp-w32-d3-cifar10:gray",
        "mlp-d3-digits",
        "mlp-w128-d16-imagenet_resized/32x32",
        "mlp-w128-d3-imagenet_resized/32x32:8x8",
        "mlp-w1-d1-synthetic:4x4x1:3",
        "mlp-w8-d2-synthetic:4x4x3:3:2x2:gray",
        "sp-mlp-w128-d3-tanh-ln-digits",
        "transformer-w192-d3-h3-s64-lm1b:sp32k=/a-b/c:d.model",
        "vit-w192-d3-p4-cifar10:crop4:flip:first=100",
        "mlp-d3-c4/en-no",
        "transformer-w64-a1-pystdlib",
        "transformer-w8-d1-synthetic_text:16",
        "vit-w64-d1-a0.0000001-digits",
        "vit-w64-d1-a0.123456789-digits",
        "transformer-w8-d1-lm1b:sp32k=/x-w1+w2-/model",
    ],
)
def test_a_task_name_reads_and_writes_back_the_same(name):
    assert str(names.parse(name)) == name


def test_a_task_name_is_split_into_its_parts():
    parsed = names.parse("sp-mlp-w128-d3-cifar10:8x8:gray")
    assert parsed == names.TaskName(
        "mlp", 128, 3, DataName("cifar10", size=(8, 8), gray=True), sp=True
    )
    parsed = names.parse("transformer-w64-d2-bf16-a0.5-h4-s32-pystdlib")
    assert parsed.modality == "text"
    assert dict(parsed.options) == {
        "heads": 4,
        "length": 32,
        "alpha": 0.5,
        "bf16": True,
    }


def test_options_get_one_canonical_order():
    for name, canonical in [
        ("mlp-w8-d2-cifar10:gray:8x8", "mlp-w8-d2-cifar10:8x8:gray"),
        ("vit-w8-d2-a1-k4-p2-digits", "vit-w8-d2-p2-k4-a1-digits"),
    ]:
        assert str(names.parse(name)) == canonical


def test_a_mixture_of_widths_expands_to_one_name_each():
    found = names.expand("sp-mlp-w8+w16+w32-d3-ln-digits")
    assert tuple(map(str, found)) == (
        "sp-mlp-w8-d3-ln-digits",
        "sp-mlp-w16-d3-ln-digits",
        "sp-mlp-w32-d3-ln-digits",
    )
    assert names.expand("mlp-w8-d3-digits") == (names.parse("mlp-w8-d3-digits"),)
    with pytest.raises(ValueError, match="stands for several tasks"):
        names.parse("mlp-w8+w16-d3-digits")
    with pytest.raises(ValueError, match="width must be at least 1"):
        names.expand("mlp-w8+w0-d3-digits")


def test_at_depth_fills_a_template_without_a_depth():
    template = names.parse("transformer-w64-a1-pystdlib")
    assert template.depth is None
    assert str(template.at_depth(4)) == "transformer-w64-d4-a1-pystdlib"


def test_at_width_fills_a_template_and_twin_changes_only_the_parametrization():
    template = names.parse("mlp-d3-digits")
    assert template.width is None
    assert str(template.at_width(64)) == "mlp-w64-d3-digits"
    assert str(template.at_width(64).at_width(32).twin()) == "sp-mlp-w32-d3-digits"
    assert template.twin().twin() == template


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlp-w0-d3-digits", "width must be at least 1, got 0"),
        ("mlp-w-4-d3-digits", "width must be at least 1, got -4"),
        ("mlp-w4-d0-digits", "depth must be at least 1, got 0"),
        ("mpl-w4-d3-digits", "got 'mpl-w4-d3-digits'.*Did you mean 'mlp'?"),
        ("perceptron-w4-d3-digits", r"Known kinds: \['mlp', 'mlpae', "),
        ("mlp-digits", "must have a width or a depth, got 'mlp-digits'"),
        ("mlp-w4-d3-d3-digits", "must be among .*'ln'.*, got 'd3'"),
        ("mlp-w4-d3-h2-digits", "must be among .* got 'h2'"),
        ("mlp-w4-d3-tahn-digits", "got 'tahn' .*Did you mean 'tanh'?"),
        ("transformer-w4-d3-hh2-pystdlib", "among .*'h<heads>'.* got 'hh2'"),
        ("mlp-w4-d3-tanh-relu-digits", "option 'relu' is given twice"),
        ("mlp-w4-d3", "must read"),
        ("mlp-w4-d3-", "must read"),
        ("", "must read"),
        ("mlp-w4-d3-digits:grey", "options .* got ':grey'"),
    ],
)
def test_a_malformed_name_says_what_is_wrong_with_it(name, message):
    with pytest.raises(ValueError, match=message):
        names.parse(name)
