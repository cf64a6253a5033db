import json
import os
import pathlib
import subprocess
import sys
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mulo
from evaluate.inspect import measures, report
from evaluate.optimizers import names
from evaluate.report import style

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(measures, "_HISTORY_STEPS", 30)
    monkeypatch.setattr(measures, "_SCALE_STEPS", 4)


def pretrained(rule, theta=None):
    return mulo.Pretrained(rule, theta or rule.init(jax.random.key(0)), {})


def learned_adam(**fields):
    return pretrained(mulo.LearnedAdam(initial_eps=1e-30, **fields))


def test_learned_adam_steps_by_its_rate_along_a_constant_gradient():
    held = (-2.0, -0.5, 0.5, 2.0)
    found = measures.inspect(
        learned_adam(initial_learning_rate=0.25), 60, varied=held, fixed=held
    )
    for slices in (found.against_gradient, found.against_history):
        assert slices.updates.shape == (4, 4)
        # History and gradient are equal there.
        np.testing.assert_allclose(
            np.diag(slices.updates), -0.25 * np.sign(held), rtol=1e-4
        )
    # One line of each kind is the other's, seen from the other side.
    np.testing.assert_allclose(
        found.against_gradient.updates, found.against_history.updates.T, rtol=1e-6
    )


def test_a_slice_moves_one_entry_only_and_is_adams_own_formula():
    b1, b2, past, now, steps = 0.5, 0.9, 1.0, -3.0, 30
    rule = learned_adam(initial_learning_rate=1.0, initial_b1=b1, initial_b2=b2)
    found = measures.inspect(rule, steps + 1, varied=(now,), fixed=(past,))
    assert found.history_steps == steps
    mean = b1 * (1 - b1**steps) * past + (1 - b1) * now
    square = b2 * (1 - b2**steps) * past**2 + (1 - b2) * now**2
    mean, square = mean / (1 - b1 ** (steps + 1)), square / (1 - b2 ** (steps + 1))
    got = found.against_gradient.updates.item()
    assert got == pytest.approx(-mean / np.sqrt(square), rel=1e-4)


def test_learned_adam_does_not_see_the_scale_of_gradients_and_averages_over_time():
    found = measures.inspect(learned_adam(initial_learning_rate=0.25), 60)
    for leaf in "wb":
        assert found.over_scale.ratio(leaf) == pytest.approx(1.0, abs=1e-4)
        first, *_, last = found.over_time.rms[leaf]
        assert first == pytest.approx(0.25, rel=1e-4)  # Adam's first step: a sign.
        assert last < 0.5 * first  # Noise averages out.
    assert found.over_time.at == (1, 3, 10, 30, 60)


class Sgd:
    """Minus the gradient, and the loss on top, if it is not 1."""

    def transform(self, **kwargs):
        del kwargs

        def update(grads, state, params, *, value):
            step = jax.tree.map(lambda g: -g + (value - 1.0), grads)
            assert jax.tree.structure(params) == jax.tree.structure(grads)
            return step, state

        return mulo.optimizers.optax.GradientTransformationExtraArgs(
            lambda params: (), update
        )


def test_a_rule_without_a_state_follows_the_gradient_and_its_scale(monkeypatch):
    monkeypatch.setattr(measures, "decays_of", lambda rule, theta: ())
    sgd = Sgd()
    sgd.rule = sgd.theta = None
    found = measures.inspect(sgd, 5)
    minus = -np.asarray(measures.VARIED, np.float32)
    assert (found.against_gradient.updates == minus).all()
    np.testing.assert_array_equal(
        found.against_history.updates,
        np.tile(-np.float32(measures.FIXED)[:, None], (1, len(minus))),
    )
    assert found.over_scale.ratio("w") == pytest.approx(1e12, rel=1e-3)
    assert found.over_time.rms["w"] == pytest.approx(1.0, abs=0.1)


def test_decays_are_those_of_the_theta_and_else_of_the_rule():
    rule = mulo.SmallFC(hidden_size=4, initial_momentum_decays=(0.9, 0.99, 0.8))
    theta = rule.init(jax.random.key(0))
    fresh = {d.name: d for d in measures.decays_of(rule, theta)}
    assert fresh["momentum"].values == (0.9, 0.99, 0.8)
    assert fresh["rms"].values == (0.999,)
    assert all(d.learned for d in fresh.values())
    # Offsets of log 2 / 10 double what a decay forgets.
    theta["adafactor_decays"] += jnp.log(2.0) / 10
    moved = {d.name: d.values for d in measures.decays_of(rule, theta)}
    assert moved["adafactor"] == pytest.approx((0.8, 0.98, 0.998), rel=1e-6)
    assert list(moved) == ["momentum", "rms", "adafactor"]

    adam = mulo.LearnedAdam(initial_b1=0.8, initial_b2=0.95)
    found = measures.decays_of(adam, adam.init(jax.random.key(0)))
    assert {d.name: d.values for d in found} == {
        "matrix beta1": (0.8,),
        "matrix beta2": (0.95,),
        "vector beta1": (0.8,),
        "vector beta2": (0.95,),
    }
    assert all(d.learned for d in found)

    elo = mulo.ELO(hidden_size=4)
    fixed = measures.decays_of(elo, elo.init(jax.random.key(0)))
    assert [d.learned for d in fixed] == [False] * 3
    assert fixed[0] == measures.Decay("momentum", (0.9, 0.99, 0.999), False)


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="steps must be >= 2, got 1"):
        measures.inspect(learned_adam(), 1)


# One of each kind: the others share the code of these, and compile for long.
@pytest.mark.parametrize(
    "name", ["learned_adam", "learned_muon", "small_fc", "celo2", "velo"]
)
def test_learned_rules_of_every_kind_can_be_inspected(name, monkeypatch):
    monkeypatch.setattr(measures, "_HISTORY_STEPS", 2)
    got, theta = report.load("random", name)
    assert got == name
    found = measures.inspect(theta, 12, varied=(-1.0, 1.0), fixed=(0.0, 1.0))
    for slices in (found.against_gradient, found.against_history):
        assert np.isfinite(slices.updates).all()
    assert np.ptp(found.against_history.updates) > 0
    for curve in (found.over_time, found.over_scale):
        assert all((rms > 0).all() for rms in curve.rms.values())
    assert found.decays
    text = report.describe(found, "title")
    learned = name in ("small_fc", "learned_adam")
    assert ("decays per step, learned: none" in text) == (not learned)
    json.dumps(report.values(found), allow_nan=False)


def test_what_is_not_finite_is_null_and_still_drawn():
    nothing = np.full((1, 2), np.nan)
    slices = measures.Slices((0.0,), (-1.0, 1.0), nothing)
    curve = measures.Curve((1, 2), {"w": nothing[0], "b": np.zeros(2)})
    decays = (measures.Decay("momentum", (1.5, -0.5), True),)
    found = measures.Inspection(3, slices, slices, curve, curve, decays)
    values = report.values(found, optimizer="x")
    assert values["optimizer"] == "x"
    assert values["against_gradient"]["update_by_history"] == [[None, None]]
    assert values["over_scale"]["max_over_min"] == {"w": None, "b": None}
    assert style.png(report.draw(found, "title"))[:4] == b"\x89PNG"


def test_a_theta_is_loaded_for_its_own_rule(tmp_path):
    rule = mulo.Celo2(hidden_size=4, orthogonalize=False)
    mulo.save(tmp_path, rule, rule.init(jax.random.key(0)))
    assert report.load(str(tmp_path), None)[0] == "celo2_base"
    with pytest.raises(
        ValueError, match="another rule than celo2: it is for celo2_base"
    ):
        report.load(str(tmp_path), "celo2")
    assert report.load("random", None)[0] == "small_fc"


def command(out, *more):
    return subprocess.run(
        [sys.executable, "-m", "evaluate.inspect", f"--workdir={out}", *more],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_writes_plots_and_numbers_and_prints_a_table(tmp_path):
    rule = mulo.LearnedAdam(initial_learning_rate=0.25)
    theta = mulo.save(tmp_path / "theta", rule, rule.init(jax.random.key(0)))
    out = tmp_path / "new" / "out"
    done = command(out, f"--theta={theta}", "--steps=3")
    assert done.returncode == 0, done.stderr
    assert f"learned_adam, theta {theta}, 3 steps" in done.stdout
    assert "decays per step, learned: matrix beta1 0.9; matrix beta2" in done.stdout
    assert sorted(p.name for p in out.iterdir()) == [
        "inspect.json",
        "inspect.png",
        "inspect.svg",
    ]
    values = json.loads((out / "inspect.json").read_text())
    assert values["optimizer"] == "learned_adam"
    assert values["theta_sha256"] == names.fingerprint(mulo.load(theta))
    assert values["over_time"]["step"] == [1, 3]
    assert values["over_time"]["update_rms"]["w"][0] == pytest.approx(0.25, rel=1e-4)
    assert np.shape(values["against_gradient"]["update_by_history"]) == (5, 25)
    assert (out / "inspect.png").read_bytes()[:4] == b"\x89PNG"
    assert ElementTree.parse(out / "inspect.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("theta", "optimizer", "message"),
    [
        (None, None, "theta is missing: give --theta=WHERE, or --theta=random"),
        ("random", "adam", "optimizer must be a learned one, learned_adam,.*'adam'"),
        ("random", "velos", "did you mean 'velo'"),
        ("mulo-s", "velo", "of another rule than velo: it is for learned_muon"),
        ("no-such-theta", "velo", "No theta called 'no-such-theta'"),
    ],
)
def test_thetas_and_optimizers_that_do_not_fit_are_refused(theta, optimizer, message):
    with pytest.raises(ValueError, match=message):
        report.load(theta, optimizer)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--theta=no-such-theta"], "No theta called 'no-such-theta'"),
        (["--theta=random", "--steps=1"], "steps must be >= 2"),
    ],
)
def test_bad_input_is_one_line_and_status_2(given, message, tmp_path):
    done = command(tmp_path, *given)
    assert done.returncode == 2
    assert done.stderr.startswith(f"inspect: {message}")
    assert done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_theta_made_under_mup_is_inspected_in_the_standard_parametrization():
    rule = mulo.LearnedAdam(initial_learning_rate=0.25)
    theta = rule.init(jax.random.key(0))
    made = mulo.Pretrained(rule, theta, {"parametrization": "mup"})
    found = measures.inspect(made, 3)
    plain = measures.inspect(mulo.Pretrained(rule, theta, {}), 3)
    assert repr(found) == repr(plain)
