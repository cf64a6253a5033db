import io
import math

import polars
import pytest
from helpers import sweep_parts

from evaluate.report import tables

CONFIG = sweep_parts.config()
READINGS = [
    reading
    for name in ("sgd", "mu_adam")
    for setting in reversed(CONFIG.settings)
    for reading in sweep_parts.entry(
        sweep_parts.contender(name, hyper=(("b1", 0.9), ("b2", 0.99))),
        setting,
        [0.5, math.nan],
    ).readings
]


def test_results_have_a_row_per_run_with_the_columns_of_the_schema():
    table = tables.results(READINGS)
    assert table.schema == {name: kind for name, kind, _ in tables.SCHEMA}
    assert len(table) == 8
    assert table["width"].to_list() == [4] * 4 + [8] * 4
    row = table.row(0, named=True)
    assert row["task"] == "mlp-w4-d1-synthetic:4x4x1:3"
    assert (row["depth"], row["horizon_steps"], row["batch_size"]) == (1, 20, 8)
    assert (row["optimizer"], row["schedule"]) == ("mu_adam", "cosine")
    assert (row["seed"], row["learning_rate"]) == (0, 0.001)
    assert row["hyper"] == "b1=0.9 b2=0.99"
    assert row["final_train_loss"] == pytest.approx(0.5)
    assert row["final_valid_loss"] == pytest.approx(0.6)
    assert (row["diverged"], row["first_nonfinite_step"]) == (False, None)
    digests = {reading.result.cell.digest() for reading in READINGS}
    assert set(table["definition_sha256"]) == digests


def test_what_is_not_finite_is_null():
    row = tables.results(READINGS).row(1, named=True)
    assert row["final_train_loss"] is row["final_valid_loss"] is None
    assert row["best_valid_loss"] is None
    assert (row["diverged"], row["first_nonfinite_step"]) == (True, 10)
    assert row["initial_train_loss"] == pytest.approx(sweep_parts.CHANCE)


def test_parquet_and_csv_hold_the_same():
    table = tables.results(READINGS)
    from_parquet = polars.read_parquet(io.BytesIO(tables.parquet(table)))
    from_csv = polars.read_csv(tables.csv(table), schema=table.schema)
    assert from_parquet.equals(table)
    assert from_csv.equals(table)


def test_losses_are_written_for_people():
    losses = (0.0, 1.23456, 0.01, 0.00123456)
    assert [tables.format_loss(x) for x in losses] == [
        "0.0000",
        "1.2346",
        "0.0100",
        "1.23e-03",
    ]


def test_tables_line_up_and_rule_where_the_first_column_changes():
    rows = [["a", "bb", "c"], ["1", "x", "10"], ["1", "y", "2"], ["2", "z", "3"]]
    lines = tables.format_table(rows, rule=True).splitlines()
    assert lines[0] == "a  bb   c"
    assert [line for line in lines if "─" in line] == ["─  ──  ──"] * 2
    assert lines[-1] == "2  z    3"
