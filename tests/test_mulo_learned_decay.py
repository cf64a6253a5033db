"""LearnedMuon's learned weight decay, and thetas that options were added to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_mulo_learned_muon import RULE, theta_of, tree, walk

import mulo
from mulo._thetas import card as cards

DECAYING = mulo.LearnedMuon(weight_decay_unit=0.01)


def says(theta, *outputs):
    """Theta whose network gives these for input, hidden and output arrays."""
    schedule = theta["schedule"]
    b1 = schedule["b1"].at[4:].set(jnp.asarray(outputs))
    return theta | {"schedule": schedule | {"b1": b1}}


def test_each_role_loses_the_share_that_its_network_says():
    grad = tree(1)
    plain, _ = walk(RULE, theta_of(), [grad])
    theta = says(theta_of(DECAYING), 1.0, 2.0, -3.0)
    decayed, _ = walk(DECAYING, theta, [grad])
    # x = 1/10, the warm-up is over. Less than nothing counts as nothing.
    peak = 0.01 * (1.0 - 0.99 * 0.1)
    shares = {"first": peak, "hidden": 2 * peak, "readout": 0.0, "gain": 0.0}
    params = tree(99)
    for name, share in shares.items():
        np.testing.assert_allclose(
            decayed[0][name] - plain[0][name],
            -share * params[name],
            rtol=1e-3,
            atol=1e-8,
        )


def test_no_more_than_half_of_an_array_goes_in_a_step():
    theta = says(theta_of(DECAYING), 0.0, 1e6, 0.0)
    (step,), _ = walk(DECAYING, theta, [tree(1)], num_steps=1)
    (plain,), _ = walk(RULE, theta_of(), [tree(1)], num_steps=1)
    lost = plain["hidden"] - step["hidden"]
    np.testing.assert_allclose(lost, 0.5 * 0.01 * tree(99)["hidden"], rtol=1e-3)


@pytest.mark.parametrize("options", [{"weight_decay_unit": 0.01}, {"mlp_units": 2}])
def test_a_theta_that_options_are_added_to_acts_as_before(options):
    larger = dataclasses.replace(RULE, **options)
    theta = theta_of(seed=5)
    grads = [tree(1), tree(2)]
    before, _ = walk(RULE, theta, grads)
    after, _ = walk(larger, larger.extend(theta, RULE), grads)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        before,
        after,
    )


def test_only_options_can_be_added_to_a_theta():
    for rule, other in (
        (RULE, DECAYING),  # Taken away.
        (mulo.LearnedMuon(weight_decay_unit=0.02), DECAYING),
        (mulo.LearnedMuon(schedule_units=9), RULE),
        (RULE, mulo.SmallFC()),
    ):
        with pytest.raises(ValueError, match="Only "):
            rule.extend({}, other)
    with pytest.raises(ValueError, match="theta lacks leaf 'caution'"):
        DECAYING.extend({}, RULE)


def test_weight_decay_needs_params():
    params = tree(0)
    tx = DECAYING.transform(theta_of(DECAYING), num_steps=10)
    with pytest.raises(
        ValueError, match="LearnedMuon with weight_decay_unit reads the param"
    ):
        tx.update(params, tx.init(params))


def test_cards_from_before_it_are_of_rules_without():
    card = cards.build(RULE, {})
    card["config"].pop("weight_decay_unit")
    assert cards.rule_of(card, "card.json") == RULE
    card["config"].pop("mlp_units")
    with pytest.raises(ValueError, match=r"card\.json: config lacks 'mlp_units'"):
        cards.rule_of(card, "card.json")
