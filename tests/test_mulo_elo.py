import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import small_fc_oracle

import mulo
from mulo import mup

RULE = mulo.ELO(hidden_size=4, learning_rate=0.05)
THETA = RULE.init(jax.random.key(0))
SMALL_FC = mulo.SmallFC(hidden_size=4, step_mult=0.05)
OFFSETS = {
    "momentum_decays": jnp.zeros(3),
    "rms_decays": jnp.zeros(1),
    "adafactor_decays": jnp.zeros(3),
}
SHAPES = {"in": (3, 8), "w": (8, 8), "out": (8, 2), "b": (8,)}


def draw(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {
        k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()
    }


def test_elo_is_small_fc_with_the_initial_decays_and_a_learning_rate():
    rate = optax.linear_schedule(0.05, 0.01, 4)
    tx = RULE.transform(THETA, learning_rate=rate)
    params = draw(0)
    state, oracle = tx.init(params), small_fc_oracle.init(params)
    update = jax.jit(tx.update)
    for step in range(4):
        grads = jax.tree.map(lambda g, s=step: 10.0 ** (s - 2) * g, draw(step + 1))
        updates, state = update(grads, state, params)
        want, oracle = small_fc_oracle.update(
            SMALL_FC, {**THETA, **OFFSETS}, step, grads, oracle, params
        )
        for name in SHAPES:
            scaled = want[name] * rate(step) / 0.05
            scale = float(jnp.max(jnp.abs(scaled)))
            np.testing.assert_allclose(
                updates[name], scaled, rtol=2e-4, atol=2e-5 * scale, err_msg=name
            )
        params = optax.apply_updates(params, updates)


def test_under_mup_hidden_matrices_step_by_base_over_fan_in():
    narrow = draw(0, {"in": (3, 4), "w": (4, 4), "out": (4, 2), "b": (4,)})
    params, grads = draw(0), draw(1)
    scalings = mup.infer(narrow, params)
    rule = mulo.ELO(hidden_size=4, base_width=4.0)
    plain, scaled = rule.transform(THETA), rule.transform(THETA, mup=scalings)
    want, _ = jax.jit(plain.update)(grads, plain.init(params), params)
    got, _ = jax.jit(scaled.update)(grads, scaled.init(params), params)
    for name in params:
        factor = 0.5 if name == "w" else 1.0
        np.testing.assert_allclose(got[name], factor * want[name], rtol=1e-6)


def test_theta_is_the_network_alone_and_survives_a_file(tmp_path):
    theta = mulo.ELO().init(jax.random.key(0))
    assert list(theta) == ["nn"]
    assert sum(x.size for x in jax.tree.leaves(theta)) == 2402
    loaded = mulo.load(mulo.save(tmp_path / "theta", RULE, THETA))
    assert loaded.rule == RULE
    params, grads = draw(0), draw(1)
    direct, again = RULE.transform(THETA), loaded.transform()
    want, _ = jax.jit(direct.update)(grads, direct.init(params), params)
    got, _ = jax.jit(again.update)(grads, again.init(params), params)
    for name in params:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-9)


def test_a_theta_with_decays_belongs_to_small_fc():
    with pytest.raises(ValueError, match="theta has leaf 'adafactor_decays'"):
        RULE.transform({**THETA, **OFFSETS})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be finite and > 0, got -1.0"),
        ({"hidden_size": 0}, "hidden_size must be an integer >= 1, got 0"),
        ({"initial_rms_decays": [1.0]}, r"initial_rms_decays must lie in \[0, 1\)"),
    ],
)
def test_a_bad_architecture_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mulo.ELO(**arguments)
