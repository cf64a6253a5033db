"""The coordinate check of every rule: flat under μP, growing without it.

An MLP with one hidden matrix is enough to tell a wrong power of the width, and what
takes time is compiling each rule's step twice.
"""

from typing import Any

import pytest

import mulo
from evaluate.coord_check import coordinates
from evaluate.optimizers import names, null_models, random_thetas

TASK = "mlp-d2-synthetic:4x4x1:3"
MODELS: dict[str, Any] = {}
# Unblocked SOAP cannot pass, see below. SGD, Adam and SmallFC: every kind of task, in
# tests/test_evaluate_coord_tasks.py.
ELSEWHERE = {"mu_soap", "mu_sgd", "mu_adam", "mu_small_fc", "mulo"}
# The theta of a learned rule before its meta-training is that of a learned rule.
ELSEWHERE |= {names.THETA_INIT}
MUP = [n for n, s in names.SPECS.items() if not s.standard and n not in ELSEWHERE]
NULL = set(null_models.NULL_MODELS)
# Cheap to compile; the others fail as well: docs/coordinate_checks.md.
STANDARD = (
    "lion adafactor muon soap_blocked learned_adam learned_muon celo_adam".split()
)
# VeLO's step sizes depend on logarithms of a tensor's moments, which its random theta
# does not ignore: narrow networks get other ones. Later they settle.
WIDTHS = {"mu_velo": (128, 512)}


def check(name, **changes):
    spec = names.get(name)
    settings: dict[str, Any] = {
        "task": f"sp-{TASK}" if spec.standard else TASK,
        "widths": WIDTHS.get(name, (32, 256)),
        "num_steps": 6,
        "num_seeds": 2,
        "batch_size": 16,
    }
    config = coordinates.CoordConfig(optimizer=name, **(settings | changes))
    pretrained = random_thetas.pretrained(name) if spec.learned else None
    return coordinates.check(config, pretrained, models=MODELS)


@pytest.mark.parametrize("name", MUP)
def test_every_rule_passes_under_mup(name):
    result = check(name)
    assert result.growing == ()
    assert set(result.shrinking) <= {"logits"}
    # The steps matter: what is flat is not rounding.
    assert result.changes[:2, :, -1].min() > 0.005


@pytest.mark.parametrize("name", STANDARD)
def test_the_same_rules_fail_in_the_standard_parametrization(name):
    result = check(name)
    assert "logits" in result.growing
    assert result.layers[0] not in result.growing


def test_a_theta_from_a_file_is_checked_like_a_random_one(tmp_path):
    made = random_thetas.pretrained("learned_muon", seed=3)
    theta = mulo.load(mulo.save(tmp_path / "theta", made.rule, made.theta))
    config = coordinates.CoordConfig(
        optimizer="mulo",
        task=TASK,
        widths=(32, 64, 128, 256),
        num_steps=6,
        num_seeds=1,
        batch_size=16,
    )
    result = coordinates.check(config, theta, models=MODELS)
    assert result.growing == result.shrinking == ()
    assert result.changes[:, :, -1].min() > 0.005


def test_soap_fails_unblocked_and_passes_in_blocks():
    # Ten steps, with the basis of the first and then refined at every second one.
    settings = {"num_steps": 10, "learning_rate": 3e-3, "widths": (32, 256)}
    frequency = {"precondition_frequency": 2}
    plain = check("mu_soap", hyper=frequency, **settings)
    assert plain.growing == plain.layers
    assert plain.verdicts.min() > 0.4
    settings["learning_rate"] = 0.03
    blocked = check("mu_soap_blocked", hyper=frequency, **settings)
    assert blocked.growing == ()
    assert blocked.verdicts.max() < 0.2


def test_every_rule_has_a_coordinate_check_somewhere():
    known = {*MUP, *ELSEWHERE} - {"mulo", names.THETA_INIT} - NULL
    assert set(MUP) > NULL
    rules = {name.removeprefix("mu_") for name in known}
    assert rules == {*mulo.optimizers.names(), "soap_blocked"}
