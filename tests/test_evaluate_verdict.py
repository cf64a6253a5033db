import numpy as np
import pytest
import sweep_parts

from evaluate import axes, summary, verdict

LEARNED = sweep_parts.contender("mulo", label="ours")
ADAM = sweep_parts.contender("mu_adam")
LION = sweep_parts.contender("mu_lion")
NULL = sweep_parts.contender("null_adam")


def sentences(*rows, count=8):
    """Return the verdict on made-up losses, per row a contender's, by setting."""
    widths = tuple(range(4, 4 + count))
    config = sweep_parts.config(widths=widths, num_seeds=3)
    made = [
        sweep_parts.entry(who, setting, final + np.array([0.0, 0.01, 0.02]))
        for who, finals in rows
        for setting, final in zip(
            axes.settings(config), np.broadcast_to(finals, count), strict=True
        )
    ]
    return summary.summarize(sweep_parts.study(config, made))["verdict"]


def test_eight_wins_of_eight_are_a_claim():
    first, _, _ = sentences((LEARNED, 0.2), (ADAM, 0.4))
    assert first == (
        "In final training loss, ours beats mu_adam (per cell) (8 of 8, win rate "
        "100 %, interval 63–100 %)."
    )


def test_two_wins_of_two_are_undecided():
    first, _, _ = sentences((LEARNED, 0.2), (ADAM, 0.4), count=2)
    assert first == (
        "In final training loss, ours is undecided against mu_adam (per cell) (won 2, "
        "lost 0 of 2)."
    )


def test_losses_are_said_as_plainly_as_wins():
    first, second, third = sentences((LEARNED, 0.5), (ADAM, 0.4), (LION, 0.6))
    assert "ours beats mu_lion (per cell) (8 of 8" in first
    assert "; loses to mu_adam (per cell) (8 of 8, win rate 0 %, interval" in first
    assert second.startswith("In validation loss it beats 1, loses to 1 of those; ")
    assert third == (
        "No run diverged; at 20 steps the best average rank is 1.0, of mu_adam (per "
        "cell), and ours is at 2.0 of 3 lines."
    )


def test_null_models_are_compared_in_a_sentence_of_their_own():
    first, second, _ = sentences((LEARNED, 0.5), (ADAM, 0.4), (NULL, 0.3))
    assert "null_adam" not in first
    assert second.endswith(
        "to have learned anything, it loses to null_adam (8 of 8, "
        "win rate 0 %, interval 0–37 %)."
    )
    _, second, _ = sentences((LEARNED, 0.5), (ADAM, 0.4))
    assert second.endswith("; no null model was run.")


def test_without_baselines_nothing_is_claimed():
    first, second, _ = sentences((LEARNED, 0.5), (NULL, 0.6))
    assert "compared with no hand-designed optimizer" in first
    assert second.startswith("In validation loss there is nothing to compare it with;")


def test_divergence_and_sizes_beyond_meta_training_are_counted():
    _, _, third = sentences((LEARNED, [0.2] * 7 + [np.nan]), (ADAM, 0.4))
    assert third.startswith("3 of its 24 runs diverged; at 20 steps")
    values = {
        "entries": [],
        "settings": [{"in_range": x} for x in (True, False, False, None)],
        "average_ranks": [],
    }
    assert verdict._beyond(values, "ours") == (
        "2 of the 3 settings lie beyond the sizes of its meta-training; no run "
        "diverged."
    )


def test_a_sweep_without_a_finished_run_says_so():
    assert verdict.sentences({"subjects": []}) == [
        "No run has finished, so that there is nothing to say."
    ]


@pytest.mark.parametrize("count", [2, 8])
def test_a_verdict_has_three_sentences(count):
    found = sentences((LEARNED, 0.2), (ADAM, 0.4), (NULL, 0.5), count=count)
    assert len(found) == 3
    assert all(text[0].isupper() and text.endswith(".") for text in found)
