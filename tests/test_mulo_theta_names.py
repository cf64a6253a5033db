import shutil
import sys
import types

import pytest
from helpers.theta_parts import RULE, assert_same, theta_of

import mulo
from mulo._thetas import files


@pytest.fixture
def saved(tmp_path):
    return mulo.save(tmp_path / "runs" / "theta", RULE, theta_of(1))


def test_released_names_are_found_and_unknown_ones_get_the_nearest(
    saved, tmp_path, monkeypatch
):
    root = tmp_path / "mulo"
    shutil.copytree(saved, root / "checkpoints" / "mulo-digits")
    monkeypatch.setattr(files, "__file__", str(root / "_thetas" / "files.py"))
    monkeypatch.chdir(tmp_path)
    assert_same(mulo.load("mulo-digits").theta, theta_of(1))
    with pytest.raises(
        ValueError, match=r"did you mean 'mulo-digits'\? Released: mulo-digits"
    ):
        mulo.load("mulo-digit")


def test_names_with_nothing_released_and_missing_paths_are_errors(tmp_path):
    with pytest.raises(ValueError, match="No theta called 'no-such-theta', and no"):
        mulo.load("no-such-theta")
    with pytest.raises(ValueError, match="no such file or directory"):
        mulo.load(tmp_path / "missing")


def test_an_empty_name_is_not_the_current_directory(saved, monkeypatch):
    monkeypatch.chdir(saved)
    with pytest.raises(ValueError, match=r"got ''; write '\.' for the current"):
        mulo.load("")
    assert_same(mulo.load(".").theta, theta_of(1))


def test_a_directory_without_weights_says_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"no model\.safetensors; it holds nothing"):
        mulo.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"it holds config\.json.*runs/x/theta"):
        mulo.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("global_step5000.pickle", b""),
        ("theta.pt", b"PK"),
        ("theta.state", b"\x80\x04\x95\x00"),
    ],
)
def test_pickles_are_refused_unopened(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(ValueError, match=r"looks like a pickle.*mulo\.save"):
            mulo.load(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "theta.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"is not a \.safetensors file"):
        mulo.load(tmp_path / "theta.txt")


def test_hub_names_are_downloaded_at_their_revision(saved, monkeypatch):
    asked = []

    def snapshot_download(repository, *, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        return str(saved)

    hub = types.ModuleType("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert_same(mulo.load("hf://owner/name", revision="v1").theta, theta_of(1))
    expected = ["model.safetensors", "card.json", "config.json"]
    assert asked == [("owner/name", "v1", expected)]
    with pytest.raises(ValueError, match="hf://owner/name, got 'hf://name'"):
        mulo.load("hf://name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'pip install "mulo\[hub\]"'):
        mulo.load("hf://owner/name")
    with pytest.raises(ValueError, match="revision is for hf://"):
        mulo.load(saved, revision="v1")
