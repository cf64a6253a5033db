import dataclasses

import jax
import msgpack
import numpy as np
import pytest
from helpers import sweep_parts, theta_parts

import mulo
from evaluate.optimizers import names as optimizers
from evaluate.optimizers import schedules
from evaluate.sweep import contenders
from mulo._thetas import downloads

SMALL_FC = mulo.SmallFC(hidden_size=4)
VELO = mulo.VeLO(lstm_hidden_size=2, param_inits=1, param_scale_mult=False)


def save(folder, rule, seed=3):
    mulo.save(folder, rule, theta_parts.theta_of(seed, rule))
    return str(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of thetas: two of SmallFC as a run leaves them, and others."""
    folder = tmp_path_factory.mktemp("theta")
    return {
        "short": save(folder / "short" / "theta", SMALL_FC),
        "long": save(folder / "long" / "theta", SMALL_FC, seed=4),
        "celo2": save(folder / "celo2", mulo.Celo2(hidden_size=4)),
        "velo": save(folder / "velo", VELO),
    }


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """No public theta was fetched on this machine."""
    monkeypatch.setenv("MULO_CACHE", str(tmp_path / "cache"))


def enter(optimizers, theta=(), sp_theta=None, **changes):
    config = sweep_parts.config(optimizers=optimizers, **changes)
    return contenders.enter(config, theta, sp_theta)


def labels(*args, **changes):
    return [c.label for c in enter(*args, **changes)[0]]


def test_mulo_is_every_theta_without_a_name_called_after_its_run(saved):
    entered, _ = enter(("mulo", "sgd"), [saved["short"], saved["long"]])
    assert [c.label for c in entered] == ["short", "long", "sgd"]
    assert [c.optimizer for c in entered] == ["mulo", "mulo", "sgd"]
    first, second, sgd = entered
    assert first.theta_sha256 != second.theta_sha256
    assert not first.spec.standard
    assert sgd.theta_sha256 == ""
    assert sgd.spec.standard
    assert (first.spec.kind, sgd.spec.kind) == ("learned", "hand-designed")


def test_two_thetas_of_one_name_are_told_apart(saved):
    assert labels(("mulo",), [saved["short"], saved["short"], "random"]) == [
        "short",
        "short-2",
        "random",
    ]


def test_thetas_of_the_command_line_take_the_place_of_the_configurations(saved):
    thetas = (saved["short"],)
    assert labels(("mulo",), thetas=thetas) == ["short"]
    assert labels(("mulo",), [saved["long"]], thetas=thetas) == ["long"]


def test_thetas_of_the_configuration_do_not_bind_a_sweep_without_mulo(saved):
    thetas = (saved["short"], saved["long"])
    assert labels(("sgd",), thetas=thetas) == ["sgd"]
    assert labels(("mu_velo",), [f"mu_velo={saved['velo']}"], thetas=thetas) == [
        "mu_velo"
    ]


def test_a_theta_of_a_new_name_is_a_further_contender_under_mup(saved):
    entered, _ = enter(("mulo",), [saved["short"], f"ablation={saved['long']}"])
    assert [(c.label, c.optimizer) for c in entered] == [
        ("short", "mulo"),
        ("ablation", "mulo"),
    ]


def test_a_theta_that_leaves_the_step_size_to_the_user_is_tuned(saved):
    (entered,), _ = enter(("mulo",), [saved["celo2"]], lambdas=(0.5, 1.0))
    assert (entered.label, entered.optimizer) == ("celo2-2", "mu_celo2")
    assert entered.spec.step_size == "rate"
    assert entered.grid == optimizers.get("mu_celo2").grid
    assert entered.schedules == ("cosine",)


def test_rules_used_as_meta_trained_have_lambda_one_and_the_factors_asked_for(saved):
    (entered,), _ = enter(("mulo",), [saved["short"]], lambdas=(0.5, 2.0))
    assert (entered.spec.step_size, entered.grid) == ("lambda", (0.5, 1.0, 2.0))
    (entered,), _ = enter(("mulo",), [saved["short"]])
    assert entered.grid == (1.0,)


def test_the_standard_twin_of_a_rule_has_the_sp_theta(saved):
    entered, missing = enter(
        ("mulo", "small_fc"), [saved["short"]], saved["long"], optional=("small_fc",)
    )
    assert not missing
    twin = entered[1]
    assert (twin.label, twin.spec.standard, twin.spec.kind) == (
        "small_fc",
        True,
        "learned",
    )
    assert twin.theta.source == saved["long"]


def test_whether_a_rule_is_told_the_length_depends_on_its_theta(saved):
    entered, _ = enter(("mulo",), [saved["short"], saved["velo"]])
    assert [c.needs_num_steps for c in entered] == [False, True]


def test_a_theta_before_its_meta_training_is_a_null_model(saved):
    given = [saved["short"], saved["velo"], saved["celo2"]]
    entered, _ = enter(("mulo", "theta_init"), given)
    assert [c.label for c in entered[3:]] == ["short at init", "velo-2 at init"]
    untrained = entered[3]
    assert (untrained.spec.kind, untrained.spec.step_size) == ("null", "fixed")
    assert untrained.grid == (1.0,)
    rule = untrained.pretrained.rule
    theta_parts.assert_same(untrained.pretrained.theta, rule.init(jax.random.key(0)))


def test_thetas_of_one_architecture_begin_alike_and_are_one_null_model(saved):
    given = [saved["short"], saved["long"]]
    assert labels(("mulo", "theta_init"), given)[2:] == ["short at init"]


def test_theta_init_without_a_theta_to_begin_is_not_run_and_says_so(saved):
    entered, missing = enter(("theta_init", "sgd"))
    assert [c.label for c in entered] == ["sgd"]
    assert [x.optimizer for x in missing] == ["theta_init"]
    assert "add mulo to --optimizers" in missing[0].reason
    (entered, _), missing = enter(("theta_init", "sgd"), [saved["short"]])
    assert (entered.label, missing) == ("theta_init", [])


def test_optional_rules_without_weights_say_which_command_gets_them():
    names = ("sgd", "velo", "celo2", "small_fc")
    entered, missing = enter(names, optional=names[1:])
    assert [c.label for c in entered] == ["sgd"]
    reasons = {x.optimizer: x.reason for x in missing}
    assert list(reasons) == ["velo", "celo2", "small_fc"]
    assert "python -m mulo.fetch velo, or give --theta=velo=<path>" in reasons["velo"]
    assert "python -m mulo.fetch celo2," in reasons["celo2"]
    assert "meta-train one and give --theta=small_fc=<folder>" in reasons["small_fc"]


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (("mulo", "sgd"), [], r"'mulo' needs a theta: give --theta=<folder>.*now mulo"),
        (("velo", "sgd"), [], r"'velo' needs a theta: give --theta=velo=<folder>"),
        (("mu_velo",), ["mu_velo={short}"], r"of another rule, SmallFC"),
        (("mulo",), ["{short}/nothing"], r"No theta called '.*nothing'"),
        (("mulo",), ["short={long}", "{short}"], r"two contenders are called 'short'"),
        (("sgd",), ["{short}"], r"fits no optimizer of the sweep"),
    ],
)
def test_what_cannot_compete_is_an_error(names, given, message, saved):
    with pytest.raises(ValueError, match=message):
        enter(names, [text.format(**saved) for text in given])


def test_a_sweep_of_which_nothing_can_run_is_an_error():
    with pytest.raises(ValueError, match=r"no optimizer .* can be run: velo: weights"):
        enter(("velo",), optional=("velo",))


def fetched(name, rule, folder):
    """Fetch a made-up theta from a file of the public format."""

    def array(leaf):
        values = np.full(leaf.shape, 0.1, np.float32)
        packed = msgpack.packb((list(leaf.shape), "float32", values.tobytes()))
        return msgpack.ExtType(1, packed)

    shapes = jax.eval_shape(rule.init, jax.random.key(0))
    folder.mkdir()
    path = folder / "theta.state"
    path.write_bytes(msgpack.packb(jax.tree.map(array, shapes)))
    return downloads.fetch(name, url=path.as_uri())


def test_public_thetas_that_were_fetched_compete_each_under_its_own_name(tmp_path):
    for name, plain in (("celo2", False), ("celo2_base", True)):
        rule = mulo.Celo2(orthogonalize=not plain)
        fetched(name, rule, tmp_path / name)
    names = ("celo2", "mu_celo2", "celo2_base")
    entered, missing = enter(names, optional=names)
    assert not missing
    assert [c.label for c in entered] == list(names)
    assert [c.pretrained.rule.orthogonalize for c in entered] == [True, True, False]


def test_a_public_theta_that_is_damaged_is_an_error_even_if_optional(tmp_path):
    path = fetched("celo2", mulo.Celo2(), tmp_path / "x")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is not what was fetched"):
        enter(("sgd", "celo2"), optional=("celo2",))


def test_schedules_make_one_contender_each_and_the_usual_one_keeps_the_name():
    entered, _ = enter(
        ("adamw",), schedules=("constant", "default", "auto", "linear", "cosine")
    )
    assert {c.label: c.schedules for c in entered} == {
        "adamw · constant": ("constant",),
        "adamw": ("cosine",),
        "adamw · auto": schedules.AUTO,
        "adamw · linear": ("linear",),
    }


def test_learned_rules_can_be_given_a_schedule_too(saved):
    (entered,), _ = enter(("mulo",), [saved["short"]], schedules=("cosine",))
    assert (entered.label, entered.schedules) == ("short", ("cosine",))
    entered, _ = enter(("mulo",), [saved["short"]], schedules=("default", "wsd"))
    assert {c.label: c.schedules for c in entered} == {
        "short": ("constant",),
        "short · wsd": ("wsd",),
    }


def test_a_rule_that_takes_the_place_of_a_schedule_refuses_one():
    assert labels(("schedule_free_adamw",)) == ["schedule_free_adamw"]
    for asked in ("cosine", "auto"):
        with pytest.raises(ValueError, match="takes the place of a schedule"):
            enter(("schedule_free_adamw",), schedules=(asked,))


@pytest.mark.parametrize("asked", [("default",), ("auto",), ("constant", "wsd")])
def test_null_models_have_one_rate_and_one_schedule_whatever_is_asked(saved, asked):
    names = ("mulo", "null_adam", "null_muon", "theta_init")
    entered, _ = enter(names, [saved["short"]], schedules=asked)
    nulls = {c.label: c for c in entered if c.spec.kind == "null"}
    assert {label: c.schedules for label, c in nulls.items()} == {
        "null_adam": ("cosine",),
        "null_muon": ("cosine",),
        "short at init": ("constant",),
    }
    assert all(len(c.grid) == 1 for c in nulls.values())


def test_hyper_parameters_of_the_configuration_are_filled_up_and_sorted():
    (entered,), _ = enter(("adamw",), hyper={"adamw": {"weight_decay": 0.3}})
    assert dict(entered.hyper)["weight_decay"] == 0.3
    assert dict(entered.hyper).keys() == optimizers.get("adamw").hyper.keys()
    assert list(entered.hyper) == sorted(entered.hyper)


def test_the_sizes_of_meta_training_are_those_of_the_card(saved):
    theta = enter(("mulo",), [saved["short"]])[0][0].theta
    assert theta is not None
    assert contenders.meta_training_sizes(theta) == {}
    assert contenders.meta_training_sizes(None) == {}
    recipe = {
        "tasks": ["mlp-w32+w8-d3-digits", "transformer-w64-d2-k16-pystdlib"],
        "pes": {"min_length_steps": 100, "max_length_steps": 1000},
    }
    card = {"meta_training": recipe}
    known = dataclasses.replace(theta.pretrained, card=card)
    theta = dataclasses.replace(theta, pretrained=known)
    assert contenders.meta_training_sizes(theta) == {
        "widths": (8, 32, 64),
        "depths": (2, 3),
        "horizon_steps": (100, 1000),
    }
    recipe["tasks"] = ["a task of another version"]
    assert contenders.meta_training_sizes(theta) == {}
