import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import mulo
from evaluate import lr_transfer
from evaluate.report import style
from evaluate.sweep import axes

ROOT = pathlib.Path(__file__).parent.parent
RATES = (0.1, 0.2, 0.4)


def transfer(*rows):
    widths = (8, 16, 32)[: len(rows)]
    rates = tuple(0.1 * 2.0**k for k in range(len(rows[0])))
    return lr_transfer.Transfer(widths, rates, np.array(rows, np.float64))


def test_the_best_rate_of_a_width_is_where_its_loss_is_least():
    found = transfer([3.0, 1.0, 2.0], [3.0, 2.0, 1.0])
    assert found.best == (1, 2)
    assert found.moved == 1
    assert found.on_edge == (16,)


def test_diverged_rates_are_never_best():
    assert transfer([np.inf, 9.0, 10.0]).best == (1,)
    with pytest.raises(ValueError, match=r"diverged at width 8; add smaller .* 0\.1"):
        _ = transfer([np.inf] * 3).best


def test_more_than_one_grid_step_fails_and_says_so():
    far = transfer([9, 1, 2, 3, 9], [9, 3, 2, 1, 9])
    said = lr_transfer.describe(far, "title")
    assert "FAILED: best rates lie 2 grid steps apart." in said
    beyond = lr_transfer.describe(transfer([1, 2, 3], [3, 2, 1]), "title")
    assert "at widths 8, 16 the best rate is at an end" in beyond
    assert "give --learning_rates below 0.1 and above 0.4" in beyond


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([[2, 1, 3], [2, 1, 3]], "passed"),
        ([[1, 2, 3], [1, 2, 3]], "inconclusive"),
        ([[2, 1, 3], [3, 2, 1]], "inconclusive"),
        ([[1, 2, 3], [3, 2, 1]], "inconclusive"),
    ],
)
def test_a_best_rate_at_an_end_of_the_grid_decides_nothing(rows, verdict):
    found = transfer(*rows)
    assert found.verdict == verdict
    assert f"\n{verdict}: best rates lie" in lr_transfer.describe(found, "title")


def test_the_plot_shows_every_point():
    rates = (0.1, 0.2, 0.4)
    losses = np.array([[2.0, 1.0, 90.0], [3.0, 2.0, np.inf]])
    (axes,) = lr_transfer.draw(lr_transfer.Transfer((8, 16), rates, losses), "").axes
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert left < 0.1 < 0.4 < right
    assert low < 1.0 < 90.0 < high
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "0.2", "0.4"]
    (cross,) = [x for x in axes.lines if x.get_marker() == "x" and len(x.get_xdata())]
    assert list(cross.get_xdata()) == [0.4]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["width 8", "width 16", "diverged"]


def test_the_plot_is_a_png_also_with_diverged_rates():
    found = transfer([2, 1, np.inf], [3, 2, 1])
    assert style.png(lr_transfer.draw(found, "title"))[:4] == b"\x89PNG"


def command(folder, *more):
    return subprocess.run(
        [
            *(sys.executable, "-m", "evaluate.lr_transfer", f"--workdir={folder}"),
            *("--task=mlp-d1-synthetic:2x2x1:2", "--widths=4,8", "--steps=12"),
            *("--learning_rates=0.001,0.1,10000", "--batch_size=4", *more),
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_check_trains_every_cell_once_and_writes_table_json_and_plot(tmp_path):
    first = command(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "mu_adam on mlp-d1-synthetic:2x2x1:2, 12 steps" in first.stdout
    values = json.loads((tmp_path / "lr_transfer.json").read_text())
    assert values["widths"] == [4, 8]
    assert values["best"] == [0.1, 0.1]
    assert np.shape(values["losses_by_width_rate"]) == (2, 3)
    assert values["passed"]
    assert (tmp_path / "lr_transfer.png").read_bytes()[:4] == b"\x89PNG"
    cells = {p: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()}
    assert len(cells) == 6
    again = command(tmp_path)
    assert again.stdout == first.stdout
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()} == cells


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--workdir=", "--workdir must name a directory, got nothing."),
        ("--learning_rates=0.1,x", "learning_rates must be numbers"),
        ("--widths=4,y", "widths must be whole numbers"),
        ("--optimizer=mu_adm", "did you mean 'mu_adam'"),
        ("--optimizer=mulo", "'mulo' is used with the step"),
        ("--widths=8", "widths must be two or more"),
        ("--learning_rates=0.1,0.2", "learning_rates three or more"),
        ("--steps=abc", "flag --steps=abc"),
        ("--nosuchflag", "Unknown command line flag"),
        ("--task=sp-mlp-d1-digits", "must be μP names"),
    ],
)
def test_bad_input_is_one_line_and_status_2(flag, message, tmp_path):
    done = command(tmp_path, flag)
    assert done.returncode == 2
    assert done.stderr.startswith("lr_transfer: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_learned_rules_whose_rate_is_the_users_are_checked_too(tmp_path):
    rule = mulo.Celo2(hidden_size=2, hidden_layers=1, orthogonalize=False)
    theta = mulo.save(tmp_path / "theta", rule, rule.init(jax.random.key(0)))
    config = axes.SweepConfig.for_one(
        task="mlp-d1-synthetic:2x2x1:2",
        optimizer="mu_celo2_base",
        widths=(4,),
        learning_rates=(1e-5, 1e-4, 1e1),
        schedule="cosine",
        num_seeds=1,
        horizon_steps=12,
        batch_examples=4,
    )
    found = lr_transfer.run(config, tmp_path, str(theta))
    assert found.rates == (1e-5, 1e-4, 1e1)
    assert np.isfinite(found.losses[0, :2]).all()
    assert not np.isfinite(found.losses[0, 2])
    with pytest.raises(ValueError, match="needs a theta"):
        lr_transfer.run(config, tmp_path)
