import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.theta_parts import RULE, assert_same, theta_of

import mulo
from mulo.mup import Scaling

MUP = {"mid": Scaling("hidden", 16, 16), "bias": Scaling("input", 1, 16)}


@dataclasses.dataclass(frozen=True)
class Descent(mulo.Rule):
    """Gradient descent as an architecture; compiles in no time."""

    base_width: float = 8.0

    def init(self, key):
        return jax.random.uniform(key)

    def transform(self, theta, *, mup=None):
        del mup
        return optax.with_extra_args_support(optax.scale(-theta))


@dataclasses.dataclass(frozen=True)
class DescentToZero(mulo.Rule):
    """The same, and needs the length of the run."""

    NEEDS_NUM_STEPS = True
    base_width: float = 8.0

    def init(self, key):
        return jax.random.uniform(key)

    def transform(self, theta, *, mup=None, num_steps):
        del mup
        return optax.with_extra_args_support(optax.scale(-theta / num_steps))


@pytest.fixture
def pretrained():
    return mulo.Pretrained(Descent(), 2.0, {})


def one_update(tx, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(rng.normal(size=s.size), dtype) for k, s in MUP.items()}
    params = {"mid": params["mid"].reshape(16, 16), "bias": params["bias"]}
    grads = jax.tree.map(lambda p: p[::-1], params)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params, value=1.0)
    return params, updates


def test_transform_is_the_rules_own_by_default():
    pretrained = mulo.Pretrained(RULE, theta_of(1), {})
    _, ours = one_update(pretrained.transform(mup=MUP))
    _, theirs = one_update(RULE.transform(theta_of(1), mup=MUP))
    assert_same(ours, theirs)
    assert all(float(jnp.abs(u).min()) > 0 for u in ours.values())


@pytest.mark.parametrize("learning_rate", [0.5, jnp.float32(0.5), lambda count: 0.5])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_learning_rate_scales_the_learned_step(pretrained, learning_rate, dtype):
    _, whole = one_update(pretrained.transform(mup=MUP), dtype)
    _, half = one_update(
        pretrained.transform(mup=MUP, learning_rate=learning_rate), dtype
    )
    assert_same(half, jax.tree.map(lambda u: u / 2, whole))
    assert all(u.dtype == dtype for u in half.values())


def test_a_schedule_counts_steps_from_zero(pretrained):
    schedule = optax.piecewise_constant_schedule(1.0, {1: 0.0})
    tx = pretrained.transform(learning_rate=schedule)
    params = {"w": jnp.ones((3, 2))}
    updates, state = tx.update(params, tx.init(params), params)
    assert float(jnp.abs(updates["w"]).min()) > 0
    updates, _ = tx.update(params, state, params)
    np.testing.assert_array_equal(updates["w"], np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("rule", "factor"), [("independent", 1.0), ("coupled", 8 / 16)]
)
def test_weight_decay_is_decoupled_and_follows_its_rule(pretrained, rule, factor):
    _, plain = one_update(pretrained.transform(mup=MUP, learning_rate=0.5))
    tx = pretrained.transform(
        mup=MUP, learning_rate=0.5, weight_decay=0.1, weight_decay_rule=rule
    )
    params, decayed = one_update(tx)
    for name, share in (("mid", factor), ("bias", 1.0)):
        expected = plain[name] - 0.5 * 0.1 * share * params[name]
        np.testing.assert_allclose(decayed[name], expected, rtol=1e-5, atol=1e-7)


def test_the_horizon_reaches_rules_that_ask_for_it_and_no_others(pretrained):
    _, plain = one_update(pretrained.transform())
    _, ignored = one_update(pretrained.transform(num_steps=10))
    assert_same(ignored, plain)
    asks = mulo.Pretrained(DescentToZero(), 2.0, {})
    _, tenth = one_update(asks.transform(num_steps=10))
    np.testing.assert_allclose(tenth["mid"], plain["mid"] / 10, rtol=1e-6)


def test_transform_passes_masked_leaves(pretrained):
    tx = pretrained.transform(mup=MUP, weight_decay=0.1, weight_decay_rule="coupled")
    masked = optax.masked(tx, {"mid": True, "bias": False})
    params, updates = one_update(masked)
    np.testing.assert_array_equal(updates["bias"], params["bias"][::-1])
    _, whole = one_update(tx)
    np.testing.assert_allclose(updates["mid"], whole["mid"], rtol=1e-5, atol=1e-8)


def test_the_state_of_another_rule_or_of_other_parameters_is_named(pretrained):
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    tx = mulo.Pretrained(RULE, theta_of(1), {}).transform()
    learned_adam = mulo.LearnedAdam()
    theta = learned_adam.init(jax.random.key(0))
    other = mulo.Pretrained(learned_adam, theta, {}).transform()
    own = r"state given to SmallFC is not of this rule.*tx\.init\(params\)"
    with pytest.raises(ValueError, match=own):
        tx.update(params, other.init(params), params)
    with pytest.raises(ValueError, match=r"to SmallFC .*: it lacks '0/leaves/\w+/b'"):
        tx.update(params, tx.init({"w": params["w"]}), params)
    with pytest.raises(ValueError, match=r"it has '0/leaves/\w+/w'.* instead of \("):
        tx.update(params, tx.init(params | {"w": jnp.ones((5, 2))}), params)
    with pytest.raises(ValueError, match=r"gradients .* SmallFC do not fit .*'w' in"):
        tx.update(params | {"w": jnp.ones((2, 3))}, tx.init(params), params)
    with pytest.raises(ValueError, match="leaf 'w' is int32"):
        tx.update(params | {"w": jnp.ones((3, 2), int)}, tx.init(params), params)
    # What has another cause says so as before.
    with pytest.raises(ValueError, match="SmallFC reads the parameters"):
        tx.update(params, tx.init(params))


def test_bad_arguments_of_transform_are_errors(pretrained):
    with pytest.raises(ValueError, match="must be one of independent, coupled"):
        pretrained.transform(weight_decay_rule="both")


def test_a_theta_made_under_mup_asks_for_the_tree():
    rule = mulo.LearnedAdam()
    theta = rule.init(jax.random.key(0))
    made = mulo.Pretrained(rule, theta, {"parametrization": "mup"})
    with pytest.raises(
        ValueError, match=r"under μP, .*give mup=mulo.mup.infer\(narrow"
    ):
        made.transform()
    with pytest.raises(ValueError, match="under μP"):
        mulo.optimizers.get("learned_adam", theta=made)
    with pytest.raises(ValueError, match="or \"standard\", got 'sp'"):
        made.transform(mup="sp")
    params = {"w": jnp.ones((2, 3))}
    plain = mulo.Pretrained(rule, theta, {}).transform()
    asked = made.transform(mup="standard")
    for tx in (asked, mulo.optimizers.get("learned_adam", theta=made, mup="standard")):
        updates, _ = tx.update(params, tx.init(params), params)
        expected, _ = plain.update(params, plain.init(params), params)
        np.testing.assert_array_equal(updates["w"], expected["w"])


def test_a_constant_rate_can_be_asked_for_where_there_is_a_schedule():
    rule = mulo.LearnedMuon()
    theta = rule.init(jax.random.key(0))
    params = {"w": jnp.ones((2, 3))}
    made = mulo.Pretrained(rule, theta, {}).transform(schedule=None)
    plain = rule.transform(theta, schedule=None)
    updates, _ = made.update(params, made.init(params), params)
    expected, _ = plain.update(params, plain.init(params), params)
    np.testing.assert_array_equal(updates["w"], expected["w"])
    adam = mulo.LearnedAdam()
    other = mulo.Pretrained(adam, adam.init(jax.random.key(0)), {})
    with pytest.raises(ValueError, match="LearnedAdam has no schedule to leave out"):
        other.transform(schedule=None)


def test_repr_tells_what_it_is_in_five_lines():
    rule = mulo.LearnedMuon(schedule_units=3)
    theta = rule.init(jax.random.key(0))
    card = {
        "parametrization": "mup",
        "meta_step": 7,
        "meta_training": {"tasks": ["mlp-w8-d2-digits", "mlpae-w8-d3-digits"]},
    }
    assert repr(mulo.Pretrained(rule, theta, card)).splitlines() == [
        "Pretrained LearnedMuon(schedule_units=3)",
        "  theta: 73 meta-parameters",  # 4 · 4 + 4 + 4, 10 · 3 + 3, 3 · 4 + 4.
        "  parametrization: mup",
        "  meta-trained: mlp-w8-d2-digits, mlpae-w8-d3-digits; 7 meta-steps",
        "  use: .transform(mup=mup.infer(narrow, params), num_steps=…)",
    ]
    lines = repr(mulo.Pretrained(Descent(), 2.0, {})).splitlines()
    assert lines[0] == "Pretrained Descent()"
    assert lines[2:4] == [
        "  parametrization: unknown",
        "  meta-trained: unknown tasks; unknown meta-steps",
    ]
