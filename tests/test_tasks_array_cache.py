import json
import logging
import os
import pathlib

import numpy as np
import pytest

from tasks.data import array_cache


def place_in(root, name="cifar10:8x8", fingerprint="f00d"):
    return array_cache.Place((pathlib.Path(root),), name, fingerprint)


def parse(splits, facts):
    return splits, facts["num_classes"]


def build(where, seed=0, splits=("train", "test")):
    """Write a cache of 20 random images per split; return its folder and arrays."""
    rng = np.random.default_rng(seed)
    folder, written = where.new_folder(), {}
    for split in splits:
        inputs = rng.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
        labels = rng.integers(0, 7, 20, dtype=np.int32)
        written[split] = {"inputs": inputs, "labels": labels}
        for kind, array in written[split].items():
            path = folder / f"{split}.{kind}.npy"
            array_cache.write_array(
                path, array.shape, array.dtype, [array[:13], array[13:]]
            )
    arrays = dict.fromkeys(splits, ("inputs", "labels"))
    array_cache.write_meta(folder, where.name, arrays, {"num_classes": 7})
    return folder, written


def test_what_is_written_is_read_back_memory_mapped(tmp_path):
    where = place_in(tmp_path)
    assert array_cache.read(where, parse) is None
    _, written = build(where)
    found = array_cache.read(where, parse)
    assert found is not None
    splits, num_classes = found
    assert num_classes == 7
    assert set(splits) == set(written)
    for split, arrays in written.items():
        assert set(splits[split]) == {"inputs", "labels"}
        for kind, array in arrays.items():
            np.testing.assert_array_equal(splits[split][kind], array)
            assert splits[split][kind].dtype == array.dtype
            assert not splits[split][kind].flags.owndata


@pytest.mark.parametrize("count", [0, 9, 123_456])
def test_an_array_may_be_written_before_its_length_is_known(tmp_path, count):
    path = tmp_path / "train.tokens.npy"
    row = np.arange(count, dtype=np.uint16)
    parts = np.split(row, [count // 3, count // 2])
    array_cache.write_array(path, (None,), np.uint16, parts)
    np.testing.assert_array_equal(np.load(path), row)
    assert np.load(path).dtype == np.uint16


def test_facts_that_cannot_be_read_count_as_damage(tmp_path, caplog):
    where = place_in(tmp_path)
    build(where)
    assert array_cache.read(where, lambda splits, facts: facts["absent"]) is None
    assert "damaged ('absent')" in caplog.text


def _truncate(file):
    os.truncate(file, file.stat().st_size - 1)


def _flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _remove(file):
    file.unlink()


@pytest.mark.parametrize("damage", [_truncate, _flip_a_bit, _remove])
@pytest.mark.parametrize("file", ["train.inputs.npy", "test.labels.npy"])
def test_a_damaged_array_is_noticed_and_rebuilt(tmp_path, caplog, damage, file):
    where = place_in(tmp_path)
    folder, _ = build(where)
    damage(folder / file)
    with caplog.at_level(logging.WARNING):
        assert array_cache.read(where, parse) is None
    assert str(folder) in caplog.text
    assert "damaged" in caplog.text
    assert file in caplog.text
    build(where)
    assert array_cache.read(where, parse) is not None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 0}'])
def test_a_damaged_description_is_noticed(tmp_path, caplog, content):
    where = place_in(tmp_path)
    folder, _ = build(where)
    (folder / "meta.json").write_text(content)
    assert array_cache.read(where, parse) is None
    assert "damaged" in caplog.text


def test_a_description_of_another_set_or_format_is_not_believed(tmp_path, caplog):
    where = place_in(tmp_path)
    folder, _ = build(where)
    meta = json.loads((folder / "meta.json").read_text())
    for change in ({"name": "cifar100"}, {"format": array_cache.FORMAT + 1}):
        (folder / "meta.json").write_text(json.dumps(meta | change))
        assert array_cache.read(where, parse) is None
    assert "cifar100" in caplog.text


def test_an_interrupted_build_is_as_good_as_none(tmp_path):
    where = place_in(tmp_path)
    folder, _ = build(where)
    (folder / "meta.json").unlink()
    assert array_cache.read(where, parse) is None


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "train.labels.npy"
    array_cache.write_array(path, (2,), np.int32, [np.array([1, 2])])

    def failing():
        yield np.array([3])
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        array_cache.write_array(path, (2,), np.int32, failing())
    with pytest.raises(ValueError, match="must hold 2 examples, got 1"):
        array_cache.write_array(path, (2,), np.int32, [np.array([3])])
    with pytest.raises(ValueError, match=r"shape \(\), got \(2,\)"):
        array_cache.write_array(path, (2,), np.int32, [np.zeros((2, 2))])
    assert list(np.load(path)) == [1, 2]
    assert os.listdir(tmp_path) == ["train.labels.npy"]


def test_other_prepared_data_get_another_cache(tmp_path):
    build(place_in(tmp_path, fingerprint="aaa"))
    assert array_cache.read(place_in(tmp_path, fingerprint="bbb"), parse) is None
    # Without the prepared data there is nothing to compare with: any will do.
    assert array_cache.read(place_in(tmp_path, fingerprint=""), parse) is not None


def test_the_fingerprint_follows_what_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("MULO_CACHE_DIR", str(tmp_path / "cache"))
    assert array_cache.place("x", "x", tmp_path).fingerprint == ""
    info = tmp_path / "x" / "1.0.0" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text("{}")
    first = array_cache.place("x", "x", tmp_path).fingerprint
    assert first == array_cache.place("x:8x8", "x", tmp_path).fingerprint
    info.write_text('{"name": "x"}')
    assert array_cache.place("x", "x", tmp_path).fingerprint not in ("", first)


def test_the_root_is_the_data_folder_unless_it_is_read_only_or_one_is_given(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("MULO_CACHE_DIR", raising=False)
    home, data = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    data.mkdir()
    monkeypatch.setenv("HOME", str(home))
    where = array_cache.place("x", "x", data)
    assert where.new_folder().is_relative_to(data / "mulo_cache")
    (data / "mulo_cache" / "x").rmdir()
    (data / "mulo_cache").rmdir()
    data.chmod(0o555)
    assert where.new_folder().is_relative_to(home / ".cache" / "mulo")
    assert os.listdir(data) == []
    data.chmod(0o755)
    monkeypatch.setenv("MULO_CACHE_DIR", str(tmp_path / "given"))
    where = array_cache.place("x", "x", data)
    assert where.new_folder().is_relative_to(tmp_path / "given")
    (tmp_path / "given" / "x").rmdir()
    (tmp_path / "given").chmod(0o555)
    with pytest.raises(PermissionError, match="Set MULO_CACHE_DIR"):
        where.new_folder()


def test_names_become_one_folder_each():
    folders = ["imagenet_resized/32x32:8x8:gray", "imagenet_resized/32x32", "cifar10"]
    got = [array_cache.folder_name(f) for f in folders]
    assert got[0] == "imagenet_resized__32x32-8x8-gray"
    assert len(set(got)) == 3
    assert not any("/" in g or ":" in g for g in got)


@pytest.mark.parametrize("files", [{}, {"test.inputs.npy": None}])
def test_a_description_without_a_train_split_is_damage(tmp_path, caplog, files):
    where = place_in(tmp_path)
    build(where)
    (path,) = tmp_path.rglob("meta.json")
    meta = json.loads(path.read_text())
    meta["files"] = {name: meta["files"][name] for name in files}
    path.write_text(json.dumps(meta))
    with caplog.at_level(logging.WARNING):
        assert array_cache.read(where, parse) is None
    assert "no train split" in caplog.text


def test_a_folder_in_the_place_of_an_array_makes_room_for_it(tmp_path):
    where = place_in(tmp_path)
    build(where)
    (path,) = tmp_path.rglob("train.inputs.npy")
    path.unlink()
    (path / "inside").mkdir(parents=True)
    assert array_cache.read(where, parse) is None
    build(where)
    assert array_cache.read(where, parse) is not None


def test_a_root_that_is_a_file_cannot_be_written_and_says_so(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("MULO_CACHE_DIR", str(file))
    where = array_cache.place("digits", "digits", tmp_path)
    with pytest.raises(PermissionError, match="Set MULO_CACHE_DIR to a folder"):
        where.new_folder()
