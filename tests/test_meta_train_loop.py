import dataclasses
import json
import math
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from configs import paper_mulo_m
from meta_train import loop, meta_optimizer, reporting, setup, workdir
from meta_train import signals as signals_lib


def small_config(tasks=("mlp-w4-d1-synthetic:2x2x1:2",), **pes):
    c = paper_mulo_m.get_config("smoke").to_dict()
    c["tasks"], c["batch_examples"], c["rule"]["hidden_size"] = tasks, 4, 2
    c["estimator"] |= pes
    return c


def test_the_gradients_of_several_families_are_averaged():
    names = ("mlp-w4-d1-synthetic:2x2x1:2", "mlp-w6-d1-synthetic:2x2x1:2")
    trainer = setup.build(small_config(names))
    state = trainer.init()
    key = jax.random.fold_in(trainer._step_key, 0)
    grads = [
        estimator.estimate(
            state.theta,
            jax.tree.map(jnp.copy, state.estimators[i]),
            jax.random.fold_in(key, i),
            trainer._arrays[i],
            state.meta_step,
        )[0]
        for i, estimator in enumerate(trainer.estimators)
    ]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *grads)
    assert not np.allclose(grads[0]["nn"]["w0"], grads[1]["nn"]["w0"])
    new, metrics = trainer.step(state)
    assert float(metrics["grad_norm"]) == pytest.approx(
        float(optax.tree.norm(mean)), rel=1e-4
    )
    losses = [float(metrics[f"{name}/meta_loss"]) for name in names]
    assert float(metrics["meta_loss"]) == pytest.approx(np.mean(losses), rel=1e-6)
    assert int(new.meta_step) == 1
    tx = meta_optimizer.MetaOptimizerConfig(
        **paper_mulo_m.get_config("smoke").meta_optimizer
    ).make()
    theta = trainer.init().theta
    updates, _ = tx.update(mean, tx.init(theta), theta)
    want = optax.apply_updates(theta, updates)
    np.testing.assert_allclose(new.theta["nn"]["w0"], want["nn"]["w0"], rtol=1e-5)


def test_clipping_before_adamw_bounds_what_it_sees_and_after_its_update():
    gradient = {"w": jnp.asarray([300.0, -400.0])}
    params = {"w": jnp.zeros(2)}
    plain = dict(
        peak_lr=2.0, end_lr=2.0, warmup_steps=0, decay_steps=10, weight_decay=0.0
    )

    def first(order):
        config = meta_optimizer.MetaOptimizerConfig(
            **plain, clip_norm=1.0, clip_order=order
        )
        tx = config.make()
        return tx.update(gradient, tx.init(params), params)

    before, state = first("before")
    after, _ = first("after")
    # Adam's first update is the learning rate times the sign.
    np.testing.assert_allclose(before["w"], [-2.0, 2.0], rtol=1e-4)
    np.testing.assert_allclose(after["w"], [-(0.5**0.5), 0.5**0.5], rtol=1e-4)
    moment = optax.tree.get(state, "mu")["w"]
    np.testing.assert_allclose(moment, [0.1 * 0.6, -0.1 * 0.8], rtol=1e-5)


def test_the_learning_rate_warms_up_and_decays_as_published():
    rate = meta_optimizer.MetaOptimizerConfig(
        peak_lr=3e-3, end_lr=1e-3, warmup_steps=100, decay_steps=4_900
    ).schedule()
    assert 0 <= float(rate(0)) < 1e-9
    assert rate(50) == pytest.approx(1.5e-3)
    assert rate(100) == pytest.approx(3e-3)
    assert rate(2_500) == pytest.approx(2e-3)  # Half way from 100 to 4,900.
    assert rate(4_900) == rate(5_000) == pytest.approx(1e-3)


@pytest.mark.parametrize("name", [*meta_optimizer.HAND_DESIGNED, "mulo-s", "mulo-m"])
def test_every_meta_optimizer_makes_the_objective_smaller(name):
    config = meta_optimizer.MetaOptimizerConfig(
        name=name, peak_lr=0.05, warmup_steps=1, decay_steps=40, clip_value=2.0
    )
    tx = config.make()
    theta = {"w": jnp.asarray([[1.0, -2.0], [0.5, 1.5]]), "b": jnp.asarray([1.0])}

    @jax.jit
    def step(theta, state):
        value, grad = jax.value_and_grad(
            lambda t: sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(t))
        )(theta)
        updates, state = tx.update(grad, state, theta, value=value)
        return optax.apply_updates(theta, updates), state, value

    state, values = tx.init(theta), []
    for _ in range(40):
        theta, state, value = step(theta, state)
        values.append(float(value))
    assert values[-1] < 0.8 * values[0]


def test_entries_are_clipped_before_the_norm():
    config = meta_optimizer.MetaOptimizerConfig(clip_value=3.0, clip_norm=1.0)
    tx = config.make()
    theta = {"w": jnp.zeros(2)}
    _, state = tx.update({"w": jnp.asarray([4.0, -300.0])}, tx.init(theta), theta)
    moment = optax.tree.get(state, "mu")["w"]
    np.testing.assert_allclose(moment, [0.1 * 0.5**0.5, -0.1 * 0.5**0.5], rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "adamv"}, r"name must be one of adamw, .* Did you mean 'adam'"),
        ({"name": "mulo-z"}, r"a released theta or the path of one, got 'mulo-z'"),
        ({"step_factor": 0.0}, "step_factor must be > 0"),
        ({"clip_value": 0.0}, "clip_value must be > 0"),
        ({"clip_order": "never"}, r"clip_order must be one of .* got 'never'"),
        ({"warmup_steps": 5_000}, r"warmup_steps must lie in \[0, decay_steps\)"),
        ({"peak_lr": 0.0}, "peak_lr must be > 0"),
        ({"end_lr": -1.0}, "end_lr must be >= 0"),
    ],
)
def test_a_bad_meta_optimizer_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        meta_optimizer.MetaOptimizerConfig(**config).make()


def test_a_theta_gone_infinite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path, monkeypatch
):
    trainer = setup.build(small_config())
    step = trainer.step

    def spoiled(state):
        state, metrics = step(state)
        if int(state.meta_step) == 3:
            theta = jax.tree.map(lambda x: x * jnp.nan, state.theta)
            state = dataclasses.replace(state, theta=theta)
            metrics |= {"theta_norm": jnp.nan}
        return state, metrics

    monkeypatch.setattr(trainer, "step", spoiled)
    config = loop.RunConfig(
        seed=7, meta_steps=9, log_steps=1, checkpoint_steps=2, keep_checkpoints=1
    )
    with pytest.raises(FloatingPointError, match=r"meta-step 3 \(seed 7, tasks \['mlp"):
        loop.run(trainer, config, tmp_path, card={})
    assert mulo.load(tmp_path / "theta").card["meta_step"] == 2
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_line_cut_short_and_lines_done_again_leave_the_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"meta_step": i, "meta_loss": 1.0}) for i in range(1, 6)]
    path.write_text("\n".join(rows) + '\n{"meta_st')
    log = reporting.MetricsLog(tmp_path, first_step=3)
    log.write({"meta_step": 4, "meta_loss": 2.0})
    log.close()
    steps = [json.loads(line)["meta_step"] for line in path.read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_a_workdir_belongs_to_one_config(tmp_path):
    config = {"a": {"b": 1, "c": (1, 2)}, "d": "x"}
    workdir.claim(tmp_path / "run", config)
    workdir.claim(tmp_path / "run", config)  # Tuples come back from JSON as lists.
    with pytest.raises(ValueError, match=r"a\.b: 1 there, 2 here\n  e: \(absent\) the"):
        workdir.claim(tmp_path / "run", config | {"a": {"b": 2, "c": (1, 2)}, "e": 0})


def test_a_run_may_be_made_longer_and_tell_other_things(tmp_path, capsys):
    config = paper_mulo_m.get_config("smoke").to_dict()
    workdir.claim(tmp_path, config)
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir()
    run = {"meta_steps": 9, "log_steps": 5, "checkpoint_steps": 3}
    longer = config | {"run": config["run"] | run | {"keep_checkpoints": 4}}
    longer |= {"report": {"tensorboard": True, "wandb": False}}
    longer |= {"probes": config["probes"] | {"every_steps": 7}}
    assert capsys.readouterr().err == ""
    workdir.claim(tmp_path, longer)
    (line,) = capsys.readouterr().err.splitlines()
    assert "run.meta_steps 2 → 9" in line
    assert "report.tensorboard False → True" in line
    written = json.loads((tmp_path / "config.json").read_text())
    assert written == json.loads(json.dumps(longer))
    workdir.claim(tmp_path, longer)
    assert capsys.readouterr().err == ""
    for refused in (
        longer | {"run": longer["run"] | {"meta_steps": 12, "seed": 1}},
        longer | {"probes": config["probes"] | {"num_seeds": 3}},
    ):
        with pytest.raises(ValueError, match=r"another config:\n  (run\.seed|probes)"):
            workdir.claim(tmp_path, refused)
    shorter = longer | {"run": longer["run"] | {"meta_steps": 1}}
    with pytest.raises(ValueError, match=r"meta_steps must be at least 2.* got 1"):
        workdir.claim(tmp_path, shorter)
    assert json.loads((tmp_path / "config.json").read_text()) == written


def test_a_run_from_before_objectives_and_probes_is_gone_on_with(tmp_path):
    config = paper_mulo_m.get_config("smoke").to_dict()
    added = ("objective", "normalize_grads", "task_clip_norm", "probes")
    workdir.claim(tmp_path, {k: v for k, v in config.items() if k not in added})
    workdir.claim(tmp_path, config)
    config["objective"]["weights"] = "late"
    with pytest.raises(ValueError, match=r"weights: 'mean' there, 'late' here"):
        workdir.claim(tmp_path, config)


def test_a_run_without_tasks_is_refused():
    with pytest.raises(ValueError, match="tasks must name at least one task"):
        setup.build(small_config(tasks=()))


def test_the_papers_recipe_steps_on_data_of_its_shape():
    config = paper_mulo_m.get_config("smoke").to_dict()
    trainer = setup.build(config)
    _, metrics = trainer.step(trainer.init())
    assert metrics["inner_steps"] == 2 * (2 * 2) * 2  # Families, particles, steps.
    assert float(metrics["meta_loss"]) == pytest.approx(math.log(1000), abs=0.3)


def test_runs_that_all_diverge_stop_the_run_by_name(tmp_path):
    config = small_config()
    config["rule"]["step_mult"] = 1e30
    run_config = loop.RunConfig(
        seed=3, meta_steps=4, log_steps=1, checkpoint_steps=1, keep_checkpoints=1
    )
    with pytest.raises(FloatingPointError, match=r"every run of mlp-w4.*\(seed 3\)"):
        loop.run(setup.build(config), run_config, tmp_path, card={})


def test_a_theta_of_another_rule_is_refused_as_a_start(tmp_path):
    config = small_config()
    rule = mulo.SmallFC(hidden_size=2, hidden_layers=1, step_mult=0.5)
    mulo.save(tmp_path / "theta", rule, rule.init(jax.random.key(0)))
    config["init_theta"] = str(tmp_path / "theta")
    with pytest.raises(
        ValueError, match=r"step_mult=0\.5.* make config\.rule the same"
    ):
        setup.build(config)
    config["rule"]["step_mult"] = 0.5
    theta = setup.build(config).init().theta
    np.testing.assert_array_equal(
        theta["nn"]["w0"], rule.init(jax.random.key(0))["nn"]["w0"]
    )


def test_a_run_may_add_options_to_the_theta_it_starts_from(tmp_path):
    rule = mulo.LearnedMuon(schedule_units=2)
    mulo.save(tmp_path / "theta", rule, rule.init(jax.random.key(0)))
    config = small_config()
    settings = {"schedule_units": 2, "weight_decay_unit": 0.01}
    config["rule"] = {"name": "learned_muon", **settings}
    config["init_theta"] = str(tmp_path / "theta")
    trainer = setup.build(config)
    assert trainer.init().theta["schedule"]["w1"].shape == (2, 7)


def test_a_stop_asked_for_is_not_forgotten_for_a_save():
    with signals_lib.Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        assert signals.stop == signal.SIGTERM
        assert signals.take_save()
        assert not signals.take_save()
        signal.raise_signal(signal.SIGINT)
        assert signals.stop == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_ceiling": 0.0}, "loss_ceiling must be > 0"),
        ({"tasks": ("mlp-w4-d1-digits",) * 2}, "tasks must be distinct"),
        ({"batch_examples": (4, 8)}, "got 2 for 1 tasks"),
        ({"batch_examples": 4.0}, r"an integer, or one per task, got 4\.0"),
        ({"task_clip_norm": -1.0}, r"task_clip_norm must be finite and > 0.* got -1"),
        (
            {"estimator": {**small_config()["estimator"], "num_pairs": (2, 2)}},
            r"estimator\.num_pairs must be one integer or one per task, got 2 for 1",
        ),
    ],
)
def test_values_that_would_train_nothing_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        setup.build(small_config() | change)


def test_a_workdir_from_before_a_key_goes_on_with_what_was_done_then(tmp_path):
    config = paper_mulo_m.get_config("smoke").to_dict()
    config.pop("rule_defaults")
    old = {k: v for k, v in config.items() if k not in ("objective", "probes")}
    old["meta_optimizer"] = {
        k: v
        for k, v in config["meta_optimizer"].items()
        if k not in ("name", "step_factor", "clip_value")
    }
    pes = dict(config["estimator"])
    for key in (
        *("name", "noise_period", "loss_diff", "winsorize_frac", "num_truncs"),
        *("restart_prob", "restart_slack", "restart_threshold"),
    ):
        pes.pop(key)
    del old["estimator"]
    workdir.claim(tmp_path / "oldest", {**old, "pes": pes})
    workdir.claim(tmp_path / "oldest", config)
    workdir.claim(tmp_path / "reused", {**old, "pes": {**pes, "noise": "reused"}})
    with pytest.raises(
        ValueError, match=r"estimator\.name: 'noise_reuse_es' there, 'pes' here"
    ):
        workdir.claim(tmp_path / "reused", config)
    config["estimator"]["name"] = "noise_reuse_es"
    workdir.claim(tmp_path / "reused", config)
