import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
import tasks
from meta_train import imitation, unroll


def test_the_distance_is_of_directions_and_of_lengths():
    u = {"w": jnp.asarray([[3.0, 0.0]]), "b": jnp.asarray([1.0, 1.0])}
    assert float(imitation.distance(u, u)) == pytest.approx(0.0, abs=1e-6)
    twice = jax.tree.map(lambda x: 2.0 * x, u)
    assert float(imitation.distance(u, twice)) == pytest.approx(0.3 / 5, rel=1e-5)
    away = jax.tree.map(jnp.negative, u)
    assert float(imitation.distance(u, away)) == pytest.approx(1.4, rel=1e-5)
    aside = {"w": jnp.asarray([[0.0, 3.0]]), "b": u["b"]}
    assert float(imitation.distance(u, aside)) == pytest.approx(0.35, rel=1e-5)
    nothing = jax.tree.map(jnp.zeros_like, u)
    assert float(imitation.distance(u, nothing)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-29, 1e-20, 1e-12, 1.0, 1e12])
@pytest.mark.parametrize("other", [0.0, 1e-20, 1.0])
def test_the_distance_has_derivatives_however_small_updates_are(size, other):
    e = {"w": jnp.asarray([0.0, other])}
    u = {"w": jnp.asarray([size, 0.0])}
    value, grads = jax.value_and_grad(imitation.distance)(u, e)
    grad = grads["w"]
    assert float(value) == pytest.approx(0.7 + 0.3 * _length(size, other), rel=1e-5)
    assert np.isfinite(grad).all()
    if size and other:  # Towards the other's direction it falls by 0.7 / |u|.
        assert float(grad[1]) == pytest.approx(-0.7 / size, rel=1e-4)


def _length(a, b):
    most = max(a, b)
    return (
        (a / most - b / most) ** 2 / ((a / most) ** 2 + (b / most) ** 2) if most else 0
    )


def test_what_is_left_falls_to_zero_and_stays_there():
    config = imitation.ImitationConfig(until_meta_step=10)
    left = [float(config.left_at(jnp.int32(i))) for i in (0, 5, 10, 99)]
    assert left == [1.0, 0.5, 0.0, 0.0]


def test_a_step_goes_the_share_of_the_way_and_counts_what_is_imitated():
    task = tasks.get("mlp-w2-d1-synthetic:2x1x1:2", batch_size=4)
    rule = mulo.LearnedAdam(initial_learning_rate=0.03)
    config = imitation.ImitationConfig(
        expert="sgd",
        learning_rate=0.5,
        end_learning_rate=0.1,
        weight=0.6,
        expert_share=0.8,
    )
    inner = unroll.Inner(
        rule=rule, family=tasks.TaskFamily(task), loss_ceiling=9.0, imitation=config
    )
    alone = dataclasses.replace(inner, imitation=imitation.ImitationConfig())
    theta = rule.init(jax.random.key(0))
    arrays, length = inner.family.arrays("train"), jnp.int32(1)
    key, data = jax.random.split(jax.random.key(1))
    start = inner.init(theta, key, length)
    step = jax.jit(inner.unroll, static_argnums=4)
    after, told = step(theta, start, data, arrays, 1, length, imitated=0.5)
    plain, losses = alone.unroll(
        theta, alone.init(theta, key, length), data, arrays, 1, length
    )
    # The gradient, from what the expert alone would do at its first rate.
    whole = dataclasses.replace(
        inner, imitation=dataclasses.replace(config, expert_share=1.0)
    )
    expert, _ = whole.unroll(theta, start, data, arrays, 1, length, imitated=1.0)

    def moves(state):
        return optax.tree.sub(state.params, start.params)

    share = 0.8 * 0.5
    want = jax.tree.map(
        lambda u, e: (1 - share) * u + share * e, moves(plain), moves(expert)
    )
    for a, b in zip(jax.tree.leaves(moves(after)), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    away = float(imitation.distance(moves(plain), moves(expert)))
    assert told.shape == (1, 2)
    assert float(told[0, 0]) == pytest.approx(float(losses[0]), rel=1e-6)
    weight = 0.6 * 0.5
    assert float(told[0, 1]) == pytest.approx(
        (1 - weight) * float(losses[0]) + weight * away, rel=1e-3
    )
    # With nothing left, the loss is what counts and the step is the rule's own.
    late, told = step(theta, start, data, arrays, 1, length, imitated=0.0)
    np.testing.assert_allclose(told[0, 0], told[0, 1], rtol=1e-6)
    for a, b in zip(
        jax.tree.leaves(late.params), jax.tree.leaves(plain.params), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_the_experts_rate_falls_by_a_cosine_over_the_run():
    config = imitation.ImitationConfig(
        expert="sgd", learning_rate=1.0, end_learning_rate=0.2
    )
    tx = config.make(None, jnp.int32(4))
    params = {"w": jnp.zeros(1)}
    state, steps = tx.init(params), []
    for _ in range(6):
        update, state = tx.update({"w": jnp.ones(1)}, state, params)
        steps.append(-float(update["w"][0]))
    want = [0.2 + 0.4 * (1 + np.cos(np.pi * min(i / 4, 1))) for i in range(6)]
    np.testing.assert_allclose(steps, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"expert": "adm"}, "hand-designed optimizer, got 'adm'; did you mean 'adam'"),
        ({"expert": "velo"}, "imitation.expert must be a hand-designed optimizer"),
        ({"weight": 2.0}, r"imitation.weight must lie in \[0, 1\], got 2.0"),
        ({"learning_rate": -1.0}, "imitation.learning_rate must be finite and >= 0"),
        ({"until_meta_step": 0}, "imitation.until_meta_step must be >= 1, got 0"),
    ],
)
def test_what_cannot_be_imitated_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        imitation.ImitationConfig(**config)
