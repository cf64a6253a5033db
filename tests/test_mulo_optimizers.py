import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from mulo import mup, optimizers

PARAMS = {"w": jnp.asarray([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.asarray([0.1, 0.2])}
GRADS = {"w": jnp.asarray([[0.1, 0.2], [-0.3, 0.4]]), "b": jnp.asarray([1.0, -1.0])}
SCALINGS = mup.infer({"w": jnp.zeros((1, 1)), "b": jnp.zeros(1)}, PARAMS)
ELO = mulo.ELO(hidden_size=4, learning_rate=0.5)


def first(tx):
    return tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0)[0]


def assert_same(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)


def test_the_registry_holds_the_field():
    assert set(optimizers.names()) == {
        "sgd",
        "adam",
        "adamw",
        "nadamw",
        "schedule_free_adamw",
        "lion",
        "adafactor",
        "muon",
        "shampoo",
        "soap",
        "learned_adam",
        "learned_muon",
        "small_fc",
        "annealed_fc",
        "elo",
        "celo2",
        "celo2_base",
        "velo",
        "celo",
        "celo_adam",
        "lstm_ff",
    }
    for name in optimizers.names():
        assert optimizers.info(name).name == name


def test_get_passes_hyper_parameters_rates_and_the_mup_tree():
    schedule = optax.constant_schedule(0.1)
    got = optimizers.get("lion", learning_rate=schedule, b1=0.5, weight_decay=0.0)
    assert_same(first(got), first(mulo.lion(schedule, b1=0.5, weight_decay=0.0)))
    got = optimizers.get("adam", learning_rate=0.1, mup=SCALINGS, base_width=4)
    assert_same(first(got), first(mulo.adam(0.1, mup=SCALINGS, base_width=4)))


def test_a_learned_rule_takes_a_tree_or_a_pretrained_theta():
    theta = ELO.init(jax.random.key(0))
    want = first(ELO.transform(theta, learning_rate=0.1))
    small = optimizers.get("elo", theta=theta, hidden_size=4, learning_rate=0.1)
    assert_same(first(small), want)
    loaded = mulo.Pretrained(ELO, theta, {})
    assert_same(first(optimizers.get("elo", theta=loaded, learning_rate=0.1)), want)
    # None is the rate it was meta-trained with; fields of the rule may be changed.
    meta_trained = first(ELO.transform(theta))
    assert_same(first(optimizers.get("elo", theta=loaded)), meta_trained)
    changed = optimizers.get("elo", theta=loaded, mup=SCALINGS, base_width=2.0)
    assert_same(first(changed), meta_trained)


def test_weight_decay_of_a_learned_rule_is_decoupled():
    theta = ELO.init(jax.random.key(0))
    plain = first(optimizers.get("elo", theta=theta, hidden_size=4, learning_rate=0.1))
    decayed = first(
        optimizers.get(
            "elo", theta=theta, hidden_size=4, learning_rate=0.1, weight_decay=0.5
        )
    )
    for name, p in PARAMS.items():
        np.testing.assert_allclose(decayed[name], plain[name] - 0.05 * p, rtol=1e-5)


def test_the_two_celo2_differ_and_refuse_each_others_theta():
    rule = mulo.Celo2(hidden_size=4)
    theta = rule.init(jax.random.key(0))
    base = first(optimizers.get("celo2_base", theta=theta, hidden_size=4))
    orthogonal = first(optimizers.get("celo2", theta=theta, hidden_size=4))
    assert np.max(np.abs(base["w"] - orthogonal["w"])) > 1e-5
    with pytest.raises(ValueError, match=r"celo2_base, Celo2.* Its name is 'celo2'"):
        optimizers.get("celo2_base", theta=mulo.Pretrained(rule, theta, {}))
    with pytest.raises(ValueError, match=r"'orthogonalize'.*belongs to the name"):
        optimizers.get("celo2", theta=theta, orthogonalize=False)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("adan", {}, r"'adan'; did you mean 'adam'\? Known: sgd, adam"),
        ("mu_adam", {}, r"'mu_adam'; the μP form of 'adam' is get\('adam', mup="),
        ("mulo", {}, r"'mulo'; released thetas .*mulo.load\('mulo-m'\).transform"),
        ("mulo-s", {}, r"'mulo-s'; released thetas .*mulo.load\('mulo-s'\)"),
        ("mulo_m", {}, r"'mulo_m'; released thetas .*mulo.load\('mulo-m'\)"),
        (None, {}, r"called None\. Known: sgd, adam"),
        (["adam"], {}, r"called \['adam'\]\. Known: sgd, adam"),
        (3, {}, r"called 3\. Known: sgd, adam"),
        ("adam", {}, "adam needs learning_rate"),
        ("adam", {"learning_rate": 1.0, "beta1": 0.9}, r"'beta1'.*It takes: base_"),
        (
            "adamw",
            {"learning_rate": 1.0, "weightdecay": 0.9},
            "'weightdecay'; did you mean 'weight_decay'",
        ),
        ("adam", {"learning_rate": 1.0, "theta": {}}, "not learned and takes no theta"),
        ("velo", {}, r"velo is learned and needs theta.*VeLO\.init"),
        ("velo", {"theta": {}}, "give num_steps"),
        (
            "velo",
            {"theta": mulo.Pretrained(ELO, {}, {}), "num_steps": 3},
            "another rule than velo, ELO.*Its name is 'elo'",
        ),
        ("elo", {"theta": {"nn": {}}}, "theta lacks leaf 'nn/b0'"),
        ("elo", {"theta": {}, "hiden_size": 4}, "did you mean 'hidden_size'"),
    ],
)
def test_bad_requests_are_named_with_the_way_out(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        optimizers.get(name, **arguments)


def test_the_mup_form_of_velo_has_no_parameter_scale():
    sizes = {"lstm_hidden_size": 4, "param_inits": 2}
    theta = mulo.optimizers.info("velo").make(**sizes).init(jax.random.key(0))
    options = {"theta": theta, "num_steps": 10, "mup": SCALINGS, **sizes}
    assert np.any(first(optimizers.get("velo", **options))["w"] != 0)
    with pytest.raises(ValueError, match="param_scale_mult=True"):
        optimizers.get("velo", param_scale_mult=True, **options)


def test_only_learned_ones_have_an_architecture():
    assert optimizers.info("celo2_base").architecture is mulo.Celo2
    with pytest.raises(ValueError, match="soap is not learned and has no architecture"):
        _ = optimizers.info("soap").architecture


NAMES = optimizers.names()
LEARNED = [name for name in NAMES if optimizers.info(name).learned]


def make(name, **arguments):
    """Make it as far as arguments are checked; theta is not looked at before."""
    found = optimizers.info(name)
    if found.learned:
        arguments["theta"] = mulo.Pretrained(found.make(**found.fixed), {}, {})
    else:
        arguments = {"learning_rate": 0.1} | arguments
    return optimizers.get(name, num_steps=10, **arguments)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, "8", None, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_rule_refuses_a_base_width_that_is_none(name, value):
    with pytest.raises(ValueError, match=f"base_width must .*> 0, got {value!r}"):
        make(name, base_width=value)
    if not optimizers.info(name).learned:
        with pytest.raises(ValueError, match="base_width must"):
            make(name, base_width=value, mup=SCALINGS)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, "0.1", True, [0.1]])
@pytest.mark.parametrize("name", NAMES)
def test_every_rule_refuses_a_learning_rate_that_is_none(name, value):
    with pytest.raises(ValueError, match="learning_rate must be a finite number >= 0"):
        make(name, learning_rate=value)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, "0.1", True, [0.1]])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("sgd", "adam")])
def test_every_rule_with_weight_decay_refuses_one_that_is_none(name, value):
    with pytest.raises(ValueError, match=r"weight_decay must .*finite and >= 0"):
        make(name, weight_decay=value)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("soap", {"eps": -1.0}),
        ("soap", {"one_sided": "no"}),
        ("shampoo", {"matrix_eps": np.nan}),
        ("shampoo", {"nesterov": 1}),
    ],
)
def test_settings_of_soap_and_shampoo_are_checked(name, setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} must"):
        make(name, **setting)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in LEARNED])
def test_rates_of_zero_schedules_and_traced_ones_are_taken(name):
    def first_update(rate, width=2.0):
        tx = optimizers.get(name, learning_rate=rate, base_width=width)
        return jax.eval_shape(lambda: first(tx))

    first_update(0.0)
    if name != "schedule_free_adamw":  # Its rate is constant.
        first_update(optax.constant_schedule(0.1))
    jax.eval_shape(first_update, 0.1, 2.0)


@pytest.mark.parametrize(
    "name",
    ["elo"]
    + [
        name
        for name in NAMES
        if name not in LEARNED and "weight_decay_rule" in optimizers.info(name).hyper
    ],
)
def test_without_a_mup_tree_the_width_and_the_rule_of_decay_change_nothing(name):
    options: dict[str, Any] = {"learning_rate": 0.1, "weight_decay": 0.5}
    if name == "elo":
        options["theta"] = mulo.Pretrained(ELO, ELO.init(jax.random.key(0)), {})
    plain = first(optimizers.get(name, **options))
    for rule in ("independent", "coupled"):
        tx = optimizers.get(name, **options, base_width=64.0, weight_decay_rule=rule)
        jax.tree.map(np.testing.assert_array_equal, first(tx), plain)
    with pytest.raises(ValueError, match="weight_decay_rule must be one of"):
        optimizers.get(name, **options, weight_decay_rule="both")


# What no field takes, and what the fields of one type do not.
NO_FIELD = ["0.5", None, {"a": 1}, [None], ["0.5"]]
NO_NUMBER = [True, [0.5], np.ones(1)]
WRONG = {
    bool: ["no", 0, 1.0],
    int: [*NO_NUMBER, 1.0],
    float: [*NO_NUMBER, np.nan, 10**400],
    tuple: [0.5, True, (True,), ((0.5,),), (np.nan,), ()],
}


@pytest.mark.parametrize("name", LEARNED)
def test_every_field_of_an_architecture_refuses_what_is_not_of_its_type(name):
    rule = optimizers.info(name).make
    for field in dataclasses.fields(rule):
        for value in NO_FIELD + WRONG[type(field.default)]:
            with pytest.raises(ValueError, match=f"^{field.name} must "):
                rule(**{field.name: value})


def test_numbers_of_numpy_are_numbers():
    rule = mulo.ELO(
        learning_rate=np.float32(0.5),
        exp_mult=np.float64(0.1),
        base_width=jnp.asarray(8),
        initial_rms_decays=np.asarray([0.5]),
    )
    assert rule.initial_rms_decays == (0.5,)
    mulo.sgd(jnp.float32(0.1), base_width=np.int64(4))
