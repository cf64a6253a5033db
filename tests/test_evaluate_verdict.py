import numpy as np
import pytest
from helpers import sweep_parts

from evaluate.report import summary, verdict

LEARNED = sweep_parts.contender("mulo", label="ours")
ADAM = sweep_parts.contender("mu_adam")
LION = sweep_parts.contender("mu_lion")
NULL = sweep_parts.contender("null_adam")
SPREAD = np.array([0.0, 0.01, 0.02])


def sentences(*rows, count=2, spread=SPREAD):
    """Return the verdict on made-up losses, per row a contender's, by setting."""
    widths = tuple(range(4, 4 + count))
    config = sweep_parts.config(widths=widths, num_seeds=len(spread))
    made = [
        sweep_parts.entry(who, setting, final + spread)
        for who, finals in rows
        for setting, final in zip(
            config.settings, np.broadcast_to(finals, count), strict=True
        )
    ]
    return summary.summarize(sweep_parts.study(config, made))["verdict"]


def row(low, high, diverged=0, opponent_diverged=0):
    margin = {"low": low, "high": high, "estimate": (low + high) / 2}
    margin |= {"diverged": diverged, "opponent_diverged": opponent_diverged}
    return {"margin": margin, "cells": []}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (row(-0.2, -0.1), "beats"),
        (row(0.1, 0.2), "loses to"),
        (row(-0.2, 0.1), "is undecided against"),
        (row(-0.2, 0.0), "is undecided against"),
        (row(-np.inf, np.inf), "is undecided against"),
        # A lower loss of fewer runs is no win, nor a higher one of more a loss.
        (row(-0.2, -0.1, diverged=1), "is undecided against"),
        (row(-0.2, -0.1, diverged=1, opponent_diverged=1), "beats"),
        (row(0.1, 0.2, opponent_diverged=1), "is undecided against"),
    ],
)
def test_a_claim_is_made_only_where_the_interval_supports_it(made, expected):
    assert verdict.claim(made) == expected


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([1, 1], "beats"),
        ([1, 0], "beats"),
        ([-1], "loses to"),
        ([0], "is undecided against"),
        ([1, -1], "is undecided against"),
        ([None], None),
    ],
)
def test_where_one_of_two_diverged_everywhere_the_outcomes_decide(outcomes, expected):
    cells = [{"outcome": outcome} for outcome in outcomes]
    assert verdict.claim({"margin": None, "cells": cells}) == expected


def test_wins_are_claimed_with_their_margins():
    first, _, _ = sentences((LEARNED, 0.2), (ADAM, 0.4))
    margin = np.exp(np.mean(np.log((0.2 + SPREAD) / (0.4 + SPREAD)))) - 1
    assert first == (
        f"Over 2 settings ours, with nothing tuned, beats mu_adam "
        f"(−{-100 * margin:.1f} %) in final training loss, each tuned per cell; in "
        "validation loss it beats 1 of them."
    )


def test_losses_are_said_as_plainly_as_wins_and_first():
    first, _, third = sentences((LEARNED, 0.5), (ADAM, 0.4), (LION, 0.6))
    assert ", loses to mu_adam (+" in first
    assert first.index("loses to mu_adam") < first.index("beats mu_lion (−")
    assert first.endswith("in validation loss it loses to 1 and beats 1 of them.")
    assert third == (
        "None of its runs diverged; at 20 steps the best average rank is 1.0, of "
        "mu_adam (per cell), and ours is at 2.0 of 3 lines."
    )


def test_losses_that_overlap_are_level():
    noise = np.array([-0.1, 0.1, 0.0])
    first, _, _ = sentences((LEARNED, 0.5), (ADAM, 0.5), spread=0 * noise)
    assert "is undecided against mu_adam (+0.0 %)" in first
    config = sweep_parts.config(widths=(4,), num_seeds=3)
    (setting,) = config.settings
    made = [
        sweep_parts.entry(LEARNED, setting, 0.5 + noise),
        sweep_parts.entry(ADAM, setting, 0.52 - noise),
    ]
    found = summary.summarize(sweep_parts.study(config, made))["verdict"]
    assert "is undecided against mu_adam" in found[0]


def test_null_models_are_compared_in_a_sentence_of_their_own():
    first, second, _ = sentences((LEARNED, 0.5), (ADAM, 0.4), (NULL, 0.3))
    assert "null_adam" not in first
    assert second.startswith(
        "Of the null models, which a rule must beat to have learned anything, it loses "
        "to null_adam (+"
    )
    _, second, _ = sentences((LEARNED, 0.5), (ADAM, 0.4))
    assert second.startswith("No null model was run")


def test_without_baselines_nothing_is_claimed():
    first, _, _ = sentences((LEARNED, 0.5), (NULL, 0.6))
    assert "ours was compared with no hand-designed optimizer" in first


def test_an_opponent_that_diverged_everywhere_is_beaten_and_said_to_have():
    first, _, _ = sentences((LEARNED, 0.5), (ADAM, np.nan))
    assert "beats mu_adam (diverged) in final training loss" in first


def test_divergence_of_the_subject_is_counted():
    _, _, third = sentences((LEARNED, [0.2, np.nan]), (ADAM, 0.4))
    assert third.startswith("3 of its 6 runs diverged; at 20 steps")


def test_settings_beyond_the_sizes_of_meta_training_are_counted():
    values = {
        "subjects": ["ours"],
        "matrices": [],
        "entries": [],
        "settings": [
            {"in_range": x}
            for x in ({"ours": True}, {"ours": False, "b": True}, {"ours": False}, {})
        ],
        "average_ranks": [],
    }
    assert verdict.sentences(values)[2] == (
        "2 of the 3 settings lie beyond the sizes of its meta-training; none of its "
        "runs diverged."
    )


def test_a_sweep_without_a_finished_run_says_so():
    assert verdict.sentences({"subjects": []}) == [
        "No run has finished, so that there is nothing to say."
    ]


@pytest.mark.parametrize("count", [1, 8])
def test_a_verdict_has_three_sentences(count):
    found = sentences((LEARNED, 0.2), (ADAM, 0.4), (NULL, 0.5), count=count)
    assert len(found) == 3
    assert all(text[0].isupper() and text.endswith(".") for text in found)


def test_one_seed_claims_nothing():
    first = sentences((LEARNED, 0.2), (ADAM, 0.4), spread=np.zeros(1))[0]
    assert "is undecided against mu_adam (−50.0 %)" in first


def test_seeds_that_settings_share_are_not_counted_twice():
    # Better by half at two settings, but at one of three seeds only: not told.
    spread = np.array([0.0, 0.0, 0.0])
    config = sweep_parts.config(widths=(4, 5), num_seeds=3)
    made = [
        sweep_parts.entry(who, setting, losses + spread)
        for who, losses in (
            (LEARNED, np.array([0.1, 0.4, 0.4])),
            (ADAM, np.array([0.2, 0.41, 0.39])),
        )
        for setting in config.settings
    ]
    values = summary.summarize(sweep_parts.study(config, made))
    (margin,) = [
        row["margin"]
        for matrix in values["matrices"]
        if matrix["measure"] == "train"
        for row in matrix["rows"]
    ]
    assert margin["low"] < 0 < margin["high"]
    assert margin["num_settings"] == 2
