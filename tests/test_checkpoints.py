import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
import tasks

RELEASED = sorted(
    p.parent.name
    for p in (pathlib.Path(__file__).parent.parent / "checkpoints").glob("*/card.json")
)


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
    task = tasks.get("mlp-w48-d2-digits", batch_size=64)
    tx = mulo.load(name).transform(mup=task.scalings())
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
