import json

import jax
import pytest

from benchmarks import _harness, meta_train_throughput
from benchmarks import _peer_learned_optimization as peer

CASE = _harness.CASES["small"]


def test_interleave_alternates_the_sides_and_gives_both_the_same_keys():
    calls = []
    steps = {
        name: lambda key, name=name: calls.append((name, jax.random.key_data(key)[1]))
        for name in "ab"
    }
    secs = _harness.interleave(steps, repeats=2, key=jax.random.key(0), warm_up=1)
    assert [name for name, _ in calls] == list("ababab")
    assert all(calls[i][1] == calls[i + 1][1] for i in (0, 2, 4))
    assert len({int(word) for _, word in calls}) == 3
    assert {name: len(times) for name, times in secs.items()} == {"a": 2, "b": 2}


def test_rate_is_inner_steps_over_the_median_second():
    assert CASE.inner_steps == 8 * 2 * 50
    assert _harness.rate([9.0, 2.0, 1.0], inner_steps=CASE.inner_steps) == 400.0


@pytest.mark.parametrize("bad", [{"repeats": 0}, {"repeats": 1, "warm_up": -1}])
def test_interleave_refuses_counts_that_time_nothing(bad):
    with pytest.raises(ValueError, match="must be at least"):
        _harness.interleave({}, key=jax.random.key(0), **bad)


def test_without_the_peer_the_race_prints_how_to_add_it_and_a_null_ratio(
    monkeypatch, capsys
):
    monkeypatch.setattr(peer, "why_missing", lambda: "ImportError: none")
    monkeypatch.setattr(
        meta_train_throughput, "our_estimator_step", lambda case: lambda key: None
    )
    assert meta_train_throughput.main(["--case=small", "--repeats=2"]) == 0
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    fields = json.loads(line)
    assert fields["case"] == "small"
    assert fields["ours_inner_steps_per_s"] > 0
    assert fields["peer_inner_steps_per_s"] is None
    assert fields["ratio"] is None
    assert "pip install" in printed.err
