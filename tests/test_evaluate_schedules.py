import math

import jax.numpy as jnp
import numpy as np
import pytest

from evaluate.optimizers import names, schedules


def values(name, num_steps, *steps):
    factor = schedules.factor(name, num_steps)
    return [float(factor(step)) for step in steps]


def test_the_constant_schedule_is_one():
    assert values("constant", 100, 0, 50, 99) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["cosine", "wsd", "linear"])
def test_the_first_fiftieth_warms_up_in_a_line(name):
    assert values(name, 100, 0, 1, 2) == pytest.approx([1 / 3, 2 / 3, 1.0])
    expected = [(i + 1) / 21 for i in range(20)]
    assert values(name, 1_000, *range(20)) == pytest.approx(expected, rel=1e-5)
    assert max(values(name, 1_000, *range(1_000))) == 1.0


@pytest.mark.parametrize("name", ["cosine", "wsd", "linear"])
@pytest.mark.parametrize("num_steps", [10, 100, 1_001])
def test_the_last_step_is_a_hundredth_and_stays_one(name, num_steps):
    found = values(name, num_steps, num_steps - 1, num_steps, 10 * num_steps)
    assert found == pytest.approx([0.01] * 3, rel=1e-4)


def test_cosine_is_a_cosine():
    at = [2, 26, 50, 99]
    angles = [math.pi * (step - 2) / 97 for step in at]
    expected = [0.01 + 0.99 * (1 + math.cos(angle)) / 2 for angle in angles]
    assert values("cosine", 100, *at) == pytest.approx(expected, rel=1e-4)


def test_wsd_stays_and_falls_in_a_line_over_the_last_fifth():
    assert values("wsd", 100, 2, 40, 79) == pytest.approx([1.0, 1.0, 1.0])
    found = values("wsd", 100, 84, 89, 94)
    assert found == pytest.approx([1 - 0.99 * k / 4 for k in (1, 2, 3)], rel=1e-5)


def test_linear_falls_in_a_line_from_the_end_of_the_warm_up():
    expected = [1 - 0.99 * (step - 2) / 97 for step in (2, 30, 77)]
    assert values("linear", 100, 2, 30, 77) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", schedules.NAMES)
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_runs_of_a_few_steps_have_positive_factors_up_to_one(name, num_steps):
    found = values(name, num_steps, *range(num_steps))
    assert all(0 < value <= 1 for value in found)


def test_a_schedule_multiplies_the_learning_rate_of_every_step():
    params = {"w": jnp.ones((2, 2))}
    transform = names.build(
        "sgd",
        0.5,
        scalings=None,
        num_steps=10,
        schedule="linear",
        hyper={"momentum": 0.0},
    )
    state, found = transform.init(params), []
    for _ in range(10):
        updates, state = transform.update(params, state, params)
        found.append(float(updates["w"][0, 0]))
    expected = [-0.5 * factor for factor in values("linear", 10, *range(10))]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_default_is_cosine_for_hand_designed_rules_and_what_learned_ones_know():
    found = {name: spec.schedule for name, spec in names.SPECS.items()}
    for name, spec in names.SPECS.items():
        if spec.step_size == "lambda" or name == "theta_init":
            assert found.pop(name) == "constant", name
    for name in ("schedule_free_adamw", "mu_schedule_free_adamw"):
        assert found.pop(name) == "constant"
    assert set(found.values()) == {"cosine"}
    assert {"mu_celo2", "elo", "null_adam", "null_muon", "adamw"} < found.keys()


@pytest.mark.parametrize("name", ["schedule_free_adamw", "mu_schedule_free_adamw"])
def test_schedule_free_takes_no_schedule(name):
    names.check_schedule(name, "constant")
    with pytest.raises(ValueError, match=rf"^{name} takes the place of a schedule"):
        names.check_schedule(name, "wsd")


def test_unknown_schedules_and_runs_without_steps_are_errors():
    with pytest.raises(ValueError, match=r"got 'wds'; did you mean 'wsd'"):
        schedules.check("wds")
    with pytest.raises(ValueError, match=r"must be one of constant, .*; got 'auto'"):
        schedules.factor("auto", 10)  # Stands for two.
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        schedules.factor("cosine", 0)
    with pytest.raises(ValueError, match="'cosine' needs num_steps"):
        names.build("sgd", 0.5, scalings=None, schedule="cosine")
