"""Overrides that do not fit a configuration are named, with what would fit."""

import pathlib

import pytest

from tasks import overrides

ROOT = pathlib.Path(__file__).parents[1]
META = f"--config={ROOT}/configs/mulo_digits.py:smoke"
SWEEP = f"--config={ROOT}/configs/evaluate/demo.py:smoke"


@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        (META, "run.meta_stepz=3", "did you mean config.run.meta_steps?"),
        (META, "meta_step=3", "did you mean config.run.meta_steps?"),
        (
            META,
            "estimatr.sigma=1",
            "no config.estimatr.sigma; did you mean config.estimator.sigma?",
        ),
        (
            META,
            "estimator.zzzz=1",
            "config.estimator has curriculum, loss_diff, loss_di",
        ),
        (
            META,
            "estimator=1",
            "config.estimator is a section; set one of its keys: config.estimator.",
        ),
        (META, "estimator.sigma.x=1", "config.estimator.sigma has no keys"),
        (
            META,
            "estimator.sigma=hi",
            "config.estimator.sigma must be a number, like 0.01; got 'h",
        ),
        (META, "run.meta_steps=1.5", "must be a whole number, like 6; got '1.5'"),
        (META, "normalize_grads=maybe", "must be true or false, like False"),
        (META, "tasks=5", "config.tasks must be texts, like ('mlp-w8-d2-digits',)"),
        (SWEEP, "widths=abc", "config.widths must be whole numbers, like (8, 16)"),
        (SWEEP, "widths=(8,1.5)", "must be whole numbers"),
        (SWEEP, "learning_rates.adamw=a", "adamw must be numbers, like (0.001, 0.01)"),
        (SWEEP, "learning_rates.adamww=1", "did you mean config.learning_rates.adamw?"),
    ],
)
def test_what_does_not_fit_is_named(config, override, message):
    assert message in overrides.wrong(["x", config, f"--config.{override}"])


@pytest.mark.parametrize(
    ("config", "override"),
    [
        (META, "run.meta_steps=3"),
        (META, "estimator.sigma=1e-2"),
        (META, "batch_examples=(32,64)"),  # One for all, or one per task.
        (META, "tasks=mlp-w8-d2-digits"),
        (SWEEP, "widths=8"),
        (SWEEP, "learning_rates.adamw=(1,2)"),
        (SWEEP, "transfer=False"),
    ],
)
def test_what_fits_passes(config, override):
    assert overrides.wrong(["x", config, f"--config.{override}"]) == ""


def test_values_may_stand_alone():
    argv = ["x", *META.split("=", 1), "--config.run.meta_steps", "few"]
    assert overrides.config_of(argv).endswith("mulo_digits.py:smoke")
    assert overrides.wrong(argv).endswith("got 'few'.")
