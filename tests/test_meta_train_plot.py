import json

import jax
import numpy as np
import pytest

import mulo
from configs import mulo_digits
from meta_train import plot, reporting, setup


@pytest.fixture(scope="module")
def rows():
    c = mulo_digits.get_config("smoke")
    c.tasks, c.batch_examples = ("mlp-w3-d1-synthetic:2x1x1:2",), 4
    c.rule.name, c.estimator.num_pairs = "learned_adam", 8
    trainer = setup.build(setup.resolve(c.to_dict()))
    state, found = trainer.init(), []
    for step in range(1, 4):
        state, metrics = trainer.step(state)
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        found.append({"meta_step": step, **values, "probe/score": -0.1 * step})
    return found


def test_losses_are_told_by_the_length_of_their_runs(rows):
    last = rows[-1]
    by_length = [
        last[f"mlp-w3-d1-synthetic:2x1x1:2/meta_loss_{horizon}"]
        for horizon in ("short", "medium", "long")
    ]
    there = [loss for loss in by_length if np.isfinite(loss)]
    assert len(there) >= 2
    assert min(there) <= last["meta_loss"] <= max(there)


def test_what_theta_says_by_itself_is_told():
    rule = mulo.LearnedAdam(initial_learning_rate=0.02)
    told = rule.learned_rates(rule.init(jax.random.key(0)))
    assert float(told["matrix_lr"]) == pytest.approx(0.02)
    assert float(told["vector_one_minus_beta1"]) == pytest.approx(0.1)
    decays = mulo.SmallFC().learned_rates(mulo.SmallFC().init(jax.random.key(0)))
    assert float(decays["momentum_1"]) == pytest.approx(0.01, rel=1e-4)
    muon = mulo.load("mulo-m")
    rates = [float(x) for x in muon.rule.learned_rates(muon.theta).values()]
    assert rates[1] > rates[2] > rates[3] > 0  # Annealed.
    assert mulo.VeLO().learned_rates(None) == {}


def test_a_run_is_drawn_while_it_goes_on(rows, tmp_path, capsys):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(lines + '{"meta_step": 4, "meta_')
    plot.main([str(tmp_path)])
    image = tmp_path / "progress.png"
    assert capsys.readouterr().out.strip() == str(image)
    assert image.read_bytes().startswith(b"\x89PNG")
    found = {title: lines for title, _, lines in plot.panels(plot.read(tmp_path))}
    x, y = found["objective"][""]
    assert x == [1, 2, 3]
    np.testing.assert_allclose(y, [row["objective"] for row in rows])
    assert "matrix_lr" in found["what theta says by itself"]
    assert len(found["training loss by length of run"]) >= 2
    plot.main([str(tmp_path), str(tmp_path), "--output", str(tmp_path / "two.svg")])
    assert "<svg" in (tmp_path / "two.svg").read_text()


def test_a_directory_without_a_run_is_said_to_be_none(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        plot.main([str(tmp_path)])
    assert stop.value.code == 2
    assert "holds no metrics.jsonl: is it a run's workdir?" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="has no line yet"):
        plot.read(tmp_path)


def test_time_left_is_of_later_meta_steps_and_memory_is_told():
    resources = reporting.Resources(total=10)
    first = resources.after(1, 100.0)  # Compiles.
    assert "seconds_left" not in first
    assert first["memory_bytes"] > 1e7
    assert resources.after(2, 2.0)["seconds_left"] == pytest.approx(16.0)
    assert resources.after(3, 4.0)["seconds_left"] == pytest.approx(7 * 2.2)


def test_time_left_has_the_evaluations_to_come():
    resources = reporting.Resources(total=10, probe_every=4)
    resources.probed(100.0)  # Compiles.
    resources.after(2, 100.0)
    assert resources.after(3, 2.0)["seconds_left"] == pytest.approx(14.0)
    resources.probed(7.0)
    # Evaluations after meta-steps 4 and 8.
    assert resources.after(4, 2.0)["seconds_left"] == pytest.approx(12.0 + 14.0)
    resources.probed(5.0)
    assert resources.after(5, 2.0)["seconds_left"] == pytest.approx(10.0 + 5.0)
