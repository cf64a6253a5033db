import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tasks
from evaluate.optimizers import schedules
from evaluate.sweep import training

STEPS, RATE, SEED = 25, 0.05, 3
TASK = tasks.get("sp-mlp-w4-d1-synthetic:4x4x1:3", batch_size=8)
DATA = training.Data.put(TASK.dataset)
INPUTS = TASK.dataset.normalize(DATA.valid)["inputs"]


def compiled(lanes, optimizer="adam", activations=False, **settings):
    programs = training.TaskPrograms(TASK, DATA, lanes=lanes, activations=activations)
    return training.TrainingProgram(
        programs, optimizer, horizon_steps=STEPS, hyper={}, **settings
    )


@pytest.fixture(scope="module")
def single():
    return compiled(1)


@pytest.fixture(scope="module")
def outcome(single):
    return single.run([RATE], [SEED])


def test_a_run_is_a_plain_optax_loop(outcome):
    init_key, data_key, loss_key = jax.random.split(jax.random.key(SEED), 3)
    transform = optax.adam(RATE)
    params = TASK.init(init_key)
    state = transform.init(params)

    @jax.jit
    def step(params, state, count):
        batch = TASK.sample(DATA.train, jax.random.fold_in(data_key, count))
        key = jax.random.fold_in(loss_key, count)
        loss, grads = jax.value_and_grad(TASK.loss)(params, key, batch)
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for count in range(STEPS):
        params, state, loss = step(params, state, count)
        losses.append(float(loss))
    np.testing.assert_allclose(outcome.losses[0], losses, rtol=1e-4)
    valid = TASK.metrics(params, TASK.dataset.normalize(DATA.valid))
    assert outcome.valid_losses[0, -1] == pytest.approx(float(valid["loss"]), rel=1e-4)
    assert outcome.valid_accuracies[0, -1] == pytest.approx(float(valid["accuracy"]))
    assert outcome.secs_per_step > 0


def test_chunks_do_not_change_a_run(single, outcome):
    # By now the program has learned to do all steps in a few chunks.
    single._steps_per_chunk = 7
    chunks = []
    again = single.run([RATE], [SEED], lambda steps, loss: chunks.append(steps))
    np.testing.assert_array_equal(again.losses, outcome.losses)
    assert chunks[0] == 7
    assert chunks[-1] == STEPS
    assert chunks == sorted(set(chunks))


def test_lanes_train_what_single_runs_train(single, outcome):
    lanes = compiled(3)
    # Two runs in three lanes: the idle one must leave no trace.
    both = lanes.run([RATE, 0.2], [SEED, 5])
    other = single.run([0.2], [5])
    assert both.losses.shape == (2, STEPS)
    np.testing.assert_allclose(both.losses[0], outcome.losses[0], rtol=1e-4)
    np.testing.assert_allclose(both.losses[1], other.losses[0], rtol=1e-4)
    np.testing.assert_allclose(
        both.valid_losses,
        [outcome.valid_losses[0], other.valid_losses[0]],
        rtol=1e-4,
    )


def test_a_run_that_overflows_ends_early():
    # One step of this size already overflows the logits.
    program = compiled(1, "sgd")
    chunks = []
    outcome = program.run([1e38], [0], lambda steps, loss: chunks.append(steps))
    finite = np.isfinite(outcome.losses[0])
    assert finite[0]
    assert not finite[2:].any()
    assert chunks[-1] < STEPS
    assert not math.isfinite(outcome.valid_losses[0, -1])


def test_validations_on_the_way_do_not_change_a_run(outcome):
    program = compiled(1, valid_steps=(7, 20), activations=True)
    found = program.run([RATE], [SEED])
    np.testing.assert_array_equal(found.losses, outcome.losses)
    np.testing.assert_array_equal(found.valid_steps, [7, 20, STEPS])
    assert found.valid_losses[0, -1] == outcome.valid_losses[0, -1]
    assert np.isfinite(found.valid_losses).all()
    assert len(set(found.valid_losses[0].tolist())) == 3
    # The further a run is, the further are its activations from where they were.
    changes = found.activation_changes
    assert list(changes) == list(TASK.activations(TASK.init(jax.random.key(0)), INPUTS))
    for values in changes.values():
        assert 0 < values[0, 0] < values[0, -1]


def test_a_scheduled_run_is_an_optax_loop_with_that_schedule():
    found = compiled(1, "sgd", schedule="linear").run([RATE], [SEED])
    factor = schedules.factor("linear", STEPS)
    init_key, data_key, loss_key = jax.random.split(jax.random.key(SEED), 3)
    params = TASK.init(init_key)
    gradient = jax.jit(jax.value_and_grad(TASK.loss))
    losses = []
    for count in range(STEPS):
        batch = TASK.sample(DATA.train, jax.random.fold_in(data_key, count))
        key = jax.random.fold_in(loss_key, count)
        loss, grads = gradient(params, key, batch)
        losses.append(float(loss))
        rate = RATE * factor(count)
        params = jax.tree.map(lambda p, g, rate=rate: p - rate * g, params, grads)
    np.testing.assert_allclose(found.losses[0], losses, rtol=1e-4)


def test_metrics_of_a_split_weigh_every_example_alike(monkeypatch):
    params = TASK.init(jax.random.key(0))
    expected = TASK.metrics(params, TASK.dataset.normalize(DATA.valid))
    size = DATA.valid["labels"].shape[0]
    for block in (50, size, size + 1):  # With a rest, exactly, and none whole.
        monkeypatch.setattr(training, "_METRICS_POSITIONS", block)
        found = training.split_metrics(TASK, params, DATA.valid)
        for name in ("loss", "accuracy"):
            assert jnp.shape(found[name]) == ()
            assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-5)
