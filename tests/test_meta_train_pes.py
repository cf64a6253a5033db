import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import drift

from meta_train import devices, estimators, objective, unroll

THETA = {"v": jnp.asarray([0.05, -0.02])}


def estimator(
    inner: Any = None, goal: Any = objective.MEAN_LOSS, **config: Any
) -> estimators.Estimator:
    config = {"num_pairs": 4, "trunc_steps": 3, "min_length_steps": 6} | config
    config = {"max_length_steps": config["min_length_steps"]} | config
    checked = estimators.EstimatorConfig(**config)
    inner = drift.Drift() if inner is None else inner
    return estimators.make(checked, inner, devices.make_mesh(checked.num_pairs), goal)


def run(est, theta, steps, seed=0):
    """Gradients, states before and after, metrics of some estimates."""
    state = est.init(theta, jax.random.key(seed))
    out = []
    for i in range(steps):
        before = jax.tree.map(jnp.copy, state)
        grad, state, metrics = est.estimate(
            theta, state, jax.random.key(1000 * (seed + 1) + i), {}, jnp.int32(i)
        )
        out.append((grad, before, jax.tree.map(jnp.copy, state), metrics))
    return out


def test_first_truncation_equals_antithetic_es():
    est = estimator(sigma=0.1, min_length_steps=30)
    (grad, before, after, metrics), *_ = run(est, THETA, 1)
    np.testing.assert_array_equal(before.pert_sum["v"], 0.0)
    eps = np.asarray(after.pert_sum["v"])  # (P, 2): ξ is ε after one truncation.
    want, losses = np.zeros(2), []
    for e in eps:
        sides = []
        for sign in (1, -1):
            x = 1.0 + np.arange(3)[:, None] * (np.asarray(THETA["v"]) + sign * e)[None]
            sides.append(0.5 * np.mean(np.sum(x**2, axis=1)))
        want += e * (sides[0] - sides[1]) / (2 * 0.1**2) / len(eps)
        losses += sides
    np.testing.assert_allclose(grad["v"], want, rtol=2e-3)
    assert 0.05 < eps.std() < 0.2
    # The noise, up to a mean of 12 standard normals, is not in the difference.
    assert abs(float(metrics.meta_loss) - np.mean(losses)) < 4 / math.sqrt(12)


def test_a_gradient_is_of_the_weighted_logarithms_of_the_losses():
    goal = objective.ObjectiveConfig(
        weights="late", power=1.0, transform="log", log_floor=0.25
    )
    est = estimator(drift.Drift(noise=0.0), goal, sigma=0.1, min_length_steps=9)
    ended = 0
    for grad, before, after, metrics in run(est, THETA, 4):
        want, values, losses = np.zeros(2), [], []
        for i in range(4):
            new = before.step[i] >= before.length[i]
            ended += bool(new)
            xi = np.asarray(after.pert_sum["v"][i])
            eps = xi - (0.0 if new else np.asarray(before.pert_sum["v"][i]))
            done, length = (0 if new else int(before.step[i])), int(after.length[i])
            # The mean of 2x over a step's share of the run.
            weights = [((s + 1) ** 2 - s**2) / length for s in range(done, done + 3)]
            sides = []
            for j, sign in enumerate((1, -1)):
                x = np.ones(2) if new else np.asarray(before.inner.params["x"][i, j])
                move = np.asarray(THETA["v"]) + sign * eps
                loss = [0.5 * np.sum((x + t * move) ** 2) for t in range(3)]
                sides.append(np.mean(weights * np.log(np.asarray(loss) + 0.25)))
                losses.append(np.mean(loss))
            want += xi * (sides[0] - sides[1]) / (2 * 0.1**2) / 4
            values += sides
        np.testing.assert_allclose(grad["v"], want, rtol=2e-3)
        assert float(metrics.objective) == pytest.approx(np.mean(values), rel=1e-4)
        assert float(metrics.meta_loss) == pytest.approx(np.mean(losses), rel=1e-4)
    assert ended >= 2


def test_reused_noise_is_drawn_once_a_run_and_unbiased():
    est = estimator(
        name="noise_reuse_es", sigma=0.1, num_pairs=256, min_length_steps=12
    )
    estimates = run(est, THETA, 13)
    for before, after in ((b, a) for _, b, a, _ in estimates):
        kept = (before.step < before.length) & (before.step > 0)
        same = np.all(after.pert_sum["v"] == before.pert_sum["v"], axis=1)
        np.testing.assert_array_equal(same, kept)
    # Runs are out of step: every estimate after the staggered first runs is of all
    # parts of a run alike.
    grads = np.stack([grad["v"] for grad, *_ in estimates[4:]])
    exact = np.asarray(jax.grad(lambda t: drift.Drift().mean_loss(t, 12))(THETA)["v"])
    error = grads.std(axis=0, ddof=1) / math.sqrt(len(grads))
    assert np.all(np.abs(grads.mean(axis=0) - exact) < 5 * error)
    # Truncated ES would miss what early steps do to later losses: x at the start of a
    # truncation does not move with its theta.
    assert np.all(np.abs(exact) > 8 * error)


def test_runs_are_reset_only_between_truncations_and_start_with_no_perturbation():
    est = estimator(num_pairs=6, trunc_steps=5, min_length_steps=7, max_length_steps=32)
    seen_reset = 0
    for _, before, after, metrics in run(est, THETA, 12):
        for i in range(6):
            assert before.length[i] % 5 == 0
            assert 5 <= before.length[i] <= 35  # Rounded up to whole truncations.
            finished = before.step[i] >= before.length[i]
            assert after.step[i] == (5 if finished else before.step[i] + 5)
            if finished:
                seen_reset += 1
                assert np.all(np.abs(after.pert_sum["v"][i]) < 6 * 0.01)
            else:
                assert after.length[i] == before.length[i]
        ended = np.mean(np.asarray(before.step >= before.length))
        assert float(metrics.finished_frac) == pytest.approx(ended)
    assert seen_reset >= 12


def test_the_first_runs_are_staggered():
    est = estimator(
        num_pairs=64, trunc_steps=5, min_length_steps=100, max_length_steps=100
    )
    lengths = np.asarray(est.init(THETA, jax.random.key(0)).length)
    assert lengths.min() < 25
    assert lengths.max() > 75
    assert len(set(lengths.tolist())) > 10


def test_lengths_are_log_uniform_and_follow_the_curriculum():
    est = estimator(
        num_pairs=512,
        trunc_steps=1,
        min_length_steps=10,
        max_length_steps=1000,
        curriculum=((3, 10_000),),
    )
    draw = jax.vmap(est.config.draw_length, in_axes=(0, None))
    keys = jax.random.split(jax.random.key(0), 512)
    for meta_step, longest in ((0, 1000), (2, 1000), (3, 10_000), (9, 10_000)):
        limit = est.config.longest_at(meta_step)
        assert limit == longest
        lengths = np.asarray(draw(keys, limit))
        assert lengths.min() >= 10
        assert lengths.max() <= longest + 1
        median = math.sqrt(10 * longest)
        assert np.median(lengths) == pytest.approx(median, rel=0.25)


def test_both_signs_share_initialization_data_and_length():
    still = {"v": jnp.zeros(2)}
    est = estimator(drift.Drift(random_start=True), sigma=1e-30, min_length_steps=6)
    starts = set()
    for _, _, after, metrics in run(est, still, 5):
        x = np.asarray(after.inner.params["x"])  # (P, 2 signs, 2)
        np.testing.assert_array_equal(x[:, 0], x[:, 1])
        # Noise from the data, about 0.8 in the mean of three, is alike in both signs;
        # what is left is the rounding of that mean.
        assert float(metrics.loss_diff_rms) < 1e-6
        starts |= {tuple(row) for row in x[:, 0].tolist()}
    assert len(starts) >= 8  # But pairs, and later runs, start elsewhere.


def test_clipping_bounds_every_pairs_difference():
    loose = run(estimator(sigma=0.5), THETA, 1)[0]
    bound = 0.5 * float(loose[3].loss_diff_rms)
    tight = run(estimator(sigma=0.5, loss_diff_clip=bound), THETA, 1)[0]
    assert 0 < float(tight[3].clipped_frac) < 1
    assert float(loose[3].clipped_frac) == 0.0
    eps = np.abs(np.asarray(tight[2].pert_sum["v"]))
    limit = (eps * bound / (2 * 0.5**2)).mean(axis=0)
    assert np.all(np.abs(np.asarray(tight[0]["v"])) <= limit * 1.001)
    assert not np.allclose(tight[0]["v"], loose[0]["v"])


def test_a_diverged_pair_starts_anew_and_leaves_the_gradient_finite():
    class Exploding(drift.Drift):
        def unroll(self, *args, **options):
            state, losses = super().unroll(*args, **options)
            x = jnp.where(state.params["x"] > 1.0, jnp.inf, state.params["x"])
            return unroll.InnerState({"x": x}, (), ()), jnp.minimum(losses, 10.0)

    grown = {"v": jnp.asarray([0.01, 0.01])}
    results = run(estimator(Exploding(), min_length_steps=30), grown, 4)
    for grad, _, after, metrics in results:
        assert np.all(np.isfinite(grad["v"]))
        assert float(metrics.diverged_frac) > 0
        bad = ~np.isfinite(np.asarray(after.inner.params["x"])).all(axis=(1, 2))
        assert np.all((after.step >= after.length)[bad])
    np.testing.assert_array_equal(results[1][2].step, 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sigma": 0.0}, r"estimator.sigma must be > 0"),
        ({"num_pairs": 0}, r"estimator.num_pairs must be >= 1"),
        (
            {"max_length_steps": 50},
            r"at least estimator.min_length_steps, got 50 < 100",
        ),
        (
            {"curriculum": ((5, 90),)},
            r"at least estimator.min_length_steps, got 90 < 100",
        ),
        ({"curriculum": ((5, 200), (5, 300))}, r"ascending meta-steps"),
    ],
)
def test_a_bad_config_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        estimators.EstimatorConfig(**config)
