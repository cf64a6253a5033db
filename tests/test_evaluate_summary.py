import dataclasses
import json
import math

import numpy as np
import pytest
from helpers import sweep_parts

import mulo
from evaluate.optimizers import names
from evaluate.optimizers import thetas as thetas_lib
from evaluate.report import entries, summary, tables
from evaluate.sweep import curves

LEARNED = sweep_parts.contender("mulo", label="ours")
ADAM = sweep_parts.contender("mu_adam")
NULL = sweep_parts.contender("null_adam")
SPREAD = np.array([0.0, 0.01, 0.02])


def study(rows, widths=(4, 8), num_seeds=3, **changes):
    """Make a study of contenders: per row one, its final loss by setting."""
    config = sweep_parts.config(widths=widths, num_seeds=num_seeds)
    made = []
    for who, finals, *more in rows:
        for setting, final in zip(config.settings, finals, strict=True):
            if final is None:
                continue
            seeds = np.broadcast_to(final, num_seeds) + SPREAD[:num_seeds]
            made.append(sweep_parts.entry(who, setting, seeds, *more))
    return sweep_parts.study(config, made, **changes)


PLAIN = [(LEARNED, (0.2, 0.5)), (ADAM, (0.4, 0.4)), (NULL, (0.8, 0.8))]


def summarize(rows, **changes):
    found = summary.summarize(study(rows, **changes))
    json.dumps(found, allow_nan=False)  # All of it is plain.
    return found


def row(values, opponent, measure="train"):
    (matrix,) = [m for m in values["matrices"] if m["measure"] == measure]
    return next(r for r in matrix["rows"] if r["opponent"] == opponent)


def test_a_matrix_holds_outcomes_and_margins_by_setting():
    values = summarize(PLAIN)
    assert values["subjects"] == ["ours"]
    found = row(values, "mu_adam (per cell)")
    assert [c["outcome"] for c in found["cells"]] == [1, -1]
    assert [c["margin_frac"] for c in found["cells"]] == pytest.approx(
        [0.21 / 0.41 - 1, 0.51 / 0.41 - 1], rel=1e-5
    )
    assert all(c["p_value"] < 1e-6 for c in found["cells"])
    valid = row(values, "mu_adam (per cell)", "valid")
    assert valid["cells"][0]["margin_frac"] == pytest.approx(0.31 / 0.51 - 1, rel=1e-5)
    rate = row(values, "null_adam")["win_rate"]
    assert (rate["wins"], rate["ties"], rate["losses"], rate["rate"]) == (2, 0, 0, 1.0)
    assert rate["low"] == pytest.approx(0.025**0.5)  # Clopper and Pearson, 2 of 2.


def test_losses_that_overlap_are_undecided_and_count_half():
    noisy = [0.2, 0.5, 0.4]
    config = sweep_parts.config(widths=(4,), num_seeds=3)
    (setting,) = config.settings
    made = [
        sweep_parts.entry(LEARNED, setting, noisy),
        sweep_parts.entry(ADAM, setting, [0.4, 0.38, 0.41]),
    ]
    values = summary.summarize(sweep_parts.study(config, made))
    found = row(values, "mu_adam (per cell)")
    assert found["cells"][0]["outcome"] == 0
    assert found["cells"][0]["p_value"] > 0.1
    assert found["win_rate"]["rate"] == 0.5


def test_settings_that_only_one_of_two_lines_has_are_left_out():
    values = summarize([(LEARNED, (0.2, 0.5)), (ADAM, (None, 0.4))])
    assert [c["setting"] for c in row(values, "mu_adam (per cell)")["cells"]] == [1]


def test_a_learned_rule_that_is_tuned_is_a_subject_where_its_rate_is_transferred():
    tuned = sweep_parts.contender("mu_celo2", theta=None)
    rows = [(tuned, (0.3, 0.3)), (tuned, (0.3, 0.4), "transferred"), PLAIN[1]]
    assert summarize(rows)["subjects"] == ["mu_celo2 (transferred)"]
    assert summarize(PLAIN[1:])["subjects"] == ["mu_adam (per cell)"]


def test_ranks_are_averaged_over_the_settings_of_a_horizon():
    (found,) = summarize(PLAIN)["average_ranks"]
    assert (found["horizon_steps"], found["num_settings"]) == (20, 2)
    ranks = {r["key"]: r["estimate"] for r in found["ranks"]}
    assert ranks == {"ours": 1.5, "mu_adam (per cell)": 1.5, "null_adam": 3.0}


def test_probability_of_improvement_and_profile_are_those_of_the_losses():
    values = summarize(PLAIN)
    found = {p["against"]: p["estimate"] for p in values["probability_of_improvement"]}
    assert found == {"mu_adam (per cell)": 0.5, "null_adam": 1.0}
    profile = values["profile"]
    lines = {line["key"]: line["values"] for line in profile["lines"]}
    assert lines["mu_adam (per cell)"][0] == pytest.approx(1 / 3)
    assert lines["mu_adam (per cell)"][-1] == 1.0
    assert lines["null_adam"][-1] == pytest.approx(1.0)


def test_speed_up_is_in_steps_and_in_time_and_zero_when_never():
    config = sweep_parts.config(widths=(4,), num_seeds=2)
    (setting,) = config.settings
    made = [
        sweep_parts.entry(LEARNED, setting, [0.2, 0.6], secs=0.02),
        sweep_parts.entry(ADAM, setting, [0.4, 0.4], secs=0.01),
        sweep_parts.entry(NULL, setting, [math.nan, math.nan]),
    ]
    values = summary.summarize(sweep_parts.study(config, made))
    to_adam, to_null = values["speedups"]
    losses = made[0].readings[0].losses
    expected = curves.speedup(losses, made[1].readings[0].final_train_loss, 20) / 2
    assert expected > 0.5  # Of two seeds, the second never gets there.
    assert to_adam["steps"] == pytest.approx(expected)
    assert to_adam["time"] == pytest.approx(expected / 2)
    assert to_null["steps"] is None


def test_there_is_no_speed_up_over_a_theta_that_was_never_meta_trained():
    config = sweep_parts.config(widths=(4,), num_seeds=2)
    (setting,) = config.settings
    start = dataclasses.replace(NULL, label="start", spec=names.get("theta_init"))
    drawn, trained = (
        dataclasses.replace(
            LEARNED, label=label, theta=thetas_lib.Theta(mulo.load("mulo-s"), source)
        )
        for label, source in (("drawn", "random"), ("trained", "runs/x"))
    )
    made = [
        sweep_parts.entry(contender, setting, [0.2, 0.6])
        for contender in (LEARNED, start, drawn, trained)
    ]
    values = summary.summarize(sweep_parts.study(config, made))
    over = {row["against"] for row in values["speedups"]}
    assert over == {LEARNED.label, "trained"}


def test_basins_say_how_wide_and_whether_they_are_open():
    config = sweep_parts.config()
    setting, other = config.settings
    made = [
        entries.RateCurve(
            setting=setting,
            contender=ADAM,
            schedule="cosine",
            rates=(0.01, 0.1, 1.0),
            losses=(0.5, 0.5, math.inf),
        ),
        entries.RateCurve(
            setting=other,
            contender=ADAM,
            schedule="cosine",
            rates=(0.01, 0.1),
            losses=(math.inf, math.inf),
        ),
    ]
    (found,) = summarize(PLAIN, rate_curves=made)["basins"]
    assert (found["setting"], found["label"]) == (0, "mu_adam")
    assert (found["open_low"], found["open_high"]) == (True, False)
    assert found["decades"] >= 1.0


def test_divergences_are_counted_and_left_out_of_the_mean():
    values = summarize([(LEARNED, (0.2, 0.5)), (ADAM, ([0.4, 0.4, math.nan], 0.4))])
    found = values["entries"][2]
    assert (found["num_seeds"], found["num_diverged"]) == (3, 1)
    assert found["train_loss"]["estimate"] == pytest.approx(0.405, rel=1e-5)
    assert found["scores"]["train"] == pytest.approx([0.4, 0.41, None])
    assert any("1 of 3 seeds diverged at rate" in x for x in values["warnings"])
    assert values["num_diverged_cells"] == 1


def test_entries_whose_seeds_all_diverged_have_no_numbers_and_no_baseline_succeeded():
    values = summarize([(LEARNED, (0.2, 0.5)), (ADAM, (math.nan, 0.4))])
    found = values["entries"][2]
    assert found["train_loss"] is found["valid_loss"] is None
    label = "mlp-w4-d1-synthetic:4x4x1:3, 20 steps"
    said = [text for text in values["warnings"] if label in text]
    assert said == [
        f"mu_adam (per cell) at {label}: every seed diverged (rate 0.001).",
        f"{label}: no baseline succeeded.",
    ]
    cells = row(values, "mu_adam (per cell)")["cells"]
    assert [c["outcome"] for c in cells] == [1, -1]
    assert cells[0]["margin_frac"] is None
    assert {r["key"]: r["estimate"] for r in values["average_ranks"][0]["ranks"]} == {
        "ours": 1.5,
        "mu_adam (per cell)": 1.5,
    }
    lines = tables.entries(values)
    assert lines[2][3:] == ["–", "–", "–", "3/3", "10.00"]


def test_a_baseline_that_has_no_entry_has_not_succeeded_either():
    made = study([PLAIN[0]], contenders=(LEARNED, ADAM))
    said = summary.warnings(made)
    assert [text for text in said if text.endswith("no baseline succeeded.")]
    said = summary.warnings(study([PLAIN[0]]))
    assert [text for text in said if "no hand-designed baseline was run" in text]


def test_an_optimum_at_an_open_side_few_seeds_and_random_thetas_are_warned_of():
    theta = thetas_lib.Theta(LEARNED.pretrained, "random")
    untrained = sweep_parts.contender("mulo", label="random", theta=theta)
    config = sweep_parts.config(widths=(4,), num_seeds=2)
    (setting,) = config.settings
    made = [
        sweep_parts.entry(untrained, setting, [0.5, 0.5]),
        sweep_parts.entry(ADAM, setting, [0.5, 0.5], interior=False),
    ]
    found = summary.warnings(sweep_parts.study(config, made))
    assert len(found) == 3
    assert "the tuned rate 0.001 is not known to be the best" in found[0]
    assert found[1].startswith("2 seeds per entry")
    assert found[2].startswith("random: its theta is random, never meta-trained")


def test_what_is_not_a_number_becomes_none():
    value = {1: (math.nan, np.float32(0.5), np.array([math.inf, 1])), "a": np.int64(3)}
    assert summary.plain(value) == {"1": [None, 0.5, [None, 1.0]], "a": 3}


def test_the_title_says_what_varies():
    assert summarize(PLAIN)["title"] == (
        "Generalization over width: mlp-synthetic:4x4x1:3"
    )


def test_each_subject_has_its_own_sizes_of_meta_training():
    def learned(label, shortest, longest):
        lengths = {"min_length_steps": shortest, "max_length_steps": longest}
        trained = {"tasks": ["mlp-w4+w8-d1-digits"], "pes": lengths}
        made = sweep_parts.contender("mulo", label=label)
        assert made.pretrained is not None
        assert made.theta is not None
        card = {"meta_training": trained}
        pretrained = dataclasses.replace(made.pretrained, card=card)
        theta = dataclasses.replace(made.theta, pretrained=pretrained)
        return dataclasses.replace(made, theta=theta)

    config = sweep_parts.config(widths=(4,))  # 20 steps.
    (setting,) = config.settings
    made = [
        sweep_parts.entry(who, setting, [0.4, 0.5])
        for who in (learned("short", 5, 10), learned("long", 10, 40))
    ]
    made.append(sweep_parts.entry(sweep_parts.contender("mu_adam"), setting, [0.4] * 2))
    values = summary.summarize(sweep_parts.study(config, made))
    assert values["settings"][0]["in_range"] == {"short": False, "long": True}
