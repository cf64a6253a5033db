import json

import pytest

from benchmarks import variants


def test_a_run_is_summed_up_by_its_probes_and_its_pace(tmp_path):
    rows = [
        {"meta_step": 0, "probe/a": 2.0, "probe/score": 0.0},
        {"meta_step": 1, "inner_steps_per_s": 10.0},
        {
            "meta_step": 2,
            "inner_steps_per_s": 30.0,
            "probe/a": 1.0,
            "probe/score": -0.7,
        },
        {
            "meta_step": 3,
            "inner_steps_per_s": 20.0,
            "probe/a": 1.5,
            "probe/score": -0.3,
        },
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert variants.summary(tmp_path) == {
        "probes": {
            0: {"a": 2.0, "score": 0.0},
            2: {"a": 1.0, "score": -0.7},
            3: {"a": 1.5, "score": -0.3},
        },
        "best_score": -0.7,
        "best_meta_step": 2,
        "inner_steps_per_s": 20.0,
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(rows[1]))
    with pytest.raises(ValueError, match="has no probes"):
        variants.summary(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a"], "a variant is NAME=FLAGS"),
        (["a=", "a="], "a name of its own"),
        (["=--x"], "a name of its own"),
        (["a/b="], "no / in them"),
        (['a="--x'], "No closing quotation"),
        (["a=", "--seeds", "0"], "--seeds must be at least 1"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(given, message, capsys):
    with pytest.raises(SystemExit) as stop:
        variants.main(["configs/mulo_digits.py:smoke", *given])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
