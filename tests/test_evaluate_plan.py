import math

import pytest
from helpers import sweep_parts

import tasks
from evaluate.sweep import plan


def best_at(rate):
    """A loss with its optimum at a rate, a hundredth worse for every further seed."""
    return lambda unit, r, seed: 0.3 + 0.1 * abs(math.log10(r / rate)) + 0.01 * seed


def one_unit(entered=None, **changes):
    config = sweep_parts.config(**({"widths": (4,)} | changes))
    (unit,) = sweep_parts.units(config, entered)
    return config, unit


def wanted(results):
    return sorted((rate, seed) for rate, seed in results)


def test_programs_of_the_base_setting_come_first():
    config = sweep_parts.config(optimizers=("sgd", "mu_adam"), widths=(8, 4))
    found = [str(unit.program.task) for unit in sweep_parts.units(config)]
    assert found == [
        "sp-mlp-w8-d1-synthetic:4x4x1:3",
        "mlp-w8-d1-synthetic:4x4x1:3",
        "sp-mlp-w4-d1-synthetic:4x4x1:3",
        "mlp-w4-d1-synthetic:4x4x1:3",
    ]


def test_a_constant_rate_has_one_program_for_all_horizons_and_a_schedule_one_each():
    config = sweep_parts.config(widths=(4,), horizons=(10, 40, 20))
    entered = [
        sweep_parts.contender("sgd", schedules=("constant",)),
        sweep_parts.contender("mu_adam"),
        sweep_parts.contender("mulo", needs_num_steps=False),
        # It is told the length of the run.
        sweep_parts.contender("mu_velo", theta=None),
    ]
    found = [
        (
            unit.contender.label,
            unit.program.horizon_steps,
            [setting.horizon_steps for setting in unit.settings],
        )
        for unit in sweep_parts.units(config, entered)
    ]
    assert sorted(found) == [
        ("mu_adam", 10, [10]),
        ("mu_adam", 20, [20]),
        ("mu_adam", 40, [40]),
        ("mu_velo", 10, [10]),
        ("mu_velo", 20, [20]),
        ("mu_velo", 40, [40]),
        ("mulo", 40, [10, 40, 20]),
        ("sgd", 40, [10, 40, 20]),
    ]


def test_runs_are_validated_evenly_and_at_every_horizon_served():
    entered = [sweep_parts.contender("sgd", schedules=("constant",))]
    config, unit = one_unit(entered, horizons=(10, 15, 40), valid_points=4)
    expected = [2, 4, 5, 8, 10, 11, 15, 20, 30, 40]  # Four points of each.
    assert plan.valid_steps(config, unit) == expected


def test_tuning_looks_at_its_seeds_and_the_best_rate_gets_all():
    config, unit = one_unit(
        num_seeds=3,
        tuning_seeds=2,
        tuning_refinements=2,
        learning_rates={"mu_adam": (0.01, 0.1)},
    )
    found = sweep_parts.finish(config, unit, best_at(0.1))
    searched = [(rate, seed) for rate in (0.01, 0.05, 0.1, 0.2) for seed in (0, 1)]
    assert wanted(found) == sorted([*searched, (0.1, 2)])
    (setting,) = unit.settings
    assert plan.search(config, unit, setting, found).found == 0.1
    losses = plan.search(config, unit, setting, found).losses
    assert losses == pytest.approx(
        {0.01: 0.405, 0.05: 0.305 + 0.0301, 0.1: 0.305, 0.2: 0.305 + 0.0301}, abs=1e-4
    )


def test_each_horizon_of_one_program_is_searched_by_itself():
    entered = [sweep_parts.contender("sgd", schedules=("constant",), grid=(0.1, 1.0))]
    config, unit = one_unit(entered, horizons=(10, 40), num_seeds=3)
    # At step 20 every run has its final loss; at step 10 it is half-way.

    def loss(unit, rate, seed):
        return {0.1: 0.2, 1.0: 0.5}[rate]

    found = sweep_parts.finish(config, unit, loss)
    assert [
        plan.search(config, unit, setting, found).found for setting in unit.settings
    ] == [0.1, 0.1]
    assert wanted(found) == [(0.1, 0), (0.1, 1), (0.1, 2), (1.0, 0)]


def test_a_rate_found_at_the_base_is_run_with_all_seeds_elsewhere():
    config = sweep_parts.config(learning_rates={"mu_adam": (0.01, 0.1, 1.0)})
    base, other = sweep_parts.units(config)
    found = sweep_parts.finish(config, base, best_at(0.1))
    (setting,) = base.settings
    assert plan.search(config, base, setting, found).found == 0.1
    (setting,) = other.settings
    found = sweep_parts.finish(config, other, best_at(1.0), {setting: 0.1})
    assert wanted(found) == [(0.01, 0), (0.1, 0), (0.1, 1), (1.0, 0), (1.0, 1)]
    # The search did not see the further seed at the transferred rate.
    assert plan.search(config, other, setting, found).found == 1.0


def test_where_every_rate_diverged_the_smallest_is_shown_and_nothing_transferred():
    config, unit = one_unit(learning_rates={"mu_adam": (0.01, 0.1)})
    found = sweep_parts.finish(config, unit, lambda *_: math.nan)
    assert wanted(found) == [(0.01, 0), (0.01, 1), (0.1, 0)]
    (setting,) = unit.settings
    assert plan.search(config, unit, setting, found).found is None
    assert plan.search(config, unit, setting, found).reported == 0.01


def test_a_search_that_is_not_finished_has_found_nothing():
    config, unit = one_unit(learning_rates={"mu_adam": (0.01, 0.1)})
    found = sweep_parts.finish(config, unit, best_at(0.1))
    del found[0.01, 0]
    (setting,) = unit.settings
    assert plan.search(config, unit, setting, found).found is None
    assert plan.search(config, unit, setting, found).reported is None


def test_rates_that_could_not_be_run_count_as_diverged():
    config, unit = one_unit(learning_rates={"mu_adam": (0.01, 0.1)})
    found = sweep_parts.finish(config, unit, best_at(0.1))
    del found[0.1, 1]
    cells = plan.wanted(
        config, unit, found, transferred={}, failed=frozenset({(0.1, 1)})
    )
    assert (0.01, 1) in {(cell.learning_rate, cell.seed) for cell in cells}


@pytest.mark.parametrize(
    ("where", "expected"), [("base", [6, 4]), ("all", [6, 6]), ("none", [4, 4])]
)
def test_factors_are_swept_where_they_are_asked_for(where, expected):
    entered = [sweep_parts.contender("mulo", grid=(0.5, 1.0, 2.0))]
    config = sweep_parts.config(lambdas_at=where, num_seeds=4)
    counts = []
    for unit in sweep_parts.units(config, entered):
        counts.append(len(sweep_parts.finish(config, unit, best_at(1.0))))
        assert counts[-1] == plan.expected_cells(config, unit)
    assert counts == expected


def test_null_models_run_their_rate_with_every_seed():
    config, unit = one_unit(optimizers=("null_adam",), num_seeds=3)
    found = sweep_parts.finish(config, unit, best_at(1.0))
    assert wanted(found) == [(0.03, seed) for seed in range(3)]


def published(**changes):
    config = sweep_parts.config(
        tasks=("mlp-w4-d1-cifar10:4x4:gray",), widths=(), **changes
    )
    found = sweep_parts.units(config)
    return config, [unit for unit in found if unit.published_rate is not None]


def test_published_rates_are_run_once_with_every_seed_and_their_hyper_parameters():
    config, (unit,) = published(num_seeds=3)
    found = sweep_parts.finish(config, unit, best_at(1.0))
    assert wanted(found) == [(0.1473, seed) for seed in range(3)]
    hyper = dict(unit.program.hyper)
    assert (hyper["b1"], hyper["b2"], hyper["eps"]) == (0.9, 0.95, 1e-8)
    assert not plan.transfers(config, unit)


@pytest.mark.parametrize(
    ("schedules", "expected"),
    [(("default",), 1), (("auto",), 1), (("constant",), 0), (("constant", "auto"), 1)],
)
def test_published_rates_have_the_usual_schedule(schedules, expected):
    _, found = published(schedules=schedules)
    assert [unit.program.schedule for unit in found] == ["cosine"] * expected


def test_published_rates_can_be_left_out():
    assert published(published=False)[1] == []


def test_sizes_of_data_come_from_the_data():
    config = sweep_parts.config(tasks=(sweep_parts.TASK, "mlp-d2-digits"))
    found = plan.data_sizes(config)
    assert found[config.settings[0].task] == sweep_parts.SIZES
    four, eight = (found[tasks.names.parse(f"mlp-w{w}-d2-digits")] for w in (4, 8))
    assert four == eight
    assert sum(four) <= 1797
