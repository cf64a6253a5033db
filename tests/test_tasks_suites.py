import logging
import pathlib

import pytest
from helpers import prepared_data

import tasks
from tasks import data, names, suites

ROOT = pathlib.Path(tasks.__file__).resolve().parents[1]
NAMES = {s: f"mlp-w32-d1-{s}:8x8:gray" for s in (*suites.FAST_VELO, "digits")}


@pytest.fixture
def only_mnist_and_svhn(monkeypatch):
    def load(name, data_dir=None):
        if name.source not in ("mnist", "svhn_cropped"):
            raise ValueError(f"no {name} in {data_dir}, prepare it")

    monkeypatch.setattr(data, "load", load)


def test_fast_velo_is_the_four_sets_in_8x8_gray_under_a_small_mlp(monkeypatch):
    monkeypatch.setattr(data, "load", lambda name, data_dir=None: None)
    four = [NAMES[s] for s in ("mnist", "fashion_mnist", "cifar10", "svhn_cropped")]
    assert suites.expand("fast_velo") == four
    assert suites.expand("sp-fast_velo") == [f"sp-{name}" for name in four]
    assert suites.expand("fast_velo:present") == [*four, NAMES["digits"]]


def test_missing_sets_are_named_with_what_to_do_about_each(only_mnist_and_svhn):
    with pytest.raises(
        ValueError, match=r"missing: \['fashion_mnist', 'cifar10'\]"
    ) as e:
        suites.expand("fast_velo", "somewhere")
    assert "\n  cifar10: no cifar10:8x8:gray in somewhere, prepare it" in str(e.value)
    assert "'fast_velo:present'" in str(e.value)
    assert "mnist: no mnist:" not in str(e.value).replace("fashion_mnist", "")


def test_on_request_it_runs_with_those_present_and_says_which_are_not(
    only_mnist_and_svhn, caplog
):
    with caplog.at_level(logging.WARNING):
        got = suites.expand("sp-fast_velo:present")
    assert got == [f"sp-{NAMES[s]}" for s in ("mnist", "svhn_cropped", "digits")]
    assert "goes without ['fashion_mnist', 'cifar10']" in caplog.text


def test_an_unprepared_folder_gets_the_commands_of_all_four(tmp_path, monkeypatch):
    prepared_data.tensorflow_datasets()
    monkeypatch.setenv("MULO_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="fast_velo needs the data of") as error:
        suites.expand("fast_velo", tmp_path)
    for source in suites.FAST_VELO:
        assert f"tfds.load('{source}', data_dir='{tmp_path}')" in str(error.value)


def test_a_folder_with_cifar10_alone_gives_it_and_digits(tmp_path, monkeypatch):
    prepared_data.tensorflow_datasets()
    folder = prepared_data.folder_with("cifar10")
    here = tmp_path / "data"
    here.mkdir()
    (here / "cifar10").symlink_to(folder / "cifar10")
    monkeypatch.setenv("MULO_CACHE_DIR", str(tmp_path / "cache"))
    got = suites.expand("fast_velo:present", here)
    assert got == [NAMES["cifar10"], NAMES["digits"]]
    task = tasks.get(got[0], batch_size=64, data_dir=here)
    assert task.dataset.input_shape == (8, 8, 1)
    assert task.scalings()["linear_0"]["kernel"].fan_in == 64


@pytest.mark.parametrize("name", ["fast_velo:presen", "fast_velo:", "sp-fast_velo:x"])
def test_an_unknown_suite_is_refused(name):
    with pytest.raises(ValueError, match=r"a suite must be one of \['fast_velo', "):
        suites.expand(name)


def test_other_names_are_mixtures_of_widths_or_tasks():
    assert suites.expand("mlp-w128+w512+w1024-d3-digits") == [
        f"mlp-w{width}-d3-digits" for width in (128, 512, 1024)
    ]
    assert suites.expand("sp-mlp-w8-d1-digits") == ["sp-mlp-w8-d1-digits"]
    with pytest.raises(ValueError, match="a task name must read"):
        suites.expand("fast")


@pytest.mark.parametrize("sp", [False, True])
def test_table_10_is_35_tasks_that_parse_and_whose_heads_divide_their_widths(sp):
    batches = suites.table_10("lm1b.model", sp=sp)
    assert len(batches) == 35
    kinds = {}
    for name, batch in batches.items():
        parsed = names.parse(name)
        assert str(parsed) == name
        assert parsed.sp == sp
        assert parsed.width is not None
        options = dict(parsed.options)
        if parsed.kind != "mlp":
            assert parsed.width % options["heads"] == 0
        large = {"mlp": 4096, "vit": 1024, "transformer": 128}[parsed.kind]
        assert batch == (128 if parsed.depth == 16 else large)
        kinds[parsed.kind, parsed.depth] = kinds.get((parsed.kind, parsed.depth), 0) + 1
    assert kinds == {
        ("mlp", 3): 7 + 6 + 7,
        ("vit", 3): 6,
        ("transformer", 3): 6,
        ("mlp", 16): 1,
        ("vit", 16): 1,
        ("transformer", 16): 1,
    }
    prefix = "sp-" if sp else ""
    assert f"{prefix}transformer-w768-d3-h8-s64-lm1b:sp32k=lm1b.model" in batches
    assert f"{prefix}vit-w3072-d3-h16-imagenet_resized/32x32" in batches
    assert f"{prefix}mlp-w8192-d3-cifar10" in batches
