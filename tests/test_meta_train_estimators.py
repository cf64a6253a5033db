"""Every estimator against the exact gradient of what it says it estimates."""

import dataclasses
import functools
import math

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import drift
from helpers.drift import STEPS, THETA, TRUNC, make

import mulo
import tasks
from benchmarks import estimator_variance
from meta_train import devices, estimators, objective, rules, unroll

UNBIASED = ("pes", "noise_reuse_es", "gpes", "pes_a", "full_es")
TRUNCATED = ("truncated_es", "truncated_backprop")


def sample(est, theta, arrays, count, seed=5):
    """Estimates of ``count`` times P whole runs: flat, (count, size)."""
    steps = est.config.min_length_steps
    truncations = 1 if est.config.name == "full_es" else steps // est.config.trunc_steps

    @jax.jit
    def one(key):
        init_key, *keys = jax.random.split(key, truncations + 1)
        state = est._init(theta, init_key)
        state = dataclasses.replace(state, length=jnp.full_like(state.length, steps))
        grads = []
        for k in keys:
            grad, state, _ = est._estimate(theta, state, k, arrays, jnp.int32(0))
            grads.append(jax.flatten_util.ravel_pytree(grad)[0])
        return sum(grads) / truncations

    return np.asarray(jax.lax.map(one, jax.random.split(jax.random.key(seed), count)))


def mean_and_error(samples):
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / math.sqrt(len(samples))


def whole_gradient(start_of):
    """Of the mean loss over a run of Drift, with x at each truncation's start."""

    def loss(v):
        t = np.arange(STEPS)
        begins = t // TRUNC * TRUNC
        x = start_of(v, begins) + (t - begins)[:, None] * v[None]
        return jnp.mean(0.5 * jnp.sum(x**2, axis=1))

    return np.asarray(jax.grad(loss)(THETA["v"]))


EXACT = whole_gradient(lambda v, begins: 1.0 + begins[:, None] * v[None])
BLIND = whole_gradient(
    lambda v, begins: 1.0 + begins[:, None] * np.asarray(THETA["v"])[None]
)


@pytest.mark.parametrize("name", UNBIASED)
def test_it_is_unbiased_on_a_quadratic(name):
    mean, error = mean_and_error(sample(make(name), THETA, {}, 1_000))
    assert np.all(np.abs(mean - EXACT) < 4 * error), (mean, EXACT, error)
    # And knows what early steps do to later losses.
    assert np.all(np.abs(mean - BLIND) > 8 * error)


@pytest.mark.parametrize("name", TRUNCATED)
def test_it_is_blind_to_what_theta_did_before(name):
    mean, error = mean_and_error(sample(make(name), THETA, {}, 500))
    assert np.all(np.abs(mean - BLIND) <= 4 * error + 1e-5), (mean, BLIND, error)


def test_backprop_is_exact_over_a_whole_run():
    est = make("truncated_backprop", trunc_steps=STEPS)
    for grad in sample(est, THETA, {}, 2):
        np.testing.assert_allclose(grad, EXACT, rtol=1e-5)


@functools.cache
def learned_optimizer_problem():
    task = tasks.get("mlp-w2-d1-synthetic:1x1x2:2", batch_size=4)
    rule = mulo.LearnedAdam(initial_learning_rate=0.05)
    return unroll.Inner(rule=rule, family=tasks.TaskFamily(task), loss_ceiling=100.0)


@functools.cache
def smoothed_gradient(sigma, count):
    """Of the mean loss over a run of the problem, averaged over ε: mean and error."""
    inner = learned_optimizer_problem()
    theta = start(inner)
    flat, unravel = jax.flatten_util.ravel_pytree(theta)
    arrays = inner.family.arrays("train")

    @jax.jit
    def one(key):
        init_key, pert_key, data_key = jax.random.split(key, 3)
        pert = sigma * jax.random.normal(pert_key, flat.shape)

        def loss(v):
            theta = unravel(v)
            length = jnp.int32(4)
            state = inner.init(theta, init_key, length)
            _, losses = inner.unroll(theta, state, data_key, arrays, 4, length)
            return jnp.mean(losses)

        return (jax.grad(loss)(flat + pert) + jax.grad(loss)(flat - pert)) / 2

    keys = jax.random.split(jax.random.key(11), count)
    return mean_and_error(np.asarray(jax.lax.map(one, keys, batch_size=100)))


def start(inner):
    theta = inner.rule.init(jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.3, theta)


@pytest.mark.parametrize("name", UNBIASED)
def test_it_is_unbiased_where_a_learned_optimizer_trains(name):
    inner = learned_optimizer_problem()
    exact, exact_error = smoothed_gradient(0.1, 20_000)
    est = make(
        name, inner, num_pairs=50, trunc_steps=2, min_length_steps=4, max_length_steps=4
    )
    arrays = inner.family.arrays("train")
    mean, error = mean_and_error(sample(est, start(inner), arrays, 200))
    error = np.hypot(error, exact_error)
    assert np.all(np.abs(mean - exact) < 4 * error), (mean, exact, error)
    assert np.any(np.abs(exact) > 8 * error)  # There was something to find.


def test_variance_grows_with_the_truncations_for_pes_and_not_for_noise_reuse():
    rows = {
        (row["estimator"], row["truncation"]): row
        for row in estimator_variance.measure(256, sigma=0.1)
    }
    for row in rows.values():
        assert abs(row["truncation_bias_errors"]) < 4
        assert abs(row["run_bias_errors"]) < 4

    def variance(name, truncation):
        return rows[name, truncation]["truncation_variance"]

    # One normal ε: the fourth moment less one, 2, whatever the truncation.
    for truncation in (1, 16, 256):
        assert variance("noise_reuse_es", truncation) == pytest.approx(2.0, rel=0.1)
    growth = variance("pes", 256) / variance("pes", 16)
    assert growth == pytest.approx(16, rel=0.3)  # Linear.
    # Of four truncations with one ε each.
    assert variance("gpes", 256) < 0.9 * variance("pes", 256)


def test_gpes_is_pes_with_one_truncation_per_perturbation_and_noise_reuse_with_all():
    def first(name, period):
        config = estimators.EstimatorConfig(
            name=name,
            noise_period=period,
            num_pairs=2,
            trunc_steps=TRUNC,
            min_length_steps=30,
            max_length_steps=30,
        )
        est = estimators.make(config, drift.Drift(), devices.make_mesh(2))
        state, grads = est.init(THETA, jax.random.key(0)), []
        for i in range(6):
            key = jax.random.key(i)
            grad, state, _ = est.estimate(THETA, state, key, {}, jnp.int32(0))
            grads.append(grad["v"])
        return np.asarray(grads)

    np.testing.assert_allclose(first("gpes", 1), first("pes", 1), rtol=1e-6)
    reused = first("noise_reuse_es", 1)
    np.testing.assert_allclose(first("gpes", 99), reused, rtol=1e-6)
    assert not np.allclose(first("gpes", 2), first("pes", 1))


def test_the_sign_alone_and_winsorized_pairs():
    def one(**config):
        est = make("truncated_es", sigma=0.5, **config)
        state = est.init(THETA, jax.random.key(0))
        grad, state, metrics = est.estimate(
            THETA, state, jax.random.key(1), {}, jnp.int32(0)
        )
        return np.asarray(grad["v"]), np.asarray(state.pert_sum["v"]), metrics

    signs, eps, _ = one(loss_diff="sign")
    choices = np.stack(np.meshgrid(*[[-1, 1]] * 8), -1).reshape(-1, 8)
    possible = choices @ eps / (2 * 0.5**2 * 8)
    assert np.isclose(possible, signs, rtol=1e-5).all(axis=1).sum() == 1
    plain, _, unclipped = one()
    clipped, _, metrics = one(winsorize_frac=0.25)
    assert float(unclipped.clipped_frac) == 0.0
    assert float(metrics.clipped_frac) == 0.25  # Two of eight.
    assert float(metrics.loss_diff_rms) == float(unclipped.loss_diff_rms)
    assert not np.allclose(plain, clipped)


def test_several_truncations_are_averaged_into_one_estimate():
    est = make("pes", num_truncs=2)
    once = make("pes")
    key = jax.random.key(1)
    state = est.init(THETA, jax.random.key(0))
    grad, after, metrics = est.estimate(THETA, state, key, {}, jnp.int32(0))
    state, grads = once.init(THETA, jax.random.key(0)), []
    for k in jax.random.split(key, 2):
        one, state, _ = once.estimate(THETA, state, k, {}, jnp.int32(0))
        grads.append(one["v"])
    np.testing.assert_allclose(grad["v"], sum(grads) / 2, rtol=1e-5)
    np.testing.assert_array_equal(after.step, state.step)
    assert float(metrics.inner_steps) == 2 * 8 * 2 * TRUNC


def test_the_signal_to_noise_ratio_is_that_of_the_pairs_own_gradients():
    est = make("pes", num_pairs=6)
    state = est.init(THETA, jax.random.key(0))
    grad, state, metrics = est.estimate(
        THETA, state, jax.random.key(1), {}, jnp.int32(0)
    )
    # One by one: the gradient of pair i alone is what the rest does not account for.
    xi = np.asarray(state.pert_sum["v"])
    own = []
    for e in xi:  # First truncations: ξ is ε, x starts at one.
        sides = [
            0.5 * np.mean(np.sum((1.0 + np.arange(3)[:, None] * v) ** 2, axis=1))
            for v in (np.asarray(THETA["v"]) + e, np.asarray(THETA["v"]) - e)
        ]
        own.append(e * (sides[0] - sides[1]) / (2 * 0.1**2))
    own = np.asarray(own)
    np.testing.assert_allclose(own.mean(axis=0), grad["v"], rtol=2e-3)
    noise = np.sum(own.var(axis=0, ddof=1)) / 6
    want = np.sum(own.mean(axis=0) ** 2) / noise
    assert float(metrics.grad_snr) == pytest.approx(want, rel=1e-2)


def test_a_run_of_full_es_is_whole_and_its_last_loss_can_be_what_counts():
    goal = objective.ObjectiveConfig(weights="last", last_frac=1 / STEPS)
    est = make("full_es", drift.Drift(noise=0.0), goal, num_pairs=3)
    state = est.init(THETA, jax.random.key(0))
    grad, state, metrics = est.estimate(
        THETA, state, jax.random.key(1), {}, jnp.int32(0)
    )
    np.testing.assert_array_equal(state.length, STEPS)
    assert float(metrics.finished_frac) == 1.0
    assert float(metrics.inner_steps) == 3 * 2 * STEPS
    x = 1.0 + 11 * np.asarray(THETA["v"])  # At the last step, at theta.
    at_theta = 0.5 * np.sum(x**2)
    assert float(metrics.objective) == pytest.approx(at_theta, abs=2.0)
    assert np.all(np.isfinite(grad["v"]))


def test_the_analytic_part_of_a_diverged_run_counts_as_zero():
    class Exploding(drift.Drift):
        def unroll(self, theta, *args, **options):
            state, losses = super().unroll(theta, *args, **options)
            return state, losses / (theta["v"][0] - theta["v"][0])

    for name in ("pes_a", "truncated_backprop"):
        est = make(name, Exploding())
        state = est.init(THETA, jax.random.key(0))
        told = jax.jit(est._advance_all)(
            THETA, state, jax.random.key(1), (({},), None), jnp.int32(12)
        )[1]
        assert np.all(told.diverged)
        np.testing.assert_array_equal(told.analytic["v"], 0.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "pse"}, "estimator.name must be one of pes, .* Did you mean 'pes'"),
        ({"loss_diff": "sing"}, "must be one of value, sign, .* Did you mean 'sign'"),
        ({"winsorize_frac": 1.0}, r"winsorize_frac must lie in \[0, 1\), got 1.0"),
        ({"noise_period": 0}, "estimator.noise_period must be >= 1, got 0"),
        ({"curriculum": (100, 2000)}, r"pairs of \(meta-step, longest run\), like"),
        ({"winsorize_frac": 0.1}, "0.1 of 8 pairs is less than one"),
        ({"name": "full_es", "restart_prob": 0.5}, "needs pairs that go on, full_es"),
        ({"name": "pes_a", "loss_diff": "sign"}, 'must be "value" for pes_a'),
        ({"restart_prob": 1.5}, r"restart_prob must lie in \[0, 1\], got 1.5"),
        ({"restart_slack": -1.0}, "restart_slack must be finite and >= 0 nats, got -1"),
        ({"num_truncs": 0}, "estimator.num_truncs must be >= 1, got 0"),
    ],
)
def test_what_is_no_estimator_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        estimators.find(estimators.EstimatorConfig(**config).name)


@pytest.mark.parametrize("name", ["learned_adam", "learned_muon", "celo2"])
def test_dead_units_leave_a_rules_derivative_finite(name):
    info = mulo.optimizers.info(name)
    rule = info.make(**rules.smoke()[name], **info.fixed)
    params = {"w": jnp.ones((3, 2)), "dead": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
    grads = {
        "w": jnp.ones((3, 2)).at[1].set(0.0),
        "dead": jnp.zeros((2, 2)),
        "b": jnp.asarray([0.0, 1.0]),
    }

    def loss(theta):
        tx = rule.transform(theta, **rule.options(num_steps=jnp.int32(4)))
        after, state = params, tx.init(params)
        for _ in range(2):
            updates, state = tx.update(grads, state, after, value=jnp.float32(1.0))
            after = optax.apply_updates(after, updates)
        return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(after))

    slope = jax.jit(jax.grad(loss))(rule.init(jax.random.key(0)))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(slope))
    assert float(optax.tree.norm(slope)) > 0


def test_every_estimator_meta_trains_a_learned_optimizer():
    for name in estimators.names():
        inner = learned_optimizer_problem()
        est = make(name, inner, num_pairs=2, trunc_steps=2, min_length_steps=4)
        theta = start(inner)
        state = est.init(theta, jax.random.key(0))
        grad, state, metrics = est.estimate(
            theta, state, jax.random.key(1), inner.family.arrays("train"), jnp.int32(0)
        )
        assert jax.tree.structure(grad) == jax.tree.structure(theta)
        assert float(optax.tree.norm(grad)) > 0
        assert math.isfinite(float(metrics.meta_loss))


class Begun(drift.Drift):
    """The optimizer's state at a run's start is what theta counts for, once."""

    def init(self, theta, key, length=None):
        return dataclasses.replace(super().init(theta, key), opt_state=(theta["v"],))

    def unroll(self, theta, state, key, arrays, num_steps, length=None, **options):
        start = jnp.where(options["begins"], theta["v"], state.opt_state[0])
        losses = jnp.full(num_steps, start @ jnp.asarray([1.0, 2.0]))
        return dataclasses.replace(state, opt_state=(start,)), losses


@pytest.mark.parametrize("name", ["pes", "noise_reuse_es", "gpes"])
def test_what_a_runs_first_state_has_of_theta_counts(name):
    found = sample(make(name, Begun()), THETA, {}, 500)
    mean, error = mean_and_error(found)
    assert np.all(np.abs(mean - np.asarray([1.0, 2.0])) < 4 * error)


class Remembers(mulo.Rule):
    """Steps against a direction that its state has held from the start: theta's."""

    base_width: float = 1.0

    def init(self, key):
        return {"v": jax.random.normal(key, ())}

    def transform(self, theta, *, mup=None):
        del mup

        def update_fn(updates, state, params=None, **extra):
            del params, extra
            return jax.tree.map(lambda g: -state * g, updates), state

        return optax.GradientTransformationExtraArgs(lambda _: theta["v"], update_fn)


def test_the_first_state_of_a_learned_optimizer_is_differentiated():
    task = tasks.get("mlp-w2-d1-synthetic:1x1x2:2", batch_size=4)
    inner = unroll.Inner(
        rule=Remembers(), family=tasks.TaskFamily(task), loss_ceiling=9.0
    )
    theta = {"v": jnp.float32(0.5)}
    other = inner.init({"v": jnp.float32(0.1)}, jax.random.key(1))

    def loss(theta, begins):
        arrays = inner.family.arrays("train")
        key = jax.random.key(2)
        return inner.unroll(theta, other, key, arrays, 3, begins=begins)[1][-1]

    slope = jax.jit(jax.value_and_grad(loss))
    value, grad = slope(theta, True)
    assert float(grad["v"]) != 0.0
    later, none = slope(theta, False)
    assert float(none["v"]) == 0.0
    assert float(value) != float(later)
