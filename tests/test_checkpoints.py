import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import full_compile

import mulo
import tasks

RELEASED = sorted(
    p.parent.name
    for p in (pathlib.Path(__file__).parent.parent / "checkpoints").glob("*/card.json")
)

GOLDEN = pathlib.Path(__file__).parent / "golden"


def test_something_is_released():
    assert RELEASED


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_theta_loads_by_name_with_its_provenance(name):
    pretrained = mulo.load(name)
    assert pretrained.card["license"] == "Apache-2.0"
    assert len(pretrained.card["git_commit"]) == 40
    assert pretrained.card["base_width"] == pretrained.rule.base_width
    for key in ("meta_training", "data", "hardware", "hours", "command"):
        assert pretrained.card[key]


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_theta_trains_a_network_it_has_never_seen(name):
    pretrained = mulo.load(name)
    sp = pretrained.card["parametrization"] == "standard"
    task = tasks.get(("sp-" if sp else "") + "mlp-w48-d2-digits", batch_size=64)
    tx = pretrained.transform(mup=task.scalings(), num_steps=150)
    arrays = task.dataset.arrays("train")
    params = task.init(jax.random.key(0))

    @jax.jit
    def train(params, arrays):
        def step(carry, i):
            params, state = carry
            batch = task.sample(arrays, jax.random.fold_in(jax.random.key(1), i))
            loss, grads = jax.value_and_grad(task.loss)(
                params, jax.random.key(2), batch
            )
            updates, state = tx.update(grads, state, params, value=loss)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(150))[1]

    losses = np.asarray(train(params, dict(arrays)))
    assert losses[0] == pytest.approx(np.log(10), abs=0.1)
    assert losses[-20:].mean() < 0.5


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_theta_makes_the_steps_it_was_released_with(name):
    golden = np.load(GOLDEN / "released_steps.npz")
    for key, got in released_steps(name).items():
        want = golden[f"{name}/{key}"]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7 * abs(want).max())


def test_a_theta_of_the_standard_parametrization_warns_of_a_mup_tree():
    with pytest.warns(UserWarning, match="meta-trained in the standard param"):
        mulo.load("lo-fc").transform(
            mup={"w": mulo.mup.Scaling("hidden", 8, 8)}, num_steps=10
        )


def released_steps(name):
    """Updates of three steps of a run of ten on gradients that a formula gives."""
    shapes = {"first": (3, 8), "hidden": (8, 8), "bias": (8,), "readout": (8, 2)}
    scalings = {
        "first": mulo.mup.Scaling("input", 3, 8),
        "hidden": mulo.mup.Scaling("hidden", 8, 8),
        "bias": mulo.mup.Scaling("input", 1, 8),
        "readout": mulo.mup.Scaling("output", 8, 2),
    }

    def wave(shape, phase):
        size = int(np.prod(shape))
        return jnp.asarray(np.sin(np.arange(size) * 1.7 + phase), jnp.float32).reshape(
            shape
        )

    params = {k: wave(s, 1.0) for k, s in shapes.items()}
    pretrained = mulo.load(name)
    sp = pretrained.card["parametrization"] == "standard"
    tx = pretrained.transform(mup=None if sp else scalings, num_steps=10)
    state = tx.init(params)
    update = full_compile.jit(tx.update)
    steps = {}
    for i in range(3):
        grads = {k: 0.1 * wave(s, 2.0 + i) for k, s in shapes.items()}
        updates, state = update(grads, state, params, value=jnp.float32(2.0))
        params = optax.apply_updates(params, updates)
        steps |= {f"{i}/{k}": np.asarray(u) for k, u in updates.items()}
    return steps


if __name__ == "__main__":  # After a release, on purpose only.
    np.savez_compressed(
        GOLDEN / "released_steps.npz",
        **{
            f"{name}/{key}": step
            for name in RELEASED
            for key, step in released_steps(name).items()
        },
    )
