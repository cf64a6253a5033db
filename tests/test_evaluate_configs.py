"""Every suite of configs/evaluate in every variant, without opening data."""

import importlib
import pathlib

import pytest

import tasks
from configs.evaluate import base
from evaluate.optimizers import names
from evaluate.sweep import axes

FOLDER = pathlib.Path(base.__file__).parent
SUITES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "base")
VARIANTS = {"demo": ("smoke", "demo"), "heldout": ("smoke", "quick", "cpu")}
PAIRS = [(s, v) for s in SUITES for v in VARIANTS.get(s, base.VARIANTS)]


def suite(name, *variant):
    return importlib.import_module(f"configs.evaluate.{name}").get_config(*variant)


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setattr(tasks.data, "load", None)


@pytest.mark.parametrize(("name", "variant"), PAIRS)
def test_every_variant_is_a_valid_sweep(name, variant):
    config = axes.SweepConfig.from_dict(suite(name, variant).to_dict())
    settings = config.settings
    assert len(set(settings)) == len(settings) >= 1
    # Nobody has to fetch weights for a suite to run.
    learned = {n for n in config.optimizers if names.get(n).learned}
    assert learned - {"mulo", "theta_init"} <= set(config.optional)


@pytest.mark.parametrize("name", SUITES)
def test_unknown_variants_are_refused(name):
    with pytest.raises(ValueError, match=r"variant must be .*; got 'smoky'"):
        suite(name, "smoky")


def test_an_unknown_variant_gets_the_nearest():
    with pytest.raises(ValueError, match=r"smoke, cpu.*'smok'; did you mean 'smoke'"):
        suite("width", "smok")


def test_every_smoke_variant_takes_a_few_steps_of_small_networks():
    for name in SUITES:
        config = axes.SweepConfig.from_dict(suite(name, "smoke").to_dict())
        for setting in config.settings:
            assert setting.horizon_steps <= 20, name
            if name != "velodrome":  # Its tasks have the sizes that they have.
                assert setting.width <= 16, name


@pytest.mark.parametrize("name", ["width", "depth", "horizon", "cross"])
def test_suites_begin_at_the_sizes_of_meta_training(name):
    config = axes.SweepConfig.from_dict(suite(name, "cpu").to_dict())
    base_setting = config.settings[0]
    assert str(base_setting.task) == "mlp-w32-d3-cifar10:8x8:gray"
    assert base_setting.horizon_steps <= 1_000
