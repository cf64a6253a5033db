"""Our rules beside google/learned_optimization's, wherever its head is importable."""

import importlib
import os

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_mulo_interop import meta_trainer

import mulo
from mulo import _legacy_thetas, interop

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
STEPS = 6
# Odd, long, of rank 0 to 4; equal sizes, so that ties of axes are decided.
SHAPES = {"a": (5, 7), "b": (11,), "c": (), "d": (3, 3, 2, 4), "e": (6, 6), "f": (2, 9)}

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # The peer's own deprecations.
    pytest.mark.usefixtures("rank_promotion"),
]


@pytest.fixture
def rank_promotion():
    """The peer broadcasts over ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def load(module):
    try:
        return interop._load(module)
    except ImportError as error:
        pytest.skip(str(error))


def draw(seed):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for name, shape in SHAPES.items()
    }


def shaken(theta):
    """Like a trained theta: nothing is zero."""
    leaves, treedef = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return treedef.unflatten(
        [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    )


def assert_steps_alike(tx, theirs, share, scale=1.0):
    """Parameters after each step, to a share of the largest distance moved so far."""
    start = params = draw(0)
    state = tx.init(params)
    their_state = theirs.init(params, num_steps=STEPS, key=jax.random.PRNGKey(0))
    update = jax.jit(tx.update)
    their_update = jax.jit(
        lambda state, grads, loss, key: theirs.update(state, grads, loss, key=key)
    )
    moved = dict.fromkeys(params, 0.0)
    for step in range(STEPS):
        grads = jax.tree.map(lambda g: scale * 3.0 ** (step - 2) * g, draw(step + 1))
        loss = jnp.asarray(2.0 / (step + 1))
        updates, state = update(grads, state, params, value=loss)
        params = optax.apply_updates(params, updates)
        their_state = their_update(their_state, grads, loss, jax.random.PRNGKey(step))
        for name, want in theirs.get_params(their_state).items():
            distance = float(jnp.max(jnp.abs(want - start[name])))
            moved[name] = max(moved[name], distance)
            rounding = 2.4e-7 * (step + 1) * np.maximum(np.abs(want), 1e-3)
            error = np.abs(np.asarray(params[name] - want))
            assert np.all(error <= rounding + share * moved[name]), (name, step)
        # Errors do not add up, for the next step starts from the same place.
        assert min(moved.values()) > 0.0


@pytest.mark.parametrize("hidden_size", [4, 32])
def test_small_fc_follows_the_peers(hidden_size):
    lopt = load("learned_optimizers.adafac_mlp_lopt").AdafacMLPLOpt(
        hidden_size=hidden_size, step_mult=0.1
    )
    theirs = shaken(lopt.init(jax.random.PRNGKey(0)))
    rule = mulo.SmallFC(hidden_size=hidden_size, step_mult=0.1)
    theta = {name: x for name, x in theirs.items() if name != "nn"}
    theta["nn"] = dict(theirs["nn"]["~"])
    assert_steps_alike(rule.transform(theta), lopt.opt_fn(theirs), share=1e-4)


@pytest.mark.parametrize("param_scale_mult", [True, False])
def test_velo_follows_the_peers(param_scale_mult):
    lopt = load("research.general_lopt.hyper_v2").HyperV2(
        lstm_hidden_size=8,
        param_inits=3,
        step_mult=0.1,
        use_bugged_loss_features=False,
        param_scale_mult=param_scale_mult,
    )
    theirs = shaken(lopt.init(jax.random.PRNGKey(0)))
    rule = mulo.VeLO(
        lstm_hidden_size=8,
        param_inits=3,
        step_mult=0.1,
        param_scale_mult=param_scale_mult,
    )
    public = flax.serialization.to_state_dict(theirs)
    rule, theta = _legacy_thetas.from_public(public, "live", rule=rule)
    tx = rule.transform(theta, num_steps=STEPS)
    assert_steps_alike(tx, lopt.opt_fn(theirs), share=1e-3)


def test_the_rule_with_an_lstm_follows_the_peers():
    lopt = load("learned_optimizers.rnn_mlp_lopt").RNNMLPLOpt(
        hidden_size=5, lstm_hidden_size=6, step_multiplier=0.1
    )
    theirs = shaken(lopt.init(jax.random.PRNGKey(0)))
    rule = mulo.LSTMFF(hidden_size=5, lstm_hidden_size=6, step_mult=0.1)
    public = flax.serialization.to_state_dict(theirs)
    rule, theta = _legacy_thetas.from_public(public, "live", rule=rule)
    assert_steps_alike(rule.transform(theta), lopt.opt_fn(theirs), share=1e-3)


@pytest.mark.parametrize("name", mulo.optimizers.names())
def test_every_optimizer_runs_under_the_peers_interface(name):
    load("optimizers.base")
    info = mulo.optimizers.info(name)
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    if info.learned:
        small = {
            field: 4
            for field in ("hidden_size", "lstm_hidden_size", "param_inits")
            if field in info.hyper
        }
        lopt = interop.learned_optimizer(info.make(**info.fixed, **small))
        opt = lopt.opt_fn(lopt.init(jax.random.PRNGKey(0)))
    else:
        opt = interop.optimizer(mulo.optimizers.get(name, learning_rate=0.1))
    state = opt.init(params, num_steps=4, key=jax.random.PRNGKey(0))
    update = jax.jit(lambda state, loss: opt.update(state, params, loss=loss))
    for _ in range(2):  # SOAP's first step is zero.
        state = update(state, 1.0)
    assert opt.get_state(state) is None
    assert np.any(opt.get_params(state)["w"] != 1.0)
    moved = opt.set_params(state, params)
    np.testing.assert_array_equal(opt.get_params(moved)["w"], 1.0)


def test_the_peers_trainer_meta_trains_our_rule():
    """Its PES lowers the loss of quadratics by raising a learning rate too low."""
    family = load("tasks.quadratics").FixedDimQuadraticFamily(4)
    trainers = {
        name: load(f"outer_trainers.{name}")
        for name in (
            "gradient_learner",
            "lopt_truncated_step",
            "truncated_pes",
            "truncation_schedule",
        )
    }
    rule = mulo.LearnedAdam(initial_learning_rate=1e-3)
    step = trainers["lopt_truncated_step"].VectorizedLOptTruncatedStep(
        family,
        interop.learned_optimizer(rule),
        trainers["truncation_schedule"].ConstantTruncationSchedule(10),
        num_tasks=4,
    )
    estimator = trainers["truncated_pes"].TruncatedPES(step, trunc_length=5, std=0.1)
    theta_opt = load("optimizers.optax_opts").Adam(0.3)
    learner = trainers["gradient_learner"].SingleMachineGradientLearner(
        interop.learned_optimizer(rule), [estimator], theta_opt
    )
    state = learner.init(jax.random.PRNGKey(0))
    losses = []
    for i in range(12):
        state, loss, _ = learner.update(state, jax.random.PRNGKey(i))
        losses.append(float(loss))
    assert np.all(np.isfinite(losses))
    theta = learner.get_meta_params(state)
    rule.check_theta(theta)
    before = rule.init(jax.random.key(0))["vector"]["log_lr"]
    assert float(theta["vector"]["log_lr"]) > float(before) + 1.0


def test_our_trainer_meta_trains_on_the_peers_tasks():
    quadratics = load("tasks.quadratics")
    trainer = meta_trainer(
        interop.task(quadratics.QuadraticTask()),
        mulo.LearnedAdam(initial_learning_rate=1e-3),
    )
    state = trainer.init()
    before = float(state.theta["vector"]["log_lr"])
    for _ in range(12):
        state, metrics = trainer.step(state)
        assert np.isfinite(metrics["meta_loss"])
    assert float(state.theta["vector"]["log_lr"]) > before + 0.5


def test_our_trainer_reads_the_batches_of_the_peers_networks():
    image_mlp = load("tasks.fixed.image_mlp")
    base = load("tasks.datasets.base")

    def batches():
        rng = np.random.default_rng(0)
        while True:
            yield {
                "image": rng.standard_normal((4, 3, 3, 1), dtype=np.float32),
                "label": rng.integers(5, size=4, dtype=np.int32),
            }

    datasets = base.Datasets(
        *(batches() for _ in range(4)),
        extra_info={"num_classes": 5},
        abstract_batch={
            "image": jax.ShapeDtypeStruct((4, 3, 3, 1), jnp.float32),
            "label": jax.ShapeDtypeStruct((4,), jnp.int32),
        },
    )
    theirs = image_mlp._MLPImageTask(datasets, [6])
    task = interop.task(theirs, num_batches=4)
    params = task.init(jax.random.key(0))
    batch = task.sample(task.dataset.arrays("train"), jax.random.key(1))
    whole = {"image": batch["leaf_000"], "label": batch["leaf_001"]}
    want = theirs.loss(params, jax.random.PRNGKey(0), whole)
    assert float(task.loss(params, jax.random.key(0), batch)) == float(want)
    trainer = meta_trainer(task, mulo.SmallFC(hidden_size=2, hidden_layers=1))
    state, metrics = trainer.step(trainer.init())
    assert np.isfinite(metrics["meta_loss"])
    assert importlib.import_module("learned_optimization")
