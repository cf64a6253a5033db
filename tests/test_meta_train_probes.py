"""Probes, normalized gradients and longer runs: what a run keeps when it is stopped."""

import dataclasses
import json
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
import tasks
from configs import mulo_digits
from meta_train import loop, meta_optimizer, probes, reporting, setup, unroll
from meta_train import workdir as workdir_lib
from tasks.data import tfds_sets

TASK = "mlp-w3-d1-synthetic:2x1x1:2"


def config(**changes):
    c = mulo_digits.get_config("smoke")
    c.rule.name = "learned_adam"
    c.tasks, c.batch_examples = (TASK, TASK), (4, 8)
    c.estimator.update(
        num_pairs=2, trunc_steps=2, min_length_steps=2, max_length_steps=6
    )
    c.objective.update(weights="late", transform="log", data="valid")
    c.meta_optimizer.update(peak_lr=1.0, end_lr=1.0)
    c.estimator.update(num_pairs=(2, 4), max_length_steps=(6, 4))
    c.normalize_grads, c.task_clip_norm = True, 0.5
    c.probes.update(tasks=(TASK,), batch_examples=4, steps=30, every_steps=2)
    return setup.resolve(c.to_dict() | changes)


@pytest.fixture(scope="module")
def trainer():
    return setup.build(config())


def run(trainer, workdir, meta_steps, checkpoint_steps=3, log_steps=1):
    workdir.mkdir(exist_ok=True)
    run_config = loop.RunConfig(
        seed=0,
        meta_steps=meta_steps,
        log_steps=log_steps,
        checkpoint_steps=checkpoint_steps,
        keep_checkpoints=1,
    )
    return loop.run(trainer, run_config, workdir, card={})


@pytest.fixture(scope="module")
def whole(trainer, tmp_path_factory):
    """A run of six meta-steps that nobody disturbs."""
    workdir = tmp_path_factory.mktemp("whole")
    run(trainer, workdir, 6)
    return workdir


def lines(workdir):
    parsed = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in x.items() if k not in reporting.OF_THE_MACHINE}
        for x in parsed
    ]


def assert_same_end(trainer, got, want):
    states = []
    for workdir in (got, want):
        checkpoints = workdir_lib.Checkpoints(workdir, keep=1)
        try:
            states.append(checkpoints.restore(checkpoints.latest(), trainer.init()))
        finally:
            checkpoints.close()
    assert int(states[0].meta_step) == 6
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert lines(got) == lines(want)
    for name in ("theta", "theta_best"):
        ours, theirs = (mulo.load(workdir / name) for workdir in (got, want))
        assert ours.card["meta_step"] == theirs.card["meta_step"]
        jax.tree.map(np.testing.assert_array_equal, ours.theta, theirs.theta)


def test_the_best_theta_is_kept_and_told_by_its_card(trainer, whole):
    scores = {x["meta_step"]: x.get("probe/score") for x in lines(whole)}
    assert [step for step, score in scores.items() if score is not None] == [0, 2, 4, 6]
    assert scores[0] == 0.0
    best = min((s for s in scores if scores[s] is not None), key=scores.__getitem__)
    kept = mulo.load(whole / "theta_best")
    assert kept.card["meta_step"] == best > 0
    assert kept.card["probe_score"] == scores[best] < 0.0
    losses = {x["meta_step"]: x.get(f"probe/{TASK}") for x in lines(whole)}
    assert kept.card["probe_losses"] == {TASK: losses[best]}
    want = np.log(losses[best] / losses[0])
    assert scores[best] == pytest.approx(want, rel=1e-4)
    # Anyone can check: theta trains the probe to that loss.
    (probe,) = trainer.probes.probes.values()
    assert probe.loss(kept.theta) == losses[best]


def test_a_run_that_dies_after_a_probe_keeps_what_the_undisturbed_one_keeps(
    trainer, whole, tmp_path, monkeypatch
):
    step = trainer.step

    def dies(state):
        if int(state.meta_step) == 4:
            raise RuntimeError("killed")
        return step(state)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "step", dies)
        with pytest.raises(RuntimeError, match="killed"):
            run(trainer, tmp_path, 6)
    assert [x["meta_step"] for x in lines(tmp_path)] == [0, 1, 2, 3, 4]
    # Of a meta-step that will be done again, and might end differently elsewhere.
    kept = mulo.load(tmp_path / "theta_best")
    mulo.save(tmp_path / "theta_best", trainer.rule, kept.theta, card={"meta_step": 4})
    assert workdir_lib.meta_steps_done(tmp_path) == 3
    # A new trainer, as a new process would build it.
    run(setup.build(config()), tmp_path, 6)
    assert_same_end(trainer, tmp_path, whole)


def test_a_run_that_dies_before_its_first_checkpoint_begins_again(
    trainer, whole, tmp_path, monkeypatch
):
    step = trainer.step

    def dies(state):
        if int(state.meta_step) == 2:
            raise RuntimeError("killed")
        return step(state)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "step", dies)
        with pytest.raises(RuntimeError, match="killed"):
            run(trainer, tmp_path, 6)
    assert workdir_lib.meta_steps_done(tmp_path) == 0
    run(trainer, tmp_path, 6)
    assert_same_end(trainer, tmp_path, whole)


def test_a_run_made_longer_ends_like_one_that_was_meant_to(
    trainer, whole, tmp_path, capsys
):
    def sized(meta_steps):
        return config(
            run=mulo_digits.get_config("smoke").run.to_dict()
            | {"meta_steps": meta_steps}
        )

    workdir_lib.claim(tmp_path, sized(4))
    run(trainer, tmp_path, 4)
    workdir_lib.claim(tmp_path, sized(6))
    assert "run.meta_steps 4 → 6" in capsys.readouterr().err
    run(trainer, tmp_path, 6)
    assert_same_end(trainer, tmp_path, whole)


def test_gradients_are_divided_by_the_rms_of_their_norms_then_clipped(trainer):
    state = trainer.init()
    np.testing.assert_array_equal(state.grad_square, np.zeros(2))
    square, norms = np.zeros(2), []
    for t in range(1, 4):
        key = jax.random.fold_in(trainer._step_key, t - 1)
        grads = [
            estimator.estimate(
                state.theta,
                jax.tree.map(jnp.copy, state.estimators[i]),
                jax.random.fold_in(key, i),
                trainer._arrays[i],
                state.meta_step,
                *trainer._valid_arrays[i],
            )[0]
            for i, estimator in enumerate(trainer.estimators)
        ]
        norms = np.asarray([float(optax.tree.norm(grad)) for grad in grads])
        square = 0.99 * square + 0.01 * norms**2
        rms = np.sqrt(square / (1 - 0.99**t))
        scale = np.minimum(1 / rms, 0.5 / norms)
        mean = jax.tree.map(lambda a, b, s=scale: (a * s[0] + b * s[1]) / 2, *grads)
        state, metrics = trainer.step(state)
        want = float(optax.tree.norm(mean))
        assert float(metrics["grad_norm"]) == pytest.approx(want, rel=1e-3)
        for name, norm in zip((f"{TASK}@b4", f"{TASK}@b8"), norms, strict=True):
            assert float(metrics[f"{name}/grad_norm"]) == pytest.approx(norm, rel=1e-3)
    np.testing.assert_allclose(state.grad_square, square, rtol=1e-3)


def test_pairs_and_longest_runs_may_differ_by_task(trainer):
    assert [e.config.num_pairs for e in trainer.estimators] == [2, 4]
    assert [e.config.max_length_steps for e in trainer.estimators] == [6, 4]


def test_a_gradient_of_zeros_stays_when_it_is_normalized():
    grads = [{"w": jnp.zeros(2)}, {"w": jnp.asarray([3.0, 4.0])}]
    scaled, square = meta_optimizer.normalize(
        grads, jnp.asarray([0.0, 5.0]), jnp.zeros(2), jnp.int32(0)
    )
    np.testing.assert_array_equal(scaled[0]["w"], 0.0)
    np.testing.assert_allclose(scaled[1]["w"], [0.6, 0.8], rtol=1e-4)
    np.testing.assert_allclose(square, [0.0, 0.25], rtol=1e-4)


@dataclasses.dataclass(frozen=True)
class Countdown:
    """An inner problem whose loss at step s is theta - s; infinite from 100 on."""

    loss_ceiling: float = 50.0

    @property
    def family(self):
        return types.SimpleNamespace(arrays=lambda split: {"x": np.zeros(1)})

    def num_params(self):
        return 1

    def init(self, theta, key, length=None):
        del key, length
        return unroll.InnerState({"w": theta["w"]}, (), ())

    def unroll(self, theta, state, key, arrays, num_steps, length=None):
        del key, arrays, length
        w = jnp.where(theta["w"] >= 100.0, jnp.inf, theta["w"])
        losses = theta["w"] - jnp.arange(num_steps)
        return unroll.InnerState({"w": w}, (), ()), losses


def test_a_probes_loss_is_the_mean_of_the_last_twentieth_of_its_steps():
    inner: Any = Countdown()
    probe = probes.Probe(inner, steps=40, num_seeds=2)
    assert probe.loss({"w": jnp.float32(60.0)}) == 60.0 - (38 + 39) / 2
    short = probes.Probe(inner, steps=3, num_seeds=1)
    assert short.loss({"w": jnp.float32(10.0)}) == 8.0
    assert probe.loss({"w": jnp.float32(100.0)}) == 50.0  # Diverged: the ceiling.
    endless = probes.Probe(dataclasses.replace(inner, loss_ceiling=np.inf), 40, 1)
    assert endless.loss({"w": jnp.float32(100.0)}) == 1e6


class Table:
    """A probe whose losses are known."""

    def __init__(self, *losses):
        self.losses = list(losses)

    def loss(self, theta):
        del theta
        return self.losses.pop(0)


def test_the_score_is_the_mean_log_ratio_to_the_first_theta():
    table: Any = {"a": Table(2.0, 1.0, 4.0), "gone": None, "b": Table(1.0, 1.0, 0.1)}
    kept = probes.Probes(table, every_steps=5)
    assert [step for step in range(11) if kept.is_due(step)] == [0, 5, 10]
    state = kept.init({"w": jnp.zeros(())})
    scores, best = [], []
    for step in (0, 5, 10):
        theta = {"w": jnp.float32(step)}
        state, values = kept.evaluate(theta, state, step)
        assert set(values) == {"probe/a", "probe/b", "probe/score"}
        scores.append(values["probe/score"])
        best.append((int(state.best_step), float(state.best_theta["w"])))
    want = [0.0, np.log(0.5) / 2, (np.log(2.0) + np.log(0.1)) / 2]
    np.testing.assert_allclose(scores, want, rtol=1e-5)
    assert best == [(0, 0.0), (5, 5.0), (10, 10.0)]
    assert kept.facts(state)["probe_losses"] == pytest.approx({"a": 4.0, "b": 0.1})
    assert not probes.Probes({"gone": None}, every_steps=1).is_due(0)


def test_a_probe_without_data_is_named_and_left_out(monkeypatch, capsys):
    load = tasks.data.load

    def missing(name, *args, **kwargs):
        if name.source == "cifar10":
            raise tfds_sets.DataMissing(
                "data set 'cifar10' must be prepared,\nfound none."
            )
        return load(name, *args, **kwargs)

    monkeypatch.setattr(tasks.data, "load", missing)
    section = config()["probes"] | {"tasks": (TASK, "mlp-w3-d1-cifar10"), "steps": 2}
    built = setup.build(config() | {"probes": section})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("The run goes on without probe mlp-w3-d1-cifar10: data set")
    assert [p is None for p in built.probes.probes.values()] == [False, True]


def test_probes_that_come_and_go_do_not_decide_which_theta_is_best():
    found = [{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": None}, {"a": 0.5, "b": 9.0}]

    class Fixed:
        def __init__(self, loss):
            self._loss = loss

        def loss(self, theta):
            return self._loss

    def at(i):
        made: Any = {k: None if v is None else Fixed(v) for k, v in found[i].items()}
        return probes.Probes(made, every_steps=1)

    theta = jnp.zeros(2)
    state = at(0).init(theta)
    for step in range(2):
        state, _ = at(step).evaluate(theta + step, state, step)
    assert int(state.best_step) == 0
    # Over both it is worse than the first, by a factor of sqrt(4.5).
    state, values = at(2).evaluate(theta + 2, state, 2)
    assert int(state.best_step) == 0
    assert values["probe/score"] == pytest.approx(0.5 * np.log(4.5), rel=1e-5)
    # Without the other it is better.
    found.append({"a": 0.5, "b": None})
    alone = at(3)
    state, _ = alone.evaluate(theta + 3, state, 3)
    assert int(state.best_step) == 3


def test_a_run_that_goes_on_keeps_its_beginning_on_the_card(tmp_path):
    rule = mulo.LearnedAdam()
    first = {"started": "2026-01-01", "git_commit": "a" * 40, "jax": "0.9"}
    assert setup.continued(first, tmp_path) == first
    mulo.save(tmp_path / "theta", rule, rule.init(jax.random.key(0)), card=first)
    again = first | {"started": "2026-01-02", "jax": "0.10"}
    assert setup.continued(again, tmp_path) == first | {"jax": "0.10"}
    other = setup.continued(again | {"git_commit": "b" * 40}, tmp_path)
    assert other["git_commit"] == "a" * 40
    assert other["resumed_by"] == ["b" * 40]


def test_probes_can_be_turned_off_whatever_else_is_said_of_them():
    c = config()
    c = c | {"probes": c["probes"] | {"tasks": (), "batch_examples": (8, 16)}}
    assert setup.build(setup.resolve(c)).probes is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ("mpl-w3-d1-digits",)}, "Did you mean 'mlp'"),
        ({"tasks": ("mlp-w3-d1-digtis",)}, "Did you mean 'digits'"),
        ({"tasks": ("mlpae-w4-d2-digits",)}, "odd"),
        ({"tasks": (TASK, TASK)}, r"probes\.tasks must be distinct"),
        ({"steps": (1, 2)}, r"probes\.steps must be .* got 2 for 1 tasks"),
        ({"steps": 0}, r"probes\.steps must be >= 1, got 0"),
        ({"num_seeds": 0}, r"probes\.num_seeds must be >= 1"),
        ({"every_steps": 0}, r"probes\.every_steps must be >= 1"),
    ],
)
def test_probes_that_cannot_be_are_refused(change, message):
    c = config()
    with pytest.raises(ValueError, match=message):
        setup.build(c | {"probes": c["probes"] | change})
