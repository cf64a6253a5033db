import pytest

from tasks import names


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
        "mlp-w8-d2-food-101-d3-x",
    ],
)
def test_a_task_name_reads_and_writes_back_the_same(name):
    assert str(names.parse(name)) == name


def test_a_task_name_is_split_into_its_parts():
    parsed = names.parse("sp-mlp-w128-d3-cifar10:8x8:gray")
    assert parsed == names.TaskName("mlp", 128, 3, "cifar10:8x8:gray", sp=True)
    data = names.parse_data("imagenet_resized/32x32:8x4")
    assert data == names.DataName("imagenet_resized/32x32", size=(8, 4))
    synthetic = names.parse_data("synthetic:4x5x3:7:gray")
    assert synthetic == names.DataName("synthetic", synthetic=(4, 5, 3, 7), gray=True)


def test_options_get_one_canonical_order():
    assert (
        str(names.parse("mlp-w8-d2-cifar10:gray:8x8")) == "mlp-w8-d2-cifar10:8x8:gray"
    )


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
        ("mpl-w4-d3-digits", "got 'mpl'. Did you mean 'mlp'?"),
        ("transformer-w4-d3-digits", r"one of \['mlp'\], got 'transformer'"),
        ("mlp-w4-digits", "must read .*-d<depth>-<data>.* got 'mlp-w4-digits'"),
        ("mlp-w4-d3", "must read"),
        ("mlp-w4-d3-", "must read"),
        ("", "must read"),
        ("mlp-w4-d3-digits:grey", "options .* got ':grey'"),
        ("mlp-w4-d3-digits:8x8:8x8", "at most once"),
        ("mlp-w4-d3-digits:gray:gray", "at most once"),
        ("mlp-w4-d3-digits:0x8", "at least 1x1, got '0x8'"),
        ("mlp-w4-d3-synthetic", "synthetic:HxWxC:classes"),
        ("mlp-w4-d3-synthetic:4x4x0:3", "must be >= 1"),
        ("mlp-w4-d3-../secret", "got '../secret'"),
        ("mlp-w4-d3-a/../../b", "letters, digits"),
    ],
)
def test_a_malformed_name_says_what_is_wrong_with_it(name, message):
    with pytest.raises(ValueError, match=message):
        names.parse(name)
