"""flax training states and nnx, and the snippets of the page."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state
from helpers.interop_parts import DOCS, PARAMS, loss_reader, rule_of, snippets, theta_of

import mulo
from mulo import interop


def test_a_train_state_tells_the_optimizer_the_loss_and_stays_what_it_was():
    class WithStatistics(train_state.TrainState):
        batch_stats: dict

    tx = loss_reader(untold=1.0)
    state = WithStatistics.create(
        apply_fn=print, params=PARAMS, tx=tx, batch_stats={"mean": jnp.zeros(())}
    )

    @jax.jit
    def step(state, loss):
        stats = {"mean": loss}
        return interop.apply_gradients(
            state, grads=state.params, value=loss, batch_stats=stats
        )

    after = step(state, jnp.float32(0.25))
    assert isinstance(after, WithStatistics)
    assert after.tx is tx
    assert after.step == 1
    assert after.batch_stats["mean"] == 0.25
    np.testing.assert_array_equal(after.params["w"], 0.75 * PARAMS["w"])
    step(after, jnp.float32(0.5))
    assert step._cache_size() <= 2  # One for the integer step 0 that flax begins with.
    untold = interop.apply_gradients(state, grads=PARAMS)
    np.testing.assert_array_equal(untold.params["w"], 0.0 * PARAMS["w"])
    plain = train_state.TrainState.create(
        apply_fn=print, params=PARAMS, tx=optax.sgd(0.5)
    )
    after = interop.apply_gradients(plain, grads=PARAMS, value=1.0)
    np.testing.assert_array_equal(after.params["w"], 0.5 * PARAMS["w"])


def test_a_train_state_steps_a_learned_rule_that_needs_the_loss():
    rule = rule_of("lstm_ff")
    tx = rule.transform(theta_of(rule))
    state = train_state.TrainState.create(apply_fn=print, params=PARAMS, tx=tx)

    @jax.jit
    def both(params):
        told = interop.apply_gradients(state, grads=params, value=1.5)
        updates, _ = tx.update(params, tx.init(params), params, value=1.5)
        return told.params, optax.apply_updates(params, updates)

    got, want = both(PARAMS)
    assert np.any(got["w"] != PARAMS["w"])
    jax.tree.map(np.testing.assert_array_equal, got, want)
    with pytest.raises(ValueError, match="loss"):
        state.apply_gradients(grads=PARAMS)


@pytest.mark.parametrize("block", snippets(peer=False))
def test_a_snippet_of_the_page_runs_as_it_stands(block):
    exec(compile(block, str(DOCS), "exec"), {})


def test_the_page_has_a_snippet_for_each_flax_interface():
    text = "".join(snippets(peer=False))
    assert "interop.apply_gradients(" in text
    assert "nnx.Optimizer(" in text


def test_the_nnx_optimizer_steps_as_optax_does_under_mup():
    class Model(nnx.Module):
        def __init__(self, width):
            rngs = nnx.Rngs(0)
            self.first = nnx.Linear(3, width, rngs=rngs)
            self.hidden = nnx.Linear(width, width, rngs=rngs)

        def __call__(self, x):
            return self.hidden(jnp.tanh(self.first(x)))

    def shapes(width):
        return nnx.to_pure_dict(nnx.state(Model(width), nnx.Param))

    scalings = mulo.mup.infer(shapes(4), shapes(6))
    tx = optax.chain(optax.adam(0.1), loss_reader(), mulo.scale_by_mup(scalings))
    model = Model(6)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    params = shapes(6)
    opt_state = tx.init(params)

    def loss_fn(model):
        return jnp.mean(jnp.square(model(x) - 1.0))

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads, value=loss)
        return loss, grads

    update = jax.jit(tx.update)
    for _ in range(2):
        loss, grads = step(model, optimizer)
        updates, opt_state = update(
            nnx.to_pure_dict(nnx.state(grads, nnx.Param)), opt_state, params, value=loss
        )
        before, params = params, optax.apply_updates(params, updates)
    assert np.any(before["hidden"]["kernel"] != params["hidden"]["kernel"])
    got = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), got, params
    )
