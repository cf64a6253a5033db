"""Our rules beside google/learned_optimization's, wherever its head is importable.

Where it is not, every test is skipped and says why; the golden trajectories hold then.
"""

import os

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.interop_parts import DOCS, meta_trainer, snippets

import mulo
from mulo import interop
from mulo._thetas import msgpack

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
STEPS = 6

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


@pytest.fixture
def stable_ties(monkeypatch):
    """The peer sorts axes by size, and which of equal ones is first is left to chance.

    That is, to NumPy's sort for the processor it runs on. Ours keeps their order.
    """

    def factored_dims(shape):
        if len(shape) < 2:
            return None
        return tuple(int(d) for d in np.argsort(shape, kind="stable")[-2:])

    for module in ("learned_optimizers.common", "research.general_lopt.hyper_v2"):
        monkeypatch.setattr(load(module), "factored_dims", factored_dims)


def random_shapes(seed):
    """A tensor of each rank from 0 to 4; short axes, so that some of them tie."""
    rng = np.random.default_rng(seed)
    sizes = ((), (20,), (9, 9), (5, 4, 5), (3, 3, 4, 4))
    return {
        f"rank_{rank}": tuple(int(rng.integers(1, size + 1)) for size in longest)
        for rank, longest in enumerate(sizes)
    }


def draw(shapes, seed):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for name, shape in shapes.items()
    }


def shaken(theta, scale=0.1):
    """Like a trained theta: nothing is zero."""
    leaves, treedef = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    noise = [
        jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.map(lambda x, n: x + scale * n, theta, treedef.unflatten(noise))


def assert_steps_alike(tx, theirs, seed, share, *, validated=False):
    """Compare parameters after each step, gradients from 1/9 to 27 in size.

    ``share``: allowed error as a part of the largest distance from the start so far, as
    for the golden trajectories: float32 sums in another order. ``validated``: tell both
    a validation loss first.
    """
    shapes = random_shapes(seed)
    start = params = draw(shapes, 100 + seed)
    state = tx.init(params)
    their_state = theirs.init(params, num_steps=STEPS, key=jax.random.PRNGKey(0))
    update = jax.jit(tx.update)
    their_update = jax.jit(
        lambda state, grads, loss, key: theirs.update(state, grads, loss, key=key)
    )
    if validated:
        their_state = jax.jit(lambda s: theirs.update(s, params, 3.0, is_valid=True))(
            their_state
        )
        tell = jax.jit(
            lambda s: tx.update(params, s, params, value=3.0, is_valid=True)[1]
        )
        state = tell(state)
    moved = dict.fromkeys(params, 0.0)
    for step in range(STEPS):
        size = 3.0 ** (step - 2)
        grads = {name: size * g for name, g in draw(shapes, step).items()}
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
    assert 0.0 < min(moved.values())
    assert max(moved.values()) < 100.0


@pytest.mark.parametrize(
    ("seed", "sizes"),
    [
        (0, {"hidden_size": 4, "step_mult": 0.1}),
        (1, {"hidden_size": 32, "hidden_layers": 1, "step_mult": 0.01}),
        (2, {"hidden_size": 8, "hidden_layers": 3, "exp_mult": 0.1, "step_mult": 0.1}),
    ],
)
def test_small_fc_follows_the_peers_on_random_shapes(stable_ties, seed, sizes):
    lopt = load("learned_optimizers.adafac_mlp_lopt").AdafacMLPLOpt(**sizes)
    theirs = shaken(lopt.init(jax.random.PRNGKey(seed)))
    rule = mulo.SmallFC(**sizes)
    public = flax.serialization.to_state_dict(theirs)
    rule, theta = msgpack.from_public(public, "live", rule=rule)
    assert_steps_alike(rule.transform(theta), lopt.opt_fn(theirs), seed, share=1e-4)


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        # A step in proportion to the weights compounds: a smaller one.
        (0, {"use_bugged_loss_features": False, "step_mult": 1e-5}),
        (
            1,
            {
                "use_bugged_loss_features": True,
                "param_scale_mult": False,
                "step_mult": 0.01,
            },
        ),
    ],
)
def test_velo_follows_the_peers_on_random_shapes(stable_ties, seed, settings):
    settings = {
        "lstm_hidden_size": 4 + 4 * seed,
        "param_inits": 3 + seed,
        **settings,
    }
    lopt = load("research.general_lopt.hyper_v2").HyperV2(**settings)
    theirs = shaken(lopt.init(jax.random.PRNGKey(seed)))
    public = flax.serialization.to_state_dict(theirs)
    rule, theta = msgpack.from_public(public, "live", rule=mulo.VeLO(**settings))
    tx = rule.transform(theta, num_steps=STEPS)
    assert_steps_alike(tx, lopt.opt_fn(theirs), seed, share=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_lstm_ff_follows_the_peers_on_random_shapes(seed):
    sizes = {
        "hidden_size": 5 + seed,
        "lstm_hidden_size": 6 - seed,
        "from_mlp_size": 3 + seed,
        "from_lstm_size": 4,
        "lstm_to_ff": 2 + seed,
    }
    lopt = load("learned_optimizers.rnn_mlp_lopt").RNNMLPLOpt(
        **sizes, hidden_layer=1 + seed, step_multiplier=0.1
    )
    theirs = shaken(lopt.init(jax.random.PRNGKey(seed)))
    rule = mulo.LSTMFF(**sizes, hidden_layers=1 + seed, step_mult=0.1)
    public = flax.serialization.to_state_dict(theirs)
    rule, theta = msgpack.from_public(public, "live", rule=rule)
    # Without, the peer's first step under jit is NaN: XLA turns its 1 - decay**0 + 1e-8
    # into zero, and the mean of no validation losses into 0 / 0.
    assert_steps_alike(
        rule.transform(theta), lopt.opt_fn(theirs), seed, share=1e-4, validated=True
    )


@pytest.mark.parametrize("name", mulo.optimizers.names())
def test_every_optimizer_runs_under_the_peers_interface(name):
    load("optimizers.base")
    info = mulo.optimizers.info(name)
    params = draw({"a": (5, 7), "b": (11,)}, 0)
    if info.learned:
        small = {
            field: 4
            for field in ("lstm_hidden_size", "param_inits")
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
    assert np.any(opt.get_params(state)["a"] != params["a"])
    moved = opt.set_params(state, params)
    np.testing.assert_array_equal(opt.get_params(moved)["a"], params["a"])


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
    estimator = trainers["truncated_pes"].TruncatedPES(
        step, trunc_length=5, steps_per_jit=5, std=0.1
    )
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
    _, metrics = trainer.step(trainer.init())
    assert np.isfinite(metrics["meta_loss"])


def test_a_rule_told_loss_and_horizon_runs_through_the_peers_full_es():
    load("learned_optimizers.base")
    rule = mulo.CeloAdam(lstm_hidden_size=2)
    lopt = interop.learned_optimizer(rule)
    schedules = load("outer_trainers.truncation_schedule")
    step = load("outer_trainers.lopt_truncated_step").VectorizedLOptTruncatedStep(
        load("tasks.quadratics").FixedDimQuadraticFamily(4),
        lopt,
        schedules.NeverEndingTruncationSchedule(),  # FullES has its own.
        num_tasks=2,
    )
    learner_lib = load("outer_trainers.gradient_learner")
    theta_opt = interop.optimizer(optax.adam(1e-2))
    learner = learner_lib.SingleMachineGradientLearner(
        lopt,
        [
            load("outer_trainers.full_es").FullES(
                step, truncation_schedule=schedules.ConstantTruncationSchedule(3)
            )
        ],
        theta_opt,
    )
    state = learner.init(jax.random.PRNGKey(0))
    before = learner.get_meta_params(state)
    state, loss, _ = learner.update(state, jax.random.PRNGKey(1))
    assert np.isfinite(loss)
    after = learner.get_meta_params(state)
    rule.check_theta(after)
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
    assert any(jax.tree.leaves(changed))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(after))


def test_an_optax_transformation_steps_as_in_the_peers_own_wrapper():
    theirs = load("optimizers.optax_opts").OptaxOptimizer(optax.adam(0.1))
    clip = load("optimizers.base").GradientClipOptimizer
    params = draw({"a": (5, 7), "b": (11,)}, 0)
    ends = []
    for opt in (clip(interop.optimizer(optax.adam(0.1)), 0.5), clip(theirs, 0.5)):
        state = opt.init(params, num_steps=2)
        for _ in range(2):
            state = opt.update(state, params, loss=1.0)
        ends.append(opt.get_params(state))
    assert np.any(ends[0]["a"] != params["a"])
    for name in params:
        np.testing.assert_allclose(ends[0][name], ends[1][name], rtol=1e-6)


def test_the_peers_network_with_batch_normalization_is_refused():
    hk = pytest.importorskip("haiku")
    conv, base = load("tasks.fixed.conv"), load("tasks.datasets.base")

    def norm(x):
        return hk.BatchNorm(True, True, 0.9)(x, is_training=True)

    shapes = {
        "image": jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    datasets = base.Datasets(*[iter(()) for _ in range(4)], abstract_batch=shapes)
    model = conv._cross_entropy_pool_loss([2], jax.nn.relu, norm_fn=norm)
    with pytest.raises(ValueError, match="_ConvTask has a state of its own"):
        interop.task(conv._ConvTask(model, datasets))


@pytest.mark.parametrize("block", snippets(peer=True))
def test_a_snippet_of_the_page_runs_beside_the_peer(block):
    load("optimizers.base")
    names = {}
    exec(compile(block, str(DOCS), "exec"), names)
    assert "state" in names
