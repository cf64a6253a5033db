import math
import pathlib
import sysconfig

import numpy as np
import pytest

from tasks import data
from tasks.data import text, tokenizers

LEFT_OUT = set("site-packages dist-packages test tests idle_test __pycache__".split())


def documents(tokens):
    """Return the bytes of each document of a row of byte tokens."""
    assert tokens[-1] == 0
    return tokens.tobytes().split(b"\0")[:-1]


@pytest.fixture(scope="module")
def stdlib():
    """Bytes of the standard library's sources by path, read another way."""
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    found = {}
    for path in sorted(folder.glob("**/*.py")):
        parts = path.relative_to(folder).parts
        if not LEFT_OUT & {*parts}:
            found["/".join(parts)] = path.read_bytes()
    return found


def test_pystdlib_holds_every_source_once_in_order_of_paths_split_by_file(stdlib):
    dataset = data.load("pystdlib", modality="text")
    assert dataset.num_classes == 256
    for split in ("train", "valid", "test"):
        tokens = dataset.arrays(split)["tokens"]
        assert tokens.dtype == np.uint8
        mine = [v for k, v in sorted(stdlib.items()) if text.split_of(k) == split]
        assert documents(tokens) == [v.replace(b"\0", b" ") for v in mine]
    assert "ast.py" in stdlib


def test_a_twentieth_of_the_files_each_is_for_validation_and_test(stdlib):
    splits = [text.split_of(name) for name in stdlib]
    for split, part in [("train", 0.9), ("valid", 0.05), ("test", 0.05)]:
        sigma = math.sqrt(part * (1 - part) * len(splits))
        assert abs(splits.count(split) - part * len(splits)) < 5 * sigma


def test_a_file_is_in_the_same_split_in_every_version_of_python():
    expected = {
        "abc.py": "train",
        "asyncio/base_events.py": "train",
        "doctest.py": "valid",
        "email/charset.py": "valid",
        "operator.py": "test",
        "unittest/mock.py": "test",
    }
    assert {name: text.split_of(name) for name in expected} == expected


def test_a_source_that_cannot_be_read_is_an_error_that_names_it(tmp_path):
    (tmp_path / "fine.py").write_text("pass")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "left_out.py").write_text("pass")
    assert text._sources(tmp_path) == (("fine.py", b"pass"),)
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    with pytest.raises(ValueError, match=r"gone\.py.*or use other text"):
        text._sources(tmp_path)


def test_a_python_without_sources_is_an_error_that_names_the_folder(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    text.pystdlib.cache_clear()
    with pytest.raises(ValueError, match="found none for the splits") as error:
        text.pystdlib(tokenizers.Bytes())
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(("vocabulary", "dtype"), [(16, np.uint8), (300, np.uint16)])
def test_synthetic_text_has_the_vocabulary_it_is_asked_for(vocabulary, dtype):
    dataset = data.load(f"synthetic_text:{vocabulary}", modality="text")
    assert dataset.num_classes == vocabulary
    tokens = dataset.arrays("train")["tokens"]
    assert tokens.dtype == dtype
    assert set(tokens) == set(range(vocabulary))


def test_synthetic_text_has_the_entropy_it_states():
    tokens = text.synthetic(16)["train"].astype(int)
    pairs = np.zeros((16, 16))
    np.add.at(pairs, (tokens[:-1], tokens[1:]), 1)
    assert np.all((pairs > 0).sum(1) == 2)
    # Nothing is known: every token is as frequent, log 16 = 2.77 nats.
    frequency = pairs.sum(0) / pairs.sum()
    assert -(frequency * np.log(frequency)).sum() == pytest.approx(np.log(16), abs=0.02)
    # The token before is known; of n draws the mean of -log p has this deviation.
    other = text._SYNTHETIC_OTHER
    sigma = math.sqrt(other * (1 - other)) * math.log((1 - other) / other)
    likely = pairs.max(1).sum()
    loss = -(likely * np.log(1 - other) + (pairs.sum() - likely) * np.log(other))
    assert loss / pairs.sum() == pytest.approx(
        text.SYNTHETIC_ENTROPY, abs=5 * sigma / math.sqrt(pairs.sum())
    )


def test_synthetic_text_is_the_same_in_every_run_and_differs_between_splits():
    first = text.synthetic(16)
    text.synthetic.cache_clear()
    again = text.synthetic(16)
    for split, tokens in first.items():
        np.testing.assert_array_equal(tokens, again[split])
    assert np.any(first["valid"] != first["test"])
