import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mulo
from evaluate.optimizers import names, null_models

# Two hidden matrices under base width 1, with what surrounds them.
SMALL = {"in": (3, 1), "w": (1, 1), "b": (1,), "out": (1, 2)}
SIZES = {"in": (3, 16), "w": (16, 16), "b": (16,), "out": (16, 2)}


def tree(sizes, seed):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in sizes.items()}


PARAMS = tree(SIZES, 0)
SCALINGS = mulo.mup.infer(
    {k: jnp.zeros(s) for k, s in SMALL.items()},
    {k: jnp.zeros(s) for k, s in SIZES.items()},
)


def updates(transform, count=3):
    """Return the updates of some steps with other gradients each."""
    state, found = transform.init(PARAMS), []
    for seed in range(1, count + 1):
        update, state = transform.update(tree(SIZES, seed), state, PARAMS)
        found.append(update)
    return found


def rms(x):
    return float(jnp.sqrt(jnp.mean(jnp.square(x))))


@pytest.mark.parametrize("name", ["null_adam", "null_muon"])
def test_every_step_of_every_tensor_has_the_size_of_the_rate_and_its_multiplier(name):
    factors = {"in": 1.0, "b": 1.0, "out": 1.0, "w": 1 / 16}  # Adam's, by fan_in.
    if name == "null_muon":
        factors["w"] = 1 / 4
    transform = null_models.NULL_MODELS[name](0.03, mup=SCALINGS)
    for update in updates(transform):
        found = {key: rms(leaf) / 0.03 for key, leaf in update.items()}
        # Newton and Schulz's iteration brings singular values near one only.
        matrix, rel = found.pop("w"), 0.1 if name == "null_muon" else 1e-4
        assert matrix == pytest.approx(factors["w"], rel=rel)
        assert found == pytest.approx({key: factors[key] for key in found}, rel=1e-4)


def test_null_adams_second_step_is_adams_brought_to_root_mean_square_one():
    first, second = tree(SIZES, 1), tree(SIZES, 2)
    transform = null_models.null_adam(0.5)
    found = updates(transform, 2)[1]
    for key in SIZES:
        g1, g2 = np.asarray(first[key]), np.asarray(second[key])
        mean = (0.09 * g1 + 0.1 * g2) / (1 - 0.9**2)
        square = (0.0099 * g1**2 + 0.01 * g2**2) / (1 - 0.99**2)
        step = mean / np.sqrt(square)
        expected = -0.5 * step / np.sqrt(np.mean(step**2))
        np.testing.assert_allclose(found[key], expected, rtol=1e-3, atol=1e-5)


def test_a_tensor_without_gradient_stands_still():
    transform = null_models.null_adam(0.5)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    update, _ = transform.update(zeros, transform.init(PARAMS), PARAMS)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(update))


def test_null_muon_orthogonalizes_hidden_matrices_and_leaves_the_rest_to_adam():
    muon = updates(null_models.null_muon(0.5, mup=SCALINGS))[-1]
    adam = updates(null_models.null_adam(0.5, mup=SCALINGS))[-1]
    values = jnp.linalg.svd(muon["w"], compute_uv=False)
    assert float(values.max() / values.min()) < 2.0
    plain = jnp.linalg.svd(adam["w"], compute_uv=False)
    assert float(plain.max() / plain.min()) > 10.0
    for key in ("in", "b", "out"):
        np.testing.assert_allclose(muon[key], adam[key], rtol=1e-6)


def test_null_models_take_a_schedule():
    transform = null_models.null_adam(lambda count: jnp.where(count < 1, 0.5, 0.25))
    sizes = [rms(update["w"]) for update in updates(transform, 2)]
    assert sizes == pytest.approx([0.5, 0.25], rel=1e-4)


@pytest.mark.parametrize("name", ["null_adam", "null_muon"])
def test_null_models_have_one_rate(name):
    spec = names.get(name)
    assert spec.kind == "null"
    assert spec.grid == (null_models.LEARNING_RATES[name],)
    assert spec.schedule == "cosine"
    assert not spec.hyper
