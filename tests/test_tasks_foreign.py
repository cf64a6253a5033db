"""Tasks of learned_optimization, by stand-ins, as tasks of ours."""

import itertools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.interop_parts import meta_trainer

import mulo
import tasks
from meta_train import workdir as workdir_lib
from mulo import interop


class Regression:
    """A task as learned_optimization has them: its iterators, its old PRNG keys."""

    name = "Regression"

    def __init__(self, batches=None, noise=0.0):
        self.noise = noise
        self.taken = dict.fromkeys(("train", "inner_valid", "outer_valid", "test"), 0)
        self.datasets = self
        if batches is None:
            rng = np.random.default_rng(0)
            batches = [
                {"pair": (rng.normal(size=(5, 3)).astype(np.float32), np.arange(5))}
                for _ in range(30)
            ]
        self.batches = batches

    def split(self, name):
        shift = {"train": 0, "inner_valid": 10, "outer_valid": 20, "test": 25}[name]
        for batch in itertools.islice(itertools.cycle(self.batches), shift, None):
            self.taken[name] += 1
            yield batch

    def init(self, key):
        assert key.shape == (2,)
        assert key.dtype == jnp.uint32
        return {"w": jax.random.normal(key, (3,))}

    def init_with_state(self, key) -> Any:
        return self.init(key), None

    def loss(self, params, key, data):
        assert key.dtype == jnp.uint32
        x, y = data["pair"]
        noise = self.noise * jax.random.normal(key)
        return jnp.mean(jnp.square(x @ params["w"] - y)) + noise


def test_a_foreign_task_draws_whole_batches_of_those_read():
    lo_task = Regression()
    task = interop.task(lo_task, num_batches=20)
    assert isinstance(task, tasks.Task)
    assert task.name == "learned_optimization:Regression"
    assert task.batch_size == 5
    assert lo_task.taken == {
        "train": 20,
        "inner_valid": 0,
        "outer_valid": 2,
        "test": 2,
    }
    arrays = jax.device_put(task.dataset.arrays("train"))
    assert task.dataset.num_examples(arrays) == 20
    draw = jax.jit(lambda key: task.dataset.batch(task.sample(arrays, key))["pair"])
    seen = set()
    for seed in range(60):
        x, y = draw(jax.random.key(seed))
        (found,) = (
            i for i, b in enumerate(lo_task.batches) if np.array_equal(b["pair"][0], x)
        )
        np.testing.assert_array_equal(y, np.arange(5))
        seen.add(found)
    assert len(seen) > 14
    assert max(seen) == 19  # Batch 20 was not read.
    third = task.dataset.examples(arrays, jnp.asarray([3]))
    np.testing.assert_array_equal(
        task.dataset.batch(third)["pair"][0], lo_task.batches[3]["pair"][0]
    )
    with pytest.raises(ValueError, match="one at a time"):
        task.dataset.examples(arrays, jnp.arange(2))


def test_a_foreign_task_may_train_on_inner_valid():
    lo_task = Regression()
    task = interop.task(lo_task, num_batches=2, split="inner_valid")
    first = task.dataset.arrays("train")["leaf_000"][0]
    np.testing.assert_array_equal(first, lo_task.batches[10]["pair"][0])
    for split, shift in (("valid", 20), ("test", 25)):
        arrays = task.dataset.arrays(split)
        assert task.dataset.num_examples(arrays) == 1
        np.testing.assert_array_equal(
            arrays["leaf_000"][0], lo_task.batches[shift]["pair"][0]
        )


def test_a_foreign_task_has_the_parameters_and_the_loss_of_the_original():
    lo_task = Regression(noise=0.3)
    task = interop.task(lo_task, num_batches=3)
    old, new = jax.random.PRNGKey(4), jax.random.key(4)
    params = lo_task.init(old)
    np.testing.assert_array_equal(task.init(new)["w"], params["w"])
    np.testing.assert_array_equal(task.init(old)["w"], params["w"])
    batch = task.dataset.examples(task.dataset.arrays("train"), jnp.asarray([1]))
    want = lo_task.loss(params, old, lo_task.batches[1])
    np.testing.assert_allclose(task.loss(params, new, batch), want, rtol=1e-6)
    fixed = lo_task.loss(params, jax.random.PRNGKey(0), lo_task.batches[1])
    np.testing.assert_allclose(task.metrics(params, batch)["loss"], fixed, rtol=1e-6)
    assert task.scalings() is None
    for ask in (
        lambda: task.apply(params, batch["leaf_000"]),
        lambda: task.activations(params, batch["leaf_000"]),
        lambda: task.dataset.input_shape,
        lambda: task.dataset.input_dtype,
        lambda: task.dataset.num_classes,
    ):
        with pytest.raises(NotImplementedError, match="no network"):
            ask()


def test_a_foreign_task_with_a_state_is_refused_and_the_error_names_the_way_out():
    class Normalized(Regression):
        def init_with_state(self, key) -> Any:
            return self.init(key), {"mean": jnp.zeros(3)}

    with pytest.raises(ValueError, match=r"Regression has a state.*layer norm"):
        interop.task(Normalized())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_batches": 0}, "num_batches must be at least 1, got 0"),
        ({"split": "outer_valid"}, "split must be one of .*got 'outer_valid'"),
        ({"batches": [{"text": np.asarray(["a", "b"])}]}, "hold <U1 in leaf 0"),
        ({"batches": []}, "no batch in its split 'train'"),
    ],
)
def test_a_foreign_task_refuses_what_it_cannot_hold(change, message):
    change = dict(change)
    lo_task = Regression(change.pop("batches", None))
    with pytest.raises(ValueError, match=message):
        interop.task(lo_task, **change)


def test_a_foreign_task_without_our_tasks_says_where_they_are(monkeypatch):
    monkeypatch.setitem(sys.modules, "tasks.foreign", None)
    with pytest.raises(ImportError, match="checkout of mulo"):
        interop.task(Regression())


def test_our_trainer_trains_on_a_foreign_task_and_resumes_bit_for_bit(tmp_path):
    trainer = meta_trainer(
        interop.task(Regression(), num_batches=4), mulo.LearnedAdam()
    )
    state = trainer.init()
    before = jax.device_get(state.theta)
    checkpoints = workdir_lib.Checkpoints(tmp_path, keep=1)
    for step in range(1, 4):
        state, metrics = trainer.step(state)
        assert 0.0 < float(metrics["meta_loss"]) < 50.0
        if step == 2:
            checkpoints.save(step, state)
            checkpoints.wait()
    assert any(
        np.any(a != b)
        for a, b in zip(
            jax.tree.leaves(before), jax.tree.leaves(state.theta), strict=True
        )
    )
    resumed, _ = trainer.step(checkpoints.restore(2, trainer.init()))
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
