"""Adapters by what they promise, with small stand-ins where the peer would be."""

import abc
import itertools
import pathlib
import re
import sys
import types
from typing import Any

import fast_compile
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state

import mulo
import tasks
from meta_train import loop, meta_optimizer, pes, rules, unroll
from meta_train import workdir as workdir_lib
from mulo import interop

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs" / "interop.md"
PARAMS = {"w": jnp.asarray([[1.0, -2.0, 0.5], [0.3, 0.1, -0.7]]), "b": jnp.ones(2)}


@pytest.fixture
def peer(monkeypatch):
    """The two base classes of learned_optimization that are derived from."""

    class LearnedOptimizer(abc.ABC):
        @abc.abstractmethod
        def init(self, key): ...

        @abc.abstractmethod
        def opt_fn(self, theta, is_training=False): ...

    class Optimizer(abc.ABC):  # noqa: B024
        def get_params(self, state):
            return state.params

        def get_state(self, state):
            return state.state

        def set_params(self, state, params):
            return state.replace(params=params)

    name = "learned_optimization"
    modules = {name: types.ModuleType(name)}
    for part, cls in (
        ("learned_optimizers", LearnedOptimizer),
        ("optimizers", Optimizer),
    ):
        modules[f"{name}.{part}"] = types.ModuleType(part)
        modules[f"{name}.{part}.base"] = base = types.ModuleType("base")
        setattr(base, cls.__name__, cls)
    for module, stub in modules.items():
        monkeypatch.setitem(sys.modules, module, stub)
    return types.SimpleNamespace(LearnedOptimizer=LearnedOptimizer, Optimizer=Optimizer)


@pytest.fixture
def no_peer(monkeypatch):
    for module in [m for m in sys.modules if m.startswith("learned_optimization")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "learned_optimization", None)


def rule_of(name):
    optimizer = mulo.optimizers.info(name)
    return optimizer.make(**rules.SMOKE[name], **optimizer.fixed)


def theta_of(rule):
    """Like a trained theta: nothing is zero."""
    start = rule.init(jax.random.key(0))
    leaves, treedef = jax.tree.flatten(start)
    rng = np.random.default_rng(0)
    leaves = [x + jnp.float32(0.1) * rng.normal(size=x.shape) for x in leaves]
    return treedef.unflatten([jnp.asarray(x, jnp.float32) for x in leaves])


def loss_reader(untold=None):
    """Multiplies what comes by minus the loss."""

    def update_fn(updates, state, params=None, *, value=untold, **extra_args):
        del params, extra_args
        return jax.tree.map(lambda g: -value * g, updates), state

    return optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update_fn
    )


@pytest.mark.parametrize("name", rules.names())
def test_a_wrapped_rule_takes_the_steps_of_its_transform(name, peer):
    rule = rule_of(name)
    theta = theta_of(rule)
    needs = mulo.optimizers.info(name).needs_num_steps
    lopt = interop.learned_optimizer(rule)
    opt = lopt.opt_fn(theta, is_training=True)
    assert isinstance(lopt, peer.LearnedOptimizer)
    assert isinstance(opt, peer.Optimizer)
    assert lopt.name == opt.name == type(rule).__name__

    @fast_compile.Jax.jit
    def both(grads, num_steps):
        def transform(num_steps):
            horizon = {"num_steps": num_steps} if needs else {}
            return rule.transform(theta, **horizon)

        def one(carry, step):
            params, state, wrapped = carry
            tx = transform(wrapped.num_steps)  # To the last bit: the same expressions.
            scaled = jax.tree.map(lambda g: g * (1.0 + step), grads)
            loss = 2.0 / (1.0 + step)
            updates, state = tx.update(scaled, state, params, value=loss)
            wrapped = opt.update(wrapped, scaled, loss=loss, key=jax.random.key(1))
            return (optax.apply_updates(params, updates), state, wrapped), None

        wrapped = opt.init(PARAMS, num_steps=num_steps, key=jax.random.key(0))
        start = PARAMS, transform(num_steps).init(PARAMS), wrapped
        return jax.lax.scan(one, start, jnp.arange(2.0))[0]

    params, state, wrapped = both(jax.tree.map(jnp.cos, PARAMS), 7)
    assert wrapped.iteration == 2
    assert wrapped.num_steps == 7
    got = opt.get_params(wrapped)
    for leaf, start in PARAMS.items():
        assert np.any(got[leaf] != start)
        np.testing.assert_array_equal(got[leaf], params[leaf])
    jax.tree.map(np.testing.assert_array_equal, wrapped.opt_state, state)


@pytest.mark.parametrize(
    "name", [n for n in rules.names() if mulo.optimizers.info(n).needs_num_steps]
)
def test_a_rule_that_needs_the_horizon_says_so_when_it_is_missing(name, peer):
    rule = rule_of(name)
    opt = interop.learned_optimizer(rule).opt_fn(theta_of(rule))
    with pytest.raises(ValueError, match="give num_steps"):
        opt.init(PARAMS)


def test_a_rule_that_needs_the_loss_refuses_an_update_without(peer):
    rule = rule_of("lstm_ff")
    opt = interop.learned_optimizer(rule).opt_fn(theta_of(rule))
    with pytest.raises(ValueError, match="loss"):
        opt.update(opt.init(PARAMS), PARAMS)


def test_is_valid_reaches_the_rule_that_has_a_use_for_it(peer):
    rule = rule_of("lstm_ff")
    opt = interop.learned_optimizer(rule).opt_fn(theta_of(rule))

    @jax.jit
    def after(params):
        start = opt.init(params)
        return [
            opt.get_params(opt.update(start, params, loss=1.0, is_valid=valid))
            for valid in (False, True)
        ]

    train, valid = after(PARAMS)
    assert np.any(train["w"] != PARAMS["w"])
    np.testing.assert_array_equal(valid["w"], PARAMS["w"])


def test_mup_reaches_the_rule(peer):
    rule = mulo.LearnedAdam()
    theta = rule.init(jax.random.key(0))
    scalings = {
        "w": mulo.mup.Scaling("hidden", 3, 2),
        "b": mulo.mup.Scaling("input", 1, 2),
    }

    def moved(mup):
        opt = interop.learned_optimizer(rule, mup=mup).opt_fn(theta)
        state = opt.update(opt.init(PARAMS), PARAMS, loss=1.0)
        return jax.tree.map(lambda a, b: a - b, opt.get_params(state), PARAMS)

    plain, scaled = moved(None), moved(scalings)
    np.testing.assert_allclose(scaled["w"], plain["w"] / 3, rtol=1e-3)
    np.testing.assert_array_equal(scaled["b"], plain["b"])


def test_an_optax_transformation_is_told_the_loss_where_it_reads_it(peer):
    for tx, want in ((loss_reader(), -3.0), (optax.sgd(0.5), -0.5)):
        opt = interop.optimizer(tx, name="this")
        assert isinstance(opt, peer.Optimizer)
        assert opt.name == "this"
        state = opt.init(PARAMS, {"mean": 1.0}, num_steps=3, key=jax.random.key(0))
        assert opt.get_state(state) == {"mean": 1.0}
        state = opt.update(state, PARAMS, loss=3.0, model_state={"mean": 2.0})
        assert opt.get_state(state) == {"mean": 2.0}
        np.testing.assert_allclose(
            opt.get_params(state)["w"], (1.0 + want) * PARAMS["w"], rtol=1e-6
        )
        moved = opt.set_params(state, {"w": 0.0})
        assert opt.get_params(moved) == {"w": 0.0}
        assert moved.iteration == 1


def test_flax_serialization_holds_the_state_as_the_peers_checkpoints_do(peer):
    opt = interop.optimizer(optax.adam(1e-3))
    state = opt.update(opt.init(PARAMS, num_steps=5), PARAMS, loss=1.0)
    content = flax.serialization.to_bytes(state)
    back = flax.serialization.from_bytes(opt.init(PARAMS, num_steps=5), content)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)


@pytest.mark.parametrize("make", [interop.learned_optimizer, interop.optimizer])
def test_without_the_peer_the_error_says_how_to_add_it(make, no_peer):
    given = mulo.SmallFC() if make is interop.learned_optimizer else optax.sgd(0.1)
    with pytest.raises(ImportError, match="pip install --no-deps git") as caught:
        make(given)
    assert "PYTHONPATH" in str(caught.value)


def test_a_release_too_old_for_this_jax_is_told_from_none(
    tmp_path, monkeypatch, no_peer
):
    folder = tmp_path / "learned_optimization" / "optimizers"
    folder.mkdir(parents=True)
    (folder / "base.py").write_text("import jax\njax.removed_long_ago\n")
    monkeypatch.delitem(sys.modules, "learned_optimization")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    with pytest.raises(ImportError, match="too old for this JAX"):
        interop.optimizer(optax.sgd(0.1))
    for name in set(sys.modules) - before:
        monkeypatch.delitem(sys.modules, name)


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
    with pytest.raises(NotImplementedError, match="no network"):
        task.apply(params, batch["leaf_000"])


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


def meta_trainer(task, rule):
    inner = unroll.Inner(rule=rule, family=tasks.TaskFamily(task), loss_ceiling=50.0)
    inner.check()
    return loop.MetaTrainer(
        rule=rule,
        inners=[inner],
        pes_config=pes.PESConfig(
            num_pairs=2, trunc_steps=3, min_length_steps=3, max_length_steps=6
        ),
        meta_optimizer_config=meta_optimizer.MetaOptimizerConfig(
            peak_lr=0.1, end_lr=0.1, warmup_steps=1
        ),
        seed=0,
    )


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


def test_a_train_state_tells_the_optimizer_the_loss_and_stays_what_it_was():
    class WithStatistics(train_state.TrainState):
        batch_stats: dict

    tx = loss_reader(untold=1.0)
    state = WithStatistics.create(
        apply_fn=print, params=PARAMS, tx=tx, batch_stats={"mean": jnp.zeros(())}
    )

    @jax.jit
    def step(state, loss):
        stats = {"mean": loss}
        return interop.apply_gradients(
            state, grads=state.params, value=loss, batch_stats=stats
        )

    after = step(state, jnp.float32(0.25))
    assert isinstance(after, WithStatistics)
    assert after.tx is tx
    assert after.step == 1
    assert after.batch_stats["mean"] == 0.25
    np.testing.assert_array_equal(after.params["w"], 0.75 * PARAMS["w"])
    step(after, jnp.float32(0.5))
    assert step._cache_size() <= 2  # One for the integer step 0 that flax begins with.
    untold = interop.apply_gradients(state, grads=PARAMS)
    np.testing.assert_array_equal(untold.params["w"], 0.0 * PARAMS["w"])
    plain = train_state.TrainState.create(
        apply_fn=print, params=PARAMS, tx=optax.sgd(0.5)
    )
    after = interop.apply_gradients(plain, grads=PARAMS, value=1.0)
    np.testing.assert_array_equal(after.params["w"], 0.5 * PARAMS["w"])


def test_a_train_state_steps_a_learned_rule_that_needs_the_loss():
    rule = rule_of("lstm_ff")
    tx = rule.transform(theta_of(rule))
    state = train_state.TrainState.create(apply_fn=print, params=PARAMS, tx=tx)

    @jax.jit
    def both(params):
        told = interop.apply_gradients(state, grads=params, value=1.5)
        updates, _ = tx.update(params, tx.init(params), params, value=1.5)
        return told.params, optax.apply_updates(params, updates)

    got, want = both(PARAMS)
    assert np.any(got["w"] != PARAMS["w"])
    jax.tree.map(np.testing.assert_array_equal, got, want)
    with pytest.raises(ValueError, match="loss"):
        state.apply_gradients(grads=PARAMS)


def snippets(*, peer):
    """Code blocks of the page, of those that need the peer or of the others."""
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.M | re.S)
    return [b for b in blocks if ("learned_optimization." in b) == peer]


@pytest.mark.parametrize("block", snippets(peer=False))
def test_a_snippet_of_the_page_runs_as_it_stands(block):
    exec(compile(block, str(DOCS), "exec"), {})


def test_the_page_has_a_snippet_for_each_flax_interface():
    text = "".join(snippets(peer=False))
    assert "interop.apply_gradients(" in text
    assert "nnx.Optimizer(" in text


def test_the_nnx_optimizer_steps_as_optax_does_under_mup():
    class Model(nnx.Module):
        def __init__(self, width):
            rngs = nnx.Rngs(0)
            self.first = nnx.Linear(3, width, rngs=rngs)
            self.hidden = nnx.Linear(width, width, rngs=rngs)

        def __call__(self, x):
            return self.hidden(jnp.tanh(self.first(x)))

    def shapes(width):
        return nnx.to_pure_dict(nnx.state(Model(width), nnx.Param))

    scalings = mulo.mup.infer(shapes(4), shapes(6))
    tx = optax.chain(optax.adam(0.1), loss_reader(), mulo.scale_by_mup(scalings))
    model = Model(6)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    params = shapes(6)
    opt_state = tx.init(params)

    def loss_fn(model):
        return jnp.mean(jnp.square(model(x) - 1.0))

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads, value=loss)
        return loss, grads

    update = jax.jit(tx.update)
    for _ in range(2):
        loss, grads = step(model, optimizer)
        updates, opt_state = update(
            nnx.to_pure_dict(nnx.state(grads, nnx.Param)), opt_state, params, value=loss
        )
        before, params = params, optax.apply_updates(params, updates)
    assert np.any(before["hidden"]["kernel"] != params["hidden"]["kernel"])
    got = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), got, params
    )
