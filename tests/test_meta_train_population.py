import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import short_runs

from configs import base
from meta_train import population, reporting, setup

TASK = "mlp-w3-d1-synthetic:2x1x1:2"


def config(**changes):
    c = base.meta_training()
    base.smoke(c)
    c.rule.name = "learned_adam"
    c.tasks, c.batch_examples = (TASK,), 4
    c.estimator.update(trunc_steps=2, min_length_steps=2, max_length_steps=4)
    c.population.update(size=4, every_steps=3, perturb_std=0.1)
    return setup.resolve(c.to_dict() | changes)


@pytest.fixture(scope="module")
def trainer():
    return setup.build(config())


def copied(state):
    return jax.tree.map(jnp.copy, state)


def flat(theta):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(theta)])


def test_each_member_is_trained_by_the_next_ones_theta(trainer):
    state = trainer.init()
    # Learning rates of their own, so that who steps whom shows.
    rates = [1e-3, 1e-2, 1e-1, 1.0]
    thetas = tuple(
        jax.tree_util.tree_map_with_path(
            lambda path, x, rate=rate: (
                jnp.log(jnp.full_like(x, rate)) if "log_lr" in str(path) else x
            ),
            theta,
        )
        for theta, rate in zip(state.theta, rates, strict=True)
    )
    before = copied(thetas)
    after, _ = trainer.step(dataclasses.replace(state, theta=thetas))
    for i in range(4):
        moved = np.abs(flat(after.theta[i]) - flat(before[i])).max()
        # Adam's first step is the learning rate of the one who trains.
        assert moved == pytest.approx(rates[(i + 1) % 4], rel=0.05)


def test_steps_fall_linearly_to_the_share_that_is_asked_for(trainer):
    c = config()
    falling = setup.build(c | {"population": c["population"] | {"end_factor": 0.25}})
    theta = trainer.init().theta[0]
    decay_steps = c["meta_optimizer"]["decay_steps"]

    @functools.partial(jax.jit, static_argnums=0)
    def sizes(population):
        tx = population._optimizer_of(theta)

        def step(state, _):
            updates, state = tx.update(theta, state, theta, value=1.0)
            return state, optax.tree.norm(updates)

        return jax.lax.scan(step, tx.init(theta), length=decay_steps + 2)[1]

    factors = sizes(falling) / sizes(trainer)
    want = np.maximum(0.25, 1.0 - 0.75 * np.arange(decay_steps + 2) / decay_steps)
    np.testing.assert_allclose(factors, want, rtol=1e-5)


def test_the_worse_half_becomes_perturbed_copies_of_the_better(trainer):
    state = trainer.init()
    members = [
        (theta, opt, runs, ())
        for theta, opt, runs in zip(
            state.theta, state.opt_state, state.estimators, strict=True
        )
    ]
    fitness = jnp.asarray([3.0, 1.0, jnp.finfo(jnp.float32).max, 2.0])
    chosen, rated = trainer._select(members, fitness, jax.random.key(0))
    for kept in (1, 3):
        np.testing.assert_array_equal(flat(chosen[kept][0]), flat(state.theta[kept]))
    for child, parent in ((0, 1), (2, 3)):
        assert float(rated[child]) == pytest.approx(float(fitness[parent]))
        assert rated[child] > fitness[parent]
        away = flat(chosen[child][0]) - flat(state.theta[parent])
        assert 0.02 < away.std() < 0.3  # perturb_std is 0.1.


def test_members_draw_the_same_pairs_and_data(trainer):
    state = trainer.init()
    state = dataclasses.replace(state, theta=(state.theta[0],) * 4)
    state, metrics = trainer.step(state)
    assert float(metrics["population/best"]) == float(metrics["population/worst"])


def test_a_population_goes_on_bit_for_bit_and_gives_its_best_member(trainer, tmp_path):
    def run(directory, meta_steps):
        short_runs.run(trainer, directory, meta_steps)
        lines = (directory / "metrics.jsonl").read_text().splitlines()
        model = (directory / "theta" / "model.safetensors").read_bytes()
        machine = dict.fromkeys(reporting.OF_THE_MACHINE)
        rows = [json.loads(line) for line in lines]
        return model, [{**row, **machine} for row in rows]

    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 4)
    assert run(tmp_path / "parts", 6) == whole
    assert whole[1][-1]["population/best"] <= whole[1][-1]["population/worst"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 3}, "population.size must be even and >= 2, or 0, got 3"),
        ({"every_steps": 0}, "population.every_steps must be >= 1, got 0"),
        ({"perturb_std": -1.0}, "perturb_std must be finite and >= 0, got -1.0"),
        ({"end_factor": 1.5}, r"end_factor must lie in \[0, 1\], got 1.5"),
    ],
)
def test_a_population_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        population.PopulationConfig(**change)


def test_a_member_that_left_the_finite_numbers_is_never_the_best(trainer):
    state = trainer.init()
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.theta[0])
    thetas = (broken, *state.theta[1:])
    state, metrics = trainer.step(dataclasses.replace(state, theta=thetas))
    assert np.all(np.isfinite(flat(trainer.theta(state))))
    # Nor does it take along the one that it trains, the last.
    assert np.all(np.isfinite(flat(state.theta[3])))
    assert np.isfinite(float(metrics["theta_norm"]))
