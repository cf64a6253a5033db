import pytest

from tasks.data import names


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "cifar10:8x8:gray:crop1:flip:velodrome:first=100",
        "imagenet_resized/32x32:8x4",
        "c4/en.noclean-2",
        "synthetic:4x5x3:7:2x2:gray",
        "synthetic_text:16:first=9",
        "lm1b:sp32k=models/a-b:c d.model",
        "tiny_shakespeare:first=10:sp1k=x",
    ],
)
def test_a_data_name_reads_and_writes_back_the_same(name):
    assert str(names.parse(name)) == name


def test_a_data_name_is_split_into_its_parts():
    DataName = names.DataName
    assert names.parse("a/32x32:8x4") == DataName("a/32x32", size=(8, 4))
    assert names.parse("synthetic:4x5x3:7:gray") == DataName(
        "synthetic", synthetic=(4, 5, 3, 7), gray=True
    )
    assert names.parse("lm1b:sp32k=/m:1") == DataName("lm1b", pieces=(32, "/m:1"))
    parsed = names.parse("cifar10:flip:crop4:first=7")
    assert parsed == DataName("cifar10", crop=4, flip=True, first=7)
    assert parsed.image_options == ("crop4", "flip")
    assert names.parse("pystdlib:first=3").image_options == ()


def test_options_get_one_canonical_order():
    assert str(names.parse("cifar10:flip:gray:8x8")) == "cifar10:8x8:gray:flip"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits:grey", "options .* got ':grey' in 'digits:grey'"),
        ("digits:8x8:4x4", "':4x4' is given twice"),
        ("digits:gray:gray", "':gray' is given twice"),
        ("digits:0x8", "at least 1x1"),
        ("digits:crop0", "crop must be at least 1, got 0"),
        ("digits:first=0", "first must be at least 1, got 0"),
        ("synthetic", "synthetic:HxWxC:classes"),
        ("synthetic:4x4x0:3", "must be >= 1"),
        ("synthetic_text", "synthetic_text:vocabulary"),
        ("synthetic_text:1", "at least 2 tokens"),
        ("synthetic_text:65537", "at most 65536 tokens, got 65537"),
        ("lm1b:sp66k=x", "at most 65536 tokens, got 66000"),
        ("lm1b:sp0k=x", "at least sp1k"),
        ("lm1b:sp32k=", "got ':sp32k='"),
        ("lm1b:gray:sp32k=x", r"options of images \['gray'\] and of text"),
        ("../secret", "got '../secret'"),
        ("a/../../b", "letters, digits"),
        ("food-101", "got 'food-101'"),
    ],
)
def test_a_malformed_data_name_says_what_is_wrong_with_it(name, message):
    with pytest.raises(ValueError, match=message):
        names.parse(name)
