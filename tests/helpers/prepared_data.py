"""Data sets that are prepared on a machine or not, for tests that need them."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def tensorflow_datasets():
    """The package; skips the test where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return pytest.importorskip(
        "tensorflow_datasets", reason="needs pip install 'mulo[data]'"
    )


def folder_with(name):
    """The folder that holds a prepared set; skips the test where there is none."""
    given = os.environ.get("TFDS_DATA_DIR")
    folders = [pathlib.Path(given)] if given else []
    folders.append(ROOT.parent / "shared" / "tensorflow_datasets")
    for folder in folders:
        if (folder / name).is_dir():
            return folder
    pytest.skip(
        f"no {name} tfds folder in {[str(f) for f in folders]}: set TFDS_DATA_DIR"
    )
