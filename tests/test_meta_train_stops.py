"""How runs stop, what they keep, and that they go on as if nothing had been."""

import dataclasses
import errno
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mulo
from configs import mulo_digits
from meta_train import estimators, loop, probes, reporting, setup, workdir

TASK = "mlp-w4-d1-synthetic:2x2x1:2"


def build(probe_tasks=()):
    c = mulo_digits.get_config("smoke").to_dict()
    c["tasks"], c["batch_examples"] = (TASK,), 4
    c["rule"]["name"], c["rule_defaults"] = "small_fc", {"small_fc": {"hidden_size": 2}}
    c["probes"] |= {"tasks": probe_tasks, "steps": 3, "every_steps": 2, "num_seeds": 1}
    c["probes"]["batch_examples"] = 4
    return setup.build(setup.resolve(c))


def run_config(**changes):
    fields = dict(meta_steps=5, log_steps=1, checkpoint_steps=2, keep_checkpoints=1)
    return loop.RunConfig(seed=0, **fields | changes)


def run(trainer, path, **changes):
    return loop.run(trainer, run_config(**changes), path, card={})


def metrics(path):
    rows = [json.loads(x) for x in (path / "metrics.jsonl").read_text().splitlines()]
    machine = reporting.OF_THE_MACHINE
    return [{k: v for k, v in row.items() if k not in machine} for row in rows]


def checkpoints(path):
    return sorted(int(x.name) for x in (path / "checkpoints").iterdir())


def thetas(path):
    return [
        (path / name / "model.safetensors").read_bytes()
        for name in ("theta", "theta_best")
    ]


def test_a_signal_while_compiling_stops_before_the_first_meta_step(
    tmp_path, monkeypatch
):
    trainer = build()
    init = trainer.init

    def signalled():
        signal.raise_signal(signal.SIGTERM)
        return init()

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(trainer, "init", signalled)
    monkeypatch.setattr(trainer, "step", never)
    monkeypatch.setattr(estimators.Estimator, "estimate", None)
    with pytest.raises(loop.Interrupted, match="SIGTERM before meta-step 1"):
        run(trainer, tmp_path)
    assert checkpoints(tmp_path) == []


def test_a_signal_amid_probes_saves_at_once_and_the_probes_are_made_up_for(
    tmp_path, monkeypatch
):
    tasks = (TASK, "mlp-w6-d1-synthetic:2x2x1:2")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    trainer = build(tasks)
    run(trainer, whole)
    with monkeypatch.context() as patched:
        loss, losses = probes.Probe.loss, []

        def signalled(probe, theta):
            assert len(losses) < 3  # Of the second evaluation only the first.
            losses.append(loss(probe, theta))
            if len(losses) == 3:
                signal.raise_signal(signal.SIGTERM)
            return losses[-1]

        patched.setattr(probes.Probe, "loss", signalled)
        with pytest.raises(loop.Interrupted, match="SIGTERM at meta-step 2: saved"):
            run(trainer, stopped)
    assert checkpoints(stopped) == [2]
    assert [row["meta_step"] for row in metrics(stopped)] == [0, 1]
    run(trainer, stopped)
    assert metrics(stopped) == metrics(whole)
    assert "probe/score" in metrics(stopped)[2]
    assert thetas(stopped) == thetas(whole)


def test_checkpoints_of_multiples_are_kept_for_good(tmp_path):
    run(build(), tmp_path, keep_every_steps=3, meta_steps=7)
    assert checkpoints(tmp_path) == [3, 6, 7]


def test_a_share_of_runs_that_diverge_stops_the_run_if_it_is_not_allowed(
    tmp_path, monkeypatch
):
    trainer = build()
    step = trainer.step

    def spoiled(state):
        state, metrics = step(state)
        return state, metrics | {f"{TASK}/diverged_frac": jnp.float32(0.5)}

    monkeypatch.setattr(trainer, "step", spoiled)
    run(trainer, tmp_path / "allowed", meta_steps=1, max_diverged_frac=0.5)
    with pytest.raises(
        FloatingPointError,
        match=rf"50% of the runs of {TASK} .*meta-step 1 .*max_diverged_frac = 0\.4",
    ):
        run(trainer, tmp_path / "stopped", max_diverged_frac=0.4)


@pytest.mark.parametrize(
    "wrong",
    [{"keep_every_steps": -1}, {"particles_at_once": -1}, {"max_diverged_frac": 1.1}],
)
def test_what_makes_no_sense_is_refused(wrong):
    (key,) = wrong
    with pytest.raises(ValueError, match=rf"run\.{key} must"):
        run_config(**wrong)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_ends_the_run_with_the_step_it_reached(
    tmp_path, monkeypatch, capsys, number
):
    trainer, said = build(), os.strerror(number)
    save = workdir.Checkpoints.save

    def full(self, step, state, **options):
        if step == 4:
            with self._unwritable_said():
                # As tensorstore says it.
                raise ValueError(f"FAILED_PRECONDITION: {said}")
        save(self, step, state, **options)

    with monkeypatch.context() as patched:
        patched.setattr(workdir.Checkpoints, "save", full)
        with pytest.raises(OSError, match=f"{said}: '.*checkpoints'") as raised:
            run(trainer, tmp_path)
    assert raised.value.errno == number
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "Stopped at meta-step 4; the checkpoint of meta-step 2 stands."
    run(trainer, tmp_path)
    run(trainer, tmp_path / "whole")
    assert metrics(tmp_path) == metrics(tmp_path / "whole")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A state to save."""

    theta: dict[str, jax.Array]


def test_a_checkpoint_of_another_state_is_refused_and_stays(tmp_path):
    saved = workdir.Checkpoints(tmp_path, keep=1)
    saved.save(3, State({"a": jnp.ones(3)}))
    saved.wait()
    for other in ({"b": jnp.ones(3)}, {"a": jnp.ones(3), "b": jnp.ones(2)}):
        with pytest.raises(ValueError, match=r"checkpoints/3 does not hold the state"):
            saved.restore(3, State(other))
    np.testing.assert_array_equal(
        saved.restore(3, State({"a": jnp.zeros(3)})).theta["a"], np.ones(3)
    )
    saved.close()


def test_a_theta_is_written_with_every_checkpoint(tmp_path):
    run(build(), tmp_path, keep_every_steps=3, meta_steps=3, checkpoint_steps=9)
    assert mulo.load(tmp_path / "theta").card["meta_step"] == 3
