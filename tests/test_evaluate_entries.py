import math

import pytest
from helpers import sweep_parts

from evaluate.report import entries
from evaluate.sweep import cells, engine, plan


def collect(config, loss, folder, entered=None, keep=lambda cell: True):
    """Make up a whole sweep, as files, and read it."""
    units = sweep_parts.units(config, entered)
    for _ in range(2):  # Rates are transferred when those of the base are known.
        rates = engine.transferred(config, units, folder)
        for unit in units:
            moved = plan.rates_for(config, unit, rates)
            for made in sweep_parts.finish(config, unit, loss, moved).values():
                if keep(made.cell):
                    cells.write(folder, made)
    if entered is None:
        entered = list({u.contender.label: u.contender for u in units}.values())
    return entries.collect(config, entered, units, folder, rates)


def by_width(unit, rate, seed):
    """The best rate is 0.1 at width 4 and 1 at width 8."""
    best = 0.1 if "w4" in str(unit.program.task) else 1.0
    return 0.3 + 0.1 * abs(math.log10(rate / best)) + 0.01 * seed


GRID = {"mu_adam": (0.1, 1.0)}


def test_rates_are_found_at_each_setting_and_transferred_from_the_base(tmp_path):
    config = sweep_parts.config(learning_rates=GRID)
    found, rate_curves, runs = collect(config, by_width, tmp_path)
    shown = [(e.setting.width, e.key, e.learning_rate) for e in found]
    assert shown == [
        (4, "mu_adam (per cell)", 0.1),
        (4, "mu_adam (transferred)", 0.1),
        (8, "mu_adam (per cell)", 1.0),
        (8, "mu_adam (transferred)", 0.1),
    ]
    assert found[3].scores() == pytest.approx([0.4, 0.41], abs=1e-6)
    assert [c.rates for c in rate_curves] == [(0.1, 1.0)] * 2
    assert rate_curves[1].losses == pytest.approx((0.4, 0.3), abs=1e-6)
    assert len(runs) == 3 + 4


def test_what_tuning_cost_is_counted_where_it_was_done(tmp_path):
    config = sweep_parts.config(
        learning_rates=GRID, num_seeds=3, tuning_seeds=2, tuning_refinements=3
    )
    found, _, _ = collect(config, by_width, tmp_path)
    # Two of the grid, then both sides of the best: 0.05 and 0.2, or 0.5 and 2.
    assert [(e.tuning_runs, e.tuning_steps) for e in found] == [
        (8, 8 * 20),
        (0, 0),
        (8, 8 * 20),
        (0, 0),
    ]
    assert [e.interior for e in found] == [True] * 4  # As sure as at the base.


def test_a_rate_at_an_open_side_is_not_interior(tmp_path):
    config = sweep_parts.config(learning_rates=GRID)
    assert [e.interior for e in collect(config, by_width, tmp_path)[0]][::2] == [
        False,
        False,
    ]


def test_auto_is_the_better_of_cosine_and_wsd_and_costs_both(tmp_path):
    config = sweep_parts.config(learning_rates=GRID, schedules=("auto",))

    def loss(unit, rate, seed):
        better = {4: "wsd", 8: "cosine"}
        width = unit.program.task.width
        handicap = 0.05 * (better[width] != unit.program.schedule)
        return by_width(unit, rate, seed) + handicap

    found, _, _ = collect(config, loss, tmp_path)
    assert [(e.label, e.schedule) for e in found[::2]] == [
        ("mu_adam", "wsd"),
        ("mu_adam", "cosine"),
    ]
    assert [e.tuning_runs for e in found[::2]] == [4, 4]
    # What is transferred is the base's choice; the target has no say in it.
    assert [e.schedule for e in found[1::2]] == ["wsd", "wsd"]


def test_learned_rules_are_untouched_and_null_models_fixed(tmp_path):
    config = sweep_parts.config(widths=(4,))
    names = ("mulo", "null_adam")
    entered = [sweep_parts.contender(name) for name in names]
    found, rate_curves, _ = collect(config, by_width, tmp_path, entered)
    assert [(e.key, e.tuning, e.learning_rate) for e in found] == [
        ("mulo", "untouched", 1.0),
        ("null_adam", "fixed", 0.03),
    ]
    assert all((e.interior, e.tuning_runs) == (None, 0) for e in found)
    assert not rate_curves


def test_published_rates_stand_beside_the_tuned_ones(tmp_path):
    config = sweep_parts.config(
        tasks=("mlp-w4-d1-cifar10:4x4:gray",), widths=(), learning_rates=GRID
    )
    found, _, _ = collect(config, by_width, tmp_path)
    assert [(e.key, e.learning_rate) for e in found] == [
        ("mu_adam (per cell)", 0.1),
        ("mu_adam (published)", 0.1473),
    ]


def test_a_contender_of_which_every_rate_diverged_is_shown_as_such(tmp_path):
    config = sweep_parts.config(learning_rates=GRID)
    found, _, _ = collect(config, lambda *_: math.nan, tmp_path)
    assert [(e.key, e.learning_rate) for e in found] == [
        ("mu_adam (per cell)", 0.1),
        ("mu_adam (per cell)", 0.1),
    ]
    assert all(e.num_diverged == len(e.readings) == 2 for e in found)
    assert all(math.isinf(score) for score in found[0].scores())


def test_an_entry_that_lacks_a_seed_is_left_out(tmp_path):
    config = sweep_parts.config(learning_rates=GRID)

    def keep(cell):
        return "w8" not in str(cell.program.task) or cell.seed == 0

    found, _, _ = collect(config, by_width, tmp_path, keep=keep)
    assert {e.setting.width for e in found} == {4}


def test_a_study_finds_its_entries():
    config = sweep_parts.config()
    first, second = config.settings
    who = sweep_parts.contender("mu_adam")
    made = [sweep_parts.entry(who, setting, [0.4, 0.5]) for setting in (first, second)]
    study = sweep_parts.study(config, made)
    assert study.keys == ("mu_adam (per cell)",)
    assert study.find(second, "mu_adam (per cell)") is made[1]
    assert study.find(second, "mu_adam (published)") is None
    assert made[0].secs_per_step() == 0.01


def test_units_say_what_they_are():
    config = sweep_parts.config(widths=(4,))
    (unit,) = sweep_parts.units(config)
    assert unit.label == "mlp-w4-d1-synthetic:4x4x1:3 mu_adam cosine × 20"
