"""Runs that begin where earlier ones of their pair struggled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import drift
from helpers.drift import STEPS, THETA, TRUNC, make


class Bump(drift.Drift):
    """Losses rise in the second truncation of a run, and fall after it."""

    def unroll(self, theta, state, key, arrays, num_steps, length=None, **options):
        count = state.opt_state[0] + 1
        state, losses = super().unroll(theta, state, key, arrays, num_steps, length)
        losses = jnp.where(count == 2, 5.0, 1.0) + 0.0 * losses
        return dataclasses.replace(state, opt_state=(count,)), losses

    def init(self, theta, key, length=None):
        state = super().init(theta, key, length)
        return dataclasses.replace(state, opt_state=(jnp.zeros((), jnp.int32),))


@pytest.mark.parametrize("name", ["pes", "gpes"])
def test_runs_begin_where_earlier_ones_struggled_with_all_that_they_had(name):
    est = make(name, Bump(noise=0.0), num_pairs=1, restart_prob=1.0, sigma=0.3)
    state = est.init(THETA, jax.random.key(0))
    state = dataclasses.replace(state, length=jnp.full_like(state.length, STEPS))
    history = []
    for i in range(7):
        _, state, _ = est.estimate(THETA, state, jax.random.key(i), {}, jnp.int32(0))
        history.append(jax.tree.map(np.array, state))
    struggled, again = history[1], history[4]  # Runs are of four truncations.
    assert float(struggled.watch.kept_sum[0]) == pytest.approx(4.0)
    # One truncation on from the second, and for a whole new length.
    assert int(again.step[0]) == 3 * TRUNC
    assert int(again.length[0]) == 2 * TRUNC + STEPS
    assert int(again.inner.opt_state[0][0, 0]) == 3
    moved = again.inner.params["x"] - struggled.inner.params["x"]
    new = again.pert_sum["v"] - struggled.pert_sum["v"]
    pert = again.pert["v"] if name == "gpes" else new
    sides = np.stack([THETA["v"] + pert[0], THETA["v"] - pert[0]])
    np.testing.assert_allclose(moved[0], TRUNC * sides, rtol=1e-4)
    assert np.all(new != 0.0)  # A new ε on top of the old sum, for GPES in its turn.
    assert float(again.watch.kept_sum[0]) == 0.0  # Used once.
    # What is kept counts from the struggling state's own losses on: none rose since.
    assert float(history[6].watch.kept_sum[0]) == 0.0


def test_without_a_rise_or_by_chance_runs_begin_anew():
    for options in ({"restart_threshold": 9.0}, {"restart_prob": 1e-9}):
        options = {"restart_prob": 1.0} | options
        est = make("pes", Bump(noise=0.0), num_pairs=2, **options)
        state = est.init(THETA, jax.random.key(0))
        state = dataclasses.replace(state, length=jnp.full_like(state.length, STEPS))
        for i in range(5):
            key = jax.random.key(i)
            _, state, _ = est.estimate(THETA, state, key, {}, jnp.int32(0))
        np.testing.assert_array_equal(state.step, TRUNC)
        np.testing.assert_array_equal(state.length, STEPS)


def test_lengths_after_a_restart_are_drawn_as_those_of_new_runs():
    config = dict(num_pairs=512, restart_prob=0.5, trunc_steps=1)
    est = make(
        "pes", Bump(noise=0.0), min_length_steps=100, max_length_steps=1000, **config
    )
    state = est.init(THETA, jax.random.key(0))
    kept = dataclasses.replace(state.watch, kept_sum=jnp.ones(512))
    ended = dataclasses.replace(state, watch=kept, step=state.length + 0)
    _, after, _ = est.estimate(THETA, ended, jax.random.key(1), {}, jnp.int32(0))
    again = np.asarray(after.watch.kept_sum) == 0.0
    assert 200 < again.sum() < 312
    lengths = np.asarray(after.length)
    medians = np.median(lengths[again]), np.median(lengths[~again])
    assert medians == pytest.approx((316, 316), rel=0.2)
