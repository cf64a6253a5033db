import dataclasses
import json
import math

import numpy as np
import pytest

from evaluate import cells, optimizers, plots, summary, sweep, tables

CONFIG = sweep.SweepConfig(
    task="mlp-d1-synthetic:4x4x1:3",
    widths=(8, 16),
    optimizers=("mulo", "mu_adam"),
    learning_rates={"mu_adam": (0.01, 0.1, 1.0)},
    untuned_learning_rates={"mu_adam": 0.001},
    hyper={},
    num_seeds=3,
    horizon_steps=100,
    batch_examples=16,
    data_dir="",
    data_budget_bytes=1 << 30,
    lanes=1,
    bootstrap_samples=200,
    confidence_frac=0.95,
    bootstrap_seed=0,
)


def result(optimizer, width, rate, seed, final, diverged=False, secs=0.01):
    program = cells.Program(
        task=CONFIG.task_name(optimizer, width),
        optimizer=optimizer,
        hyper=(),
        horizon_steps=100,
        batch_size=16,
        theta_sha256=None,
        num_train_examples=512,
        num_valid_examples=128,
    )
    return cells.CellResult(
        cell=cells.Cell(program=program, learning_rate=rate, seed=seed),
        initial_train_loss=1.1,
        final_train_loss=math.nan if diverged else final,
        final_valid_loss=math.nan if diverged else final + 0.1,
        final_valid_accuracy=0.5,
        first_nonfinite_step=50 if diverged else None,
        diverged=diverged,
        secs_per_step=secs,
        lanes=1,
        curve_steps=np.arange(100.0),
        # Falls to the final loss at half time and stays there.
        curve_losses=np.maximum(1.1 - (1.1 - final) * np.arange(100) / 50, final),
    )


def sweep_results(**changed):
    """Return results of every cell; ``changed[f"w{width}_{i}"]`` replaces rate i's."""
    found = []
    for width in CONFIG.widths:
        by_rate = {0.001: 0.9, 0.01: 0.7, 0.1: 0.5, 1.0: 0.6}
        for i, rate in enumerate(list(by_rate)[1:]):
            by_rate[rate] = changed.get(f"w{width}_{i}", by_rate[rate])
        for seed in range(3):
            found.append(result("mulo", width, 1.0, seed, 0.3 + 0.01 * seed, secs=0.04))
            for rate, final in by_rate.items():
                bad = final == "diverges" and seed == 2
                final = 0.2 if final == "diverges" else final
                final += 0.01 * seed
                found.append(result("mu_adam", width, rate, seed, final, bad))
    return found


def entry(chosen, width, label):
    return next(e for e in chosen if (e.width, e.label) == (width, label))


def test_the_rate_with_the_lowest_training_loss_is_chosen():
    chosen = summary.entries(CONFIG, sweep_results())
    assert entry(chosen, 8, "mu_adam").learning_rate == 0.1
    assert entry(chosen, 8, "mu_adam").lr_at_edge is None
    assert entry(chosen, 8, "mu_adam (untuned)").learning_rate == 0.001
    assert entry(chosen, 8, "mulo").lr_at_edge is None  # One rate has no edge.


def test_a_rate_at_which_a_seed_diverges_is_not_chosen_for_its_other_seeds():
    # At rate 1 the two surviving seeds have the lowest loss of all.
    chosen = summary.entries(CONFIG, sweep_results(w8_2="diverges"))
    assert entry(chosen, 8, "mu_adam").learning_rate == 0.1


@pytest.mark.parametrize(("index", "edge"), [(0, "lowest"), (2, "highest")])
def test_the_best_rate_on_an_edge_of_the_grid_is_reported(index, edge):
    results = sweep_results(**{f"w16_{index}": 0.1})
    chosen = summary.entries(CONFIG, results)
    assert entry(chosen, 16, "mu_adam").lr_at_edge == edge
    assert entry(chosen, 8, "mu_adam").lr_at_edge is None
    found = [text for text in summary.warnings(CONFIG, chosen) if "grid" in text]
    assert len(found) == 1
    assert (
        f"mu_adam at width 16: the tuned learning rate {(0.01, 0, 1)[index]}"
        in (found[0])
    )


def test_the_untuned_rate_is_no_part_of_the_grid():
    results = [
        dataclasses.replace(r, final_train_loss=0.0)
        if r.cell.learning_rate == 0.001
        else r
        for r in sweep_results()
    ]
    chosen = summary.entries(CONFIG, results)
    assert entry(chosen, 8, "mu_adam").learning_rate == 0.1


def test_divergences_are_counted_and_left_out_of_the_mean():
    everywhere = {f"w8_{i}": "diverges" for i in range(3)}
    results = sweep_results(**everywhere)
    chosen = summary.entries(CONFIG, results)
    values = summary.summarize(CONFIG, results, chosen)
    found = next(
        e for e in values["entries"] if (e["width"], e["label"]) == (8, "mu_adam")
    )
    assert found["num_diverged"] == 1
    assert found["num_diverged_all_rates"] == 3
    assert found["train_loss"]["seeds"] == pytest.approx([0.2, 0.21])
    assert found["train_loss"]["estimate"] == pytest.approx(0.205)
    assert found["valid_loss"]["estimate"] == pytest.approx(0.305)
    assert values["num_diverged_cells"] == 3
    assert any("1 of 3 seeds diverged" in text for text in values["warnings"])


def test_an_entry_whose_seeds_all_diverged_has_no_numbers():
    results = [
        result("mulo", 8, 1.0, r.cell.seed, 0.3, diverged=True)
        if (summary.width_of(r), r.cell.program.optimizer) == (8, "mulo")
        else r
        for r in sweep_results()
    ]
    chosen = summary.entries(CONFIG, results)
    values = summary.summarize(CONFIG, results, chosen)
    json.dumps(values, allow_nan=False)
    assert values["entries"][0]["train_loss"] is None
    comparison = values["comparisons"][0]
    assert (comparison["train_difference"], comparison["speedup_steps"]) == (None, None)
    # Last of three at width 8, first at width 16.
    assert values["average_rank"]["mulo"] == 2.0
    assert tables.table(CONFIG, chosen)[1][3:6] == ["–", "–", "–"]
    plots.final_loss(CONFIG, chosen)  # Draws a gap, without a warning.


def test_the_learned_optimizer_is_compared_with_every_other_entry():
    results = sweep_results()
    chosen = summary.entries(CONFIG, results)
    comparisons = summary.summarize(CONFIG, results, chosen)["comparisons"]
    assert [(c["width"], c["label"], c["against"]) for c in comparisons] == [
        (8, "mulo", "mu_adam"),
        (8, "mulo", "mu_adam (untuned)"),
        (16, "mulo", "mu_adam"),
        (16, "mulo", "mu_adam (untuned)"),
    ]
    assert comparisons[0]["train_difference"]["estimate"] == pytest.approx(-0.2)
    assert comparisons[0]["train_difference"]["high"] < 0


def test_speed_up_is_horizon_over_the_step_that_reaches_the_other():
    results = sweep_results()
    chosen = summary.entries(CONFIG, results)
    comparison = summary.summarize(CONFIG, results, chosen)["comparisons"][0]
    # Mean loss 1.1 - 0.79 t / 50 averaged over t-4 … t is 0.51 at t = 39.3: step 40,
    # and the count of steps done then is 41. mulo takes four times as long per step.
    assert comparison["speedup_steps"] == pytest.approx(100 / 41)
    assert comparison["speedup_time"] == pytest.approx(100 / 41 / 4)


def test_results_csv_has_a_line_per_cell():
    results = sweep_results()
    lines = tables.results_csv(results).splitlines()
    assert len(lines) == len(results) + 1
    header, first = (line.split(",") for line in lines[:2])
    row = dict(zip(header, first, strict=True))
    assert (row["width"], row["optimizer"], row["seed"]) == ("8", "mu_adam", "0")
    assert (row["learning_rate"], row["final_train_loss"]) == ("0.001", "0.9")
    assert (row["diverged"], row["first_nonfinite_step"]) == ("False", "")
    cell = next(r for r in results if r.cell.learning_rate == 0.001).cell
    assert row["definition_sha256"] == cell.digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "mlp-w8-d1-digits"}, "template without a width"),
        ({"task": "sp-mlp-d1-digits"}, "trains the sp- twin itself"),
        ({"widths": (8, 8)}, "widths must be distinct"),
        ({"widths": (1, 8)}, "widths must be >= 2"),
        ({"optimizers": ()}, "optimizers must be distinct and not empty"),
        ({"optimizers": ("mula",)}, "did you mean 'mulo'"),
        ({"learning_rates": {"mu_adam": ()}}, r"rates.mu_adam must be .* got \(\)"),
        ({"learning_rates": {"mu_adam": (0.1, 0.01)}}, "positive and rising"),
        ({"hyper": {"mu_adam": {"beta1": 0.9}}}, r"mu_adam\.beta1 is not a hyper"),
        ({"num_seeds": 0}, "num_seeds must be >= 1; got 0"),
        ({"lanes": -1}, "lanes must be >= 0"),
        ({"confidence_frac": 95.0}, "confidence_frac must lie in"),
    ],
)
def test_configurations_that_make_no_sense_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_standard_optimizers_train_the_twin():
    for name, spec in optimizers.SPECS.items():
        assert CONFIG.task_name(name, 8).startswith("sp-") == spec.standard
