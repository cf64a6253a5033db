"""Every learned rule can be meta-trained, and is told what it must know."""

import dataclasses
import importlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.short_runs import final, run

import mulo
import tasks
from configs import mulo_digits
from meta_train import devices, estimators, rules, setup, unroll
from meta_train import workdir as workdir_lib


def config(name, task="mlp-w3-d1-synthetic:2x1x1:2", **settings):
    c = mulo_digits.get_config("smoke")
    c.rule.name = name
    c.rule.update(settings)
    c.tasks, c.batch_examples = (task,), 4
    c.estimator.update(
        num_pairs=2, trunc_steps=2, min_length_steps=2, max_length_steps=6
    )
    return setup.resolve(c.to_dict())


@pytest.mark.parametrize("name", rules.names())
def test_every_learned_rule_is_meta_trained_and_saved_under_its_name(name, tmp_path):
    settings = {"hidden_layers": 1} if name == "small_fc" else {}
    # Without a hidden matrix, Celo2 is Adam under μP.
    depth = 2 if name == "celo2" else 1
    task = f"mlp-w3-d{depth}-synthetic:2x1x1:2"
    trainer = setup.build(config(name, task, **settings))
    start = jax.device_get(trainer.init().theta)
    loaded = mulo.load(run(trainer, tmp_path, 2))
    assert loaded.rule == trainer.rule
    before, after = (
        {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}
        for leaves in map(
            jax.tree_util.tree_leaves_with_path, (start, jax.device_get(loaded.theta))
        )
    )
    assert before.keys() == after.keys()
    for leaf, values in after.items():
        assert np.isfinite(values).all(), leaf
        assert np.any(values != before[leaf]), leaf
    mulo.optimizers.get(name, theta=loaded, num_steps=3)  # It is of that name.


def assert_same_end(trainer, ours, theirs, meta_steps):
    got, want = final(trainer, ours), final(trainer, theirs)
    assert got.keys() == want.keys()
    assert want[".meta_step"] == meta_steps
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_a_rule_that_is_told_the_length_resumes_bit_identically(tmp_path):
    c = config("celo_adam")
    trainer = setup.build(c)
    run(trainer, tmp_path / "whole", 6)
    run(trainer, tmp_path / "parts", 4)
    run(setup.build(c), tmp_path / "parts", 6)  # As a new process would.
    assert_same_end(trainer, tmp_path / "parts", tmp_path / "whole", 6)


def test_a_run_saved_before_rules_had_names_resumes_bit_identically(tmp_path):
    c = config("small_fc", hidden_layers=1)
    old = {**c, "rule": {k: v for k, v in c["rule"].items() if k != "name"}}
    assert set(old["rule"]) == {
        "hidden_size",
        "hidden_layers",
        "step_mult",
        "base_width",
    }
    trainer = setup.build(old)
    workdir_lib.claim(tmp_path / "old", old)
    run(trainer, tmp_path / "whole", 4)
    run(trainer, tmp_path / "old", 2)
    workdir_lib.claim(tmp_path / "old", c)
    with pytest.raises(ValueError, match=r"rule\.name: 'small_fc' there, 'elo' here"):
        workdir_lib.claim(tmp_path / "old", config("elo"))
    run(setup.build(c), tmp_path / "old", 4)
    assert_same_end(trainer, tmp_path / "old", tmp_path / "whole", 4)


class Told(NamedTuple):
    at_init: Any
    at_update: Any


@dataclasses.dataclass(frozen=True)
class Listener(mulo.Rule):
    """A rule that keeps in its state which lengths it was told; it does not train."""

    NEEDS_NUM_STEPS = True
    base_width: float = 1.0

    def init(self, key):
        del key
        return {"unused": jnp.zeros(())}

    def transform(self, theta, *, mup=None, num_steps=None):
        del theta, mup

        def init_fn(params):
            del params
            return Told(num_steps, jnp.int32(-1))

        def update_fn(updates, state, params=None, **extra):
            del params, extra
            return jax.tree.map(jnp.zeros_like, updates), Told(state.at_init, num_steps)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def test_a_rule_is_told_the_length_of_each_run_cut_short_or_not():
    task = tasks.get("mlp-w3-d1-synthetic:2x1x1:2", batch_size=2)
    inner = unroll.Inner(
        rule=Listener(), family=tasks.TaskFamily(task), loss_ceiling=10.0
    )
    estimator_config = estimators.EstimatorConfig(
        num_pairs=6,
        trunc_steps=2,
        min_length_steps=4,
        max_length_steps=8,
        curriculum=((4, 40),),
    )
    estimator = estimators.make(estimator_config, inner, devices.make_mesh(6))
    theta = inner.rule.init(jax.random.key(0))
    arrays = inner.family.arrays("train")
    state = estimator.init(theta, jax.random.key(1))
    seen = {"begun": set(), "length": set()}
    for i in range(12):
        _, state, _ = estimator.estimate(
            theta, state, jax.random.key(i), arrays, jnp.int32(i)
        )
        lengths = np.asarray(state.length)
        told = state.inner.opt_state
        for lengths_told in (told.at_init, told.at_update):
            np.testing.assert_array_equal(lengths_told, np.stack([lengths] * 2, 1))
        seen["length"] |= set(lengths.tolist())
        seen["begun"] |= {i for step in state.step if step == 2}
    assert min(seen["length"]) < 4  # A first run, cut short.
    assert max(seen["length"]) > 8  # One of the curriculum's second stage.
    assert len(seen["begun"]) > 3


def test_meta_training_finds_adams_learning_rate_from_below_and_above():
    c = config("learned_adam", task="mlp-w8-d1-digits")
    c["batch_examples"] = 16
    c["estimator"] |= dict(num_pairs=8, sigma=0.1, trunc_steps=10)
    c["estimator"] |= dict(min_length_steps=20, max_length_steps=20)
    c["meta_optimizer"] |= dict(peak_lr=0.2, end_lr=0.2, weight_decay=0.0)
    c["meta_optimizer"] |= dict(warmup_steps=0, decay_steps=1_000)
    trainer = setup.build(c)
    (estimator,) = trainer.estimators
    adam = trainer.init().theta

    def with_rate(rate):
        log_lr = jnp.log(jnp.float32(rate))
        theta = {name: {**hyper, "log_lr": log_lr} for name, hyper in adam.items()}
        return jax.device_put(theta, estimator.replicated)

    learned, rates = [], []
    for rate in (1e-3, 1.0):
        state, losses = dataclasses.replace(trainer.init(), theta=with_rate(rate)), []
        for _ in range(60):
            state, metrics = trainer.step(state)
            losses.append(float(metrics["meta_loss"]))
        assert np.mean(losses[-10:]) < np.mean(losses[:4]) - 0.4
        learned.append(state.theta)
        rates.append(float(jnp.exp(state.theta["matrix"]["log_lr"])))

    # Mean loss of whole runs, of seeds that meta-training has not seen.
    @jax.jit
    def mean_loss(theta):
        def run(key):
            inner, arrays = estimator.inner, trainer._arrays[0]
            return inner.unroll(theta, inner.init(theta, key), key, arrays, 20)[1]

        return jnp.mean(jax.lax.map(run, jax.random.split(jax.random.key(9), 32)))

    grid = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    tuned = {rate: float(mean_loss(with_rate(rate))) for rate in grid}
    assert min(tuned, key=tuned.__getitem__) == 1e-1
    for theta, rate in zip(learned, rates, strict=True):
        assert 0.5e-1 < rate < 2e-1
        assert float(mean_loss(theta)) < tuned[1e-1]  # b1, b2 and ε are learned too.
        assert float(mean_loss(theta)) < min(tuned[1e-3], tuned[1.0]) - 0.3


def test_settings_come_from_the_command_then_the_config_then_the_architecture():
    c = mulo_digits.get_config("full")
    assert rules.resolve(c.to_dict()) == {
        "name": "small_fc",
        "hidden_size": 32,
        "step_mult": 0.01,
        "base_width": 1.0,
    }
    c.rule.step_mult = 0.5
    want = mulo.SmallFC(hidden_size=32, step_mult=0.5, base_width=1.0)
    assert rules.make(c.to_dict(), mup=True) == want
    # What the file prefers for one rule is not passed to another.
    c.rule.step_mult, c.rule.name = None, "elo"
    assert rules.resolve(c.to_dict()) == {"name": "elo"}
    assert rules.make(c.to_dict(), mup=True) == mulo.ELO()
    c.rule.learning_rate = 0.25
    c.rule.initial_rms_decays = (0.5,)
    want = mulo.ELO(learning_rate=0.25, initial_rms_decays=(0.5,))
    written = setup.resolve(c.to_dict())
    assert "rule_defaults" not in written
    assert rules.make(written, mup=True) == want
    assert rules.make(json.loads(json.dumps(written)), mup=True) == want


def test_what_belongs_to_a_name_or_to_mup_is_set():
    def make(name, mup, **given):
        return rules.make({"rule": {"name": name, **given}}, mup=mup)

    assert make("celo2", True).orthogonalize
    assert not make("celo2_base", True).orthogonalize
    for name in ("velo", "celo"):
        assert make(name, False).param_scale_mult
        assert not make(name, True).param_scale_mult
        assert make(name, True, param_scale_mult=True).param_scale_mult


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"name": "vello"}, r"got 'vello'; did you mean 'velo'\? Known: learned_adam"),
        ({"name": "adam"}, r"rule with something to learn, got 'adam'"),
        ({"name": "elo", "step_mult": 1.0}, r"rule: elo has no setting 'step_mult'"),
        ({"hiden_size": 1}, r"small_fc has no setting 'hiden_size'; did you mean 'hid"),
        (
            {"name": "celo2", "orthogonalize": False},
            r"celo2 has no setting 'orthogonalize'\. It belongs to the name\.",
        ),
        ({"name": "velo", "param_scale_mult": True}, r"param_scale_mult"),
        ({"name": "celo", "lstm_hidden_size": 0}, r"lstm_hidden_size must be an int"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_before_anything_is_trained(rule, message):
    c = config("small_fc")
    with pytest.raises(ValueError, match=message):
        setup.build(c | {"rule": rule})


def test_a_default_for_a_rule_or_setting_that_is_not_there_is_refused():
    c = mulo_digits.get_config("smoke").to_dict()
    with pytest.raises(ValueError, match=r"got 'small_fcc'; did you mean 'small_fc'"):
        rules.resolve(c | {"rule_defaults": {"small_fcc": {}}})
    with pytest.raises(
        ValueError, match=r"rule_defaults\.velo: velo has no setting 'x'"
    ):
        rules.resolve(c | {"rule_defaults": {"velo": {"x": 1}}})


CONFIGS = sorted(
    path.stem
    for path in (pathlib.Path(__file__).parent.parent / "configs").glob("*.py")
    if path.stem != "base"
)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_variant_of_every_config_can_be_built(name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    with pytest.raises(ValueError, match=r"variant must be one of") as refused:
        get_config("none")
    listed = str(refused.value).split("one of ")[1].split(";")[0]
    for variant in listed.split(", "):
        c = get_config(variant).to_dict()
        # As many tasks, of data that is everywhere; no theta of another run.
        for section in (c, c["probes"]):
            section["tasks"] = [
                f"mlp-w{8 + i}-d2-digits" for i in range(len(section["tasks"]))
            ]
        if c["init_theta"].startswith("runs/"):
            c["init_theta"] = ""
        setup.build(setup.resolve(c))


def test_every_config_declares_every_setting_of_every_rule():
    for stem in CONFIGS:
        c = importlib.import_module(f"configs.{stem}").get_config("smoke")
        for name in rules.names():
            fields = {
                f.name for f in dataclasses.fields(mulo.optimizers.info(name).make)
            }
            assert fields - {"orthogonalize"} <= set(c.rule)
            # Smoke variants are small whatever is trained.
            rule = rules.make(c.to_dict() | {"rule": {"name": name}}, mup=True)
            leaves = jax.tree.leaves(jax.eval_shape(rule.init, jax.random.key(0)))
            assert sum(leaf.size for leaf in leaves) < 3_000, (stem, name)
