"""Damaged headers of theta files: each is an error that names the file."""

import json

import pytest
from helpers.theta_parts import RULE, theta_of

import mulo


@pytest.fixture
def saved(tmp_path):
    return mulo.save(tmp_path / "theta", RULE, theta_of(1))


def with_header(model, header):
    """A safetensors file with the same data under another header."""
    length = int.from_bytes(model[:8], "little")
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + model[8 + length :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda h: h | {"__metadata__": None}, "'__metadata__', got None"),
        (
            lambda h: h | {"__metadata__": "mulo_card"},
            "'__metadata__', got 'mulo_card'",
        ),
        (lambda h: h | {"__metadata__": {"mulo_card": 5}}, "'mulo_card', got 5"),
        (lambda h: h | {"__metadata__": {"mulo_card": "["}}, "not have the sha256"),
        (lambda h: "[" * 100_000, "not valid JSON"),
        (
            lambda h: h | {"rms_decays": {"dtype": "F32"}},
            "not a valid safetensors file",
        ),
    ],
)
def test_a_damaged_header_is_an_error_that_names_the_file(saved, damage, message):
    model = (saved / "model.safetensors").read_bytes()
    header = json.loads(model[8 : 8 + int.from_bytes(model[:8], "little")])
    alone = saved / "alone.safetensors"
    alone.write_bytes(with_header(model, damage(header)))
    with pytest.raises(ValueError, match=message) as error:
        mulo.load(alone)
    assert str(alone) in str(error.value)


def test_a_damaged_card_inside_the_weights_names_the_file(saved):
    model = (saved / "model.safetensors").read_bytes()
    header = json.loads(model[8 : 8 + int.from_bytes(model[:8], "little")])
    alone = saved / "alone.safetensors"
    for card in ("[" * 100_000, "\ud800"):
        header["__metadata__"]["mulo_card"] = card
        alone.write_bytes(with_header(model, header))
        with pytest.raises(ValueError, match=r"alone\.safetensors"):
            mulo.load(alone)
