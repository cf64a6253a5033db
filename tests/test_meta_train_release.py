"""Releasing a run's theta: the card keeps what the run knew and says what it is for."""

import json

import jax
import numpy as np
import pytest

import mulo
from meta_train import release


@pytest.fixture
def run(tmp_path):
    rule = mulo.LearnedAdam()
    theta = rule.init(jax.random.key(0))
    best = jax.tree.map(lambda x: x + 1.0, theta)
    facts = {"parametrization": "mup", "git_commit": "0" * 40, "data": ["digits"]}
    mulo.save(tmp_path / "theta", rule, theta, card={**facts, "meta_step": 200})
    mulo.save(tmp_path / "theta_best", rule, best, card={**facts, "meta_step": 100})
    lines = [{"meta_step": 0, "probe/score": 0.0}]
    lines += [{"meta_step": k, "meta_loss": 1 / k} for k in range(1, 201)]
    lines[100]["probe/score"] = -0.25
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    return tmp_path


FACTS = {"hours": 0.5, "command": "make it", "unfit": "rockets", "note": ""}


def test_the_card_keeps_the_runs_facts_and_gets_ours(run, tmp_path):
    released = release.release(run, tmp_path / "out", license="MIT", **FACTS)
    card = released.card
    assert card["git_commit"] == "0" * 40
    assert card["meta_step"] == 200
    for key in ("hours", "command", "unfit"):
        assert card[key] == FACTS[key]
    assert card["license"] == "MIT"
    assert "note" not in card
    assert card["architecture"] == "LearnedAdam"
    curve = card["curve"]
    assert 30 < len(curve) < 60
    assert curve[0] == {"meta_step": 0, "probe/score": 0.0}
    assert curve[-1] == {"meta_step": 200, "meta_loss": 0.005}
    # Where the probes were asked is never left out.
    assert {"meta_step": 100, "meta_loss": 0.01, "probe/score": -0.25} in curve
    mulo.load(tmp_path / "out").transform(mup="standard")


def test_the_best_theta_is_another(run, tmp_path):
    last = release.release(run, tmp_path / "a", **FACTS)
    best = release.release(run, tmp_path / "b", best=True, **FACTS)
    assert best.card["meta_step"] == 100
    for name in ("matrix", "vector"):
        for key, value in last.theta[name].items():
            np.testing.assert_allclose(best.theta[name][key], value + 1.0)


def test_a_folder_that_is_no_run_is_refused(run, tmp_path):
    (run / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"holds no metrics.jsonl: is it a run's"):
        release.release(run, tmp_path / "out", **FACTS)
    with pytest.raises(ValueError, match="nowhere"):
        release.release(tmp_path / "nowhere", tmp_path / "out", **FACTS)
    assert not (tmp_path / "out").exists()


def test_the_command_line_writes_and_an_error_is_one_line(run, tmp_path, capsys):
    out = tmp_path / "out"
    given = [f"--workdir={run}", f"--destination={out}", "--hours=1", "--command=x"]
    release.main([*given, "--unfit=y", '--results={"cells": 3}', "--best"])
    assert capsys.readouterr().out.startswith(f"{out}: LearnedAdam(")
    assert mulo.load(out).card["results"] == {"cells": 3}
    with pytest.raises(SystemExit, match="2"):
        release.main([f"--workdir={tmp_path / 'nowhere'}", *given[1:], "--unfit=y"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("meta_train.release: ")
    assert "nowhere" in line
