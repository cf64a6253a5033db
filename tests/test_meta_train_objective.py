"""Which steps of a run count, how their losses are transformed, and of which split."""

import dataclasses
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mulo
import tasks
from configs import base
from meta_train import objective, probes, unroll


def weights(length, **config):
    goal = objective.ObjectiveConfig(**config)
    return np.asarray(goal.weigh(jnp.arange(length), jnp.int32(length)))


def test_weights_are_the_means_of_their_density_over_each_steps_share():
    np.testing.assert_array_equal(weights(3), 1.0)
    # 2x over quarters; 5 x⁴ over halves.
    got = weights(4, weights="late", power=1.0)
    np.testing.assert_allclose(got, [1 / 4, 3 / 4, 5 / 4, 7 / 4], rtol=1e-5)
    got = weights(2, weights="late", power=4.0)
    np.testing.assert_allclose(got, [2 / 32, 2 * 31 / 32], rtol=1e-5)
    # The last quarter of ten steps: half of step 7, all of 8 and 9.
    got = weights(10, weights="last", last_frac=0.25)
    np.testing.assert_allclose(got, [0.0] * 7 + [2.0, 4.0, 4.0], rtol=1e-5)
    # Long runs: the density itself.
    at = (np.arange(5_000) + 0.5) / 5_000
    got = weights(5_000, weights="late", power=4.0)
    np.testing.assert_allclose(got[10:], 5 * at[10:] ** 4, rtol=5e-3)


@pytest.mark.parametrize("length", [1, 2, 7, 50, 1_000, 20_000])
@pytest.mark.parametrize(
    "config",
    [
        {"weights": "late", "power": 0.0},
        {"weights": "late", "power": 0.5},
        {"weights": "late", "power": 4.0},
        {"weights": "last", "last_frac": 0.05},
        {"weights": "last", "last_frac": 1.0},
    ],
)
def test_weights_of_a_whole_run_average_to_one(length, config):
    got = weights(length, **config)
    assert np.all(got >= 0.0)
    assert np.mean(got, dtype=np.float64) == pytest.approx(1.0, rel=1e-4)


def test_only_the_default_is_the_plain_mean_loss():
    assert objective.MEAN_LOSS.is_plain
    for other in ({"weights": "last"}, {"transform": "log"}, {"data": "valid"}):
        assert not objective.ObjectiveConfig(**other).is_plain


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"weights": "lat"}, r"objective.weights must .* 'lat'\. Did you mean 'late'"),
        ({"transform": "lgo"}, r"transform must .* 'lgo'\. Did you mean 'log'"),
        ({"data": "test"}, r"data must be one of \['train', 'valid'\], got 'test'"),
        ({"power": -1.0}, r"power must be finite and >= 0, got -1\.0"),
        ({"last_frac": 0.0}, r"last_frac must lie in \(0, 1\], got 0\.0"),
        ({"log_floor": 0.0}, r"log_floor must be finite and > 0 nats, got 0\.0"),
    ],
)
def test_an_objective_that_cannot_be_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        objective.ObjectiveConfig(**config)


def test_validation_losses_are_of_the_parameters_before_each_step():
    task = tasks.get("mlp-w3-d1-synthetic:2x1x1:2", batch_size=4)
    inner = unroll.Inner(
        rule=mulo.LearnedAdam(), family=tasks.TaskFamily(task), loss_ceiling=10.0
    )
    theta = inner.rule.init(jax.random.key(0))
    train, valid = (dict(task.dataset.arrays(split)) for split in ("train", "valid"))
    state = inner.init(theta, jax.random.key(1))
    key = jax.random.key(2)
    unrolled = jax.jit(inner.unroll, static_argnums=4)
    end, both = unrolled(theta, state, key, train, 3, None, valid)
    plain_end, plain = unrolled(theta, state, key, train, 3)
    assert both.shape == (3, 2)
    np.testing.assert_array_equal(both[:, 0], plain)
    jax.tree.map(np.testing.assert_array_equal, end, plain_end)
    # Step 0 by hand; later ones are of other parameters.
    first, *_ = jax.random.split(key, 3)
    data_key, loss_key = jax.random.split(jax.random.fold_in(first, 2))
    batch = task.sample(valid, data_key)
    want = float(task.loss(state.params, loss_key, batch))
    assert float(both[0, 1]) == pytest.approx(want, rel=1e-5)
    assert float(both[0, 1]) != float(both[0, 0])
    assert len(set(both[:, 1].tolist())) == 3


def test_the_base_of_configs_declares_every_key_with_its_default():
    c = base.meta_training()
    for section, kind in (
        (c.objective, objective.ObjectiveConfig),
        (c.probes, probes.ProbeConfig),
    ):
        assert set(section) == {f.name for f in dataclasses.fields(kind)}
        assert kind(**section.to_dict()) == kind()
    assert c.normalize_grads is False


def test_every_config_takes_one_batch_size_or_one_for_each_task():
    for path in sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py")):
        if path.stem == "base":
            continue
        c = importlib.import_module(f"configs.{path.stem}").get_config("smoke")
        c.batch_examples = (4, 8)  # Both forms are accepted.
        c.batch_examples = 4


def test_batches_drawn_beforehand_are_those_drawn_step_by_step(monkeypatch):
    task = tasks.get("mlp-w3-d1-synthetic:2x1x1:2", batch_size=4)
    inner = unroll.Inner(
        rule=mulo.LearnedAdam(), family=tasks.TaskFamily(task), loss_ceiling=10.0
    )
    theta = inner.rule.init(jax.random.key(0))
    splits = [dict(task.dataset.arrays(split)) for split in ("train", "valid")]
    state = inner.init(theta, jax.random.key(1))
    losses = []
    for limit in (unroll._MAX_BATCHES_BYTES, 0):
        monkeypatch.setattr(unroll, "_MAX_BATCHES_BYTES", limit)
        got = inner.unroll(
            theta, state, jax.random.key(2), splits[0], 3, None, splits[1]
        )
        losses.append(got[1])
    np.testing.assert_allclose(*losses, rtol=1e-6)
