import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mulo
from benchmarks import optimizer_step


def test_the_trees_are_as_large_as_their_description():
    sizes = {
        name: [leaf.size for leaf in jax.tree.leaves(optimizer_step.tree(name))]
        for name in optimizer_step.TREES
    }
    assert sizes["matrix"] == [1024 * 1024]
    assert len(sizes["small"]) == 200
    assert max(sizes["small"]) < 2_000
    assert sum(sizes["transformer"]) == pytest.approx(10e6, rel=0.05)
    with pytest.raises(ValueError, match="tree must be one of"):
        optimizer_step.tree("forest")


def test_every_optimizer_is_timed_the_baseline_first():
    names = [name for name, _ in optimizer_step.chosen("matrix", (), False)]
    assert names[0] == "optax.adam"
    assert set(mulo.optimizers.names()) < set(names)
    assert "small_fc feature-last" in names
    large = [name for name, _ in optimizer_step.chosen("transformer", (), False)]
    assert "small_fc feature-last" not in large
    with pytest.raises(ValueError, match="did you mean 'soap'"):
        optimizer_step.chosen("matrix", ("soup",), False)


def test_a_misspelt_name_ends_the_program_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as ended:
        optimizer_step.main(["--names", "adam", "soup"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--names: No optimizer is called 'soup'; did you mean 'soap'? Known:" in said


def test_a_line_per_optimizer_relative_to_adam(monkeypatch, capsys):
    shape = jax.ShapeDtypeStruct((6, 4), jnp.float32)
    monkeypatch.setattr(optimizer_step, "tree", lambda name: {"w": shape})
    names = [("optax.adam", {}), ("lion", {}), ("small_fc feature-last", {})]
    optimizer_step.measure("matrix", names, repeats=1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["optimizer"] for line in lines] == [name for name, _ in names]
    assert lines[0]["ratio_to_adam"] == 1.0
    assert lines[0]["state_bytes_per_parameter"] == pytest.approx(8.0, abs=0.5)
    assert lines[1]["state_bytes_per_parameter"] == pytest.approx(4.0, abs=0.5)
    for line in lines:
        ratio = line["update_ms"] / lines[0]["update_ms"]
        assert line["ratio_to_adam"] == pytest.approx(ratio, rel=1e-2)


def test_the_feature_last_form_makes_the_same_step():
    params = {"a": jnp.linspace(-1, 1, 12).reshape(3, 4)}
    grads = {"a": jnp.linspace(0.1, 0.2, 12).reshape(3, 4)}
    steps = []
    for name in ("small_fc hidden 4", "small_fc feature-last hidden 4"):
        init, update = optimizer_step.optimizer(name, {"hidden_size": 4})
        (found,) = jax.tree.leaves(update(grads, init(params), params)[0])
        steps.append(found)
    np.testing.assert_allclose(*steps, rtol=1e-4, atol=1e-9)
