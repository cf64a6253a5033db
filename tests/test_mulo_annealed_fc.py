"""AnnealedFC against SmallFC at the progress it should see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mulo

SIZES = {
    "hidden_size": 4,
    "hidden_layers": 1,
    "step_mult": 0.1,
    "initial_momentum_decays": (0.9,),
    "initial_adafactor_decays": (0.9,),
}
PLAIN, RULE = mulo.SmallFC(**SIZES), mulo.AnnealedFC(**SIZES)
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)}
GRADS = {"w": jnp.linspace(0.5, -0.3, 6).reshape(2, 3)}


@pytest.fixture(scope="module")
def theta():
    return PLAIN.init(jax.random.key(0))


def at(tx, count):
    """The first step on GRADS of a state that has done ``count`` updates."""
    state = tx.init(PARAMS)._replace(count=jnp.asarray(count, jnp.int32))
    return jax.jit(tx.update)(GRADS, state, PARAMS)


@pytest.mark.parametrize(
    ("num_steps", "count", "plain_count", "scale"),
    [
        (1_000, 0, 0, 1 / 20 * (1 - 0.99 / 1_000)),  # Warming up, 1 of 20 steps.
        (1_000, 499, 499, 1 - 0.99 / 2),
        (10_000, 4_990, 499, 1 - 0.99 * 0.4991),  # The same progress.
        (100, 50, 500, 1 - 0.99 * 0.51),
        (100, 100, 1_000, 0.01),
        (100, 250, 1_000, 0.01),  # Beyond the end all stays as it is there.
    ],
)
def test_a_step_is_small_fcs_at_that_progress_annealed(
    theta, num_steps, count, plain_count, scale
):
    updates, state = at(RULE.transform(theta, num_steps=num_steps), count)
    expected, _ = at(PLAIN.transform(theta), plain_count)
    np.testing.assert_allclose(updates["w"], scale * expected["w"], rtol=2e-4)
    assert int(state.count) == count + 1


def test_it_keeps_small_fcs_layout_in_files(theta, tmp_path):
    mulo.save(tmp_path / "theta", RULE, theta)
    loaded = mulo.load(tmp_path / "theta")
    assert loaded.rule == RULE
    jax.tree.map(np.testing.assert_array_equal, loaded.theta, theta)
    params = {"w": jnp.ones((2, 3))}
    with pytest.raises(ValueError, match="AnnealedFC must know how long the run is"):
        loaded.transform()
    assert loaded.transform(num_steps=10).init(params)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="warmup_frac must lie in"):
        mulo.AnnealedFC(warmup_frac=1.0)
    with pytest.raises(ValueError, match="final_frac must be finite and > 0"):
        mulo.AnnealedFC(final_frac=0.0)
