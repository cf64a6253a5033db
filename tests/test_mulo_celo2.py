import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import full_compile

import mulo
from mulo import mup
from mulo._designed import newton_schulz
from mulo._learned import features

GOLDEN = pathlib.Path(__file__).parent / "golden"
GROUP = {name: f"w0__{i}" for i, name in enumerate(features.GROUPS)}


def golden(case):
    """Arrays of a golden trajectory, grouped by kind."""
    groups = {}
    with np.load(GOLDEN / f"{case}.npz") as arrays:
        for path in arrays:
            kind, _, leaf = path.partition("/")
            groups.setdefault(kind, {})[leaf] = jnp.asarray(arrays[path])
    return groups


@pytest.mark.parametrize(
    ("case", "orthogonalize"), [("celo2_base", False), ("celo2_orthogonal", True)]
)
def test_celo2_follows_the_public_implementation_in_every_leaf_and_step(
    case, orthogonalize
):
    arrays = golden(case)
    rule = mulo.Celo2(orthogonalize=orthogonalize)
    prefix = "ff_mod_stack/~/"
    stack = {k.removeprefix(prefix): v for k, v in arrays["theta"].items()}
    tx = rule.transform({"ff_mod_stack": stack}, learning_rate=1.0)
    params = arrays["params"]
    state, update = tx.init(params), full_compile.jit(tx.update)
    for step in range(12):
        grads = {name: g[step] for name, g in arrays["grads"].items()}
        updates, state = update(grads, state, params)
        for name in params:
            # Directions, to be subtracted; their root mean square is 1.
            want = arrays["step"][name][step]
            np.testing.assert_allclose(
                -updates[name], want, rtol=0, atol=1e-4, err_msg=f"{name} {step}"
            )


def passes_on(group, hidden_size=2):
    """A theta whose direction is the first feature of one group."""
    rule = mulo.Celo2(hidden_size=hidden_size, hidden_layers=1)
    theta = jax.tree.map(jnp.zeros_like, rule.init(jax.random.key(0)))
    stack = theta["ff_mod_stack"]
    first = stack[GROUP[group]]
    stack[GROUP[group]] = first.at[0, :2].set(jnp.asarray([1.0, -1.0]))
    stack["w1"] = stack["w1"].at[:2, 0].set(jnp.asarray([1.0, -1.0]))
    return theta


def quintic(s):
    """One iteration of Newton-Schulz on a singular value."""
    return 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5


def test_one_step_by_hand():
    # relu(x) - relu(-x) passes the normalized gradient through to the direction.
    theta = passes_on("gradient")
    params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
    grads = {"w": jnp.asarray([[3.0, 0.0], [0.0, -1.0]]), "b": jnp.asarray([2.0, -1.0])}

    base = mulo.Celo2(hidden_size=2, hidden_layers=1, orthogonalize=False)
    tx = base.transform(theta, learning_rate=0.5)
    updates, _ = tx.update(grads, tx.init(params), params)
    # Mean squares of the gradients: 10 / 4 and 5 / 2.
    np.testing.assert_allclose(
        updates["w"], -0.5 * np.diag([3.0, -1.0]) / math.sqrt(2.5), rtol=1e-5
    )
    np.testing.assert_allclose(
        updates["b"], -0.5 * np.asarray([2.0, -1.0]) / math.sqrt(2.5), rtol=1e-5
    )

    rule = mulo.Celo2(hidden_size=2, hidden_layers=1)
    tx = rule.transform(theta, learning_rate=0.5)
    updates, _ = tx.update(grads, tx.init(params), params)
    singular = np.asarray([3.0, 1.0]) / math.sqrt(10)  # Frobenius norm 1.
    for _ in range(5):
        singular = quintic(singular)
    singular /= math.sqrt(np.sum(singular**2) / 4)
    np.testing.assert_allclose(
        updates["w"], -0.5 * np.diag(singular * [1, -1]), rtol=1e-4, atol=1e-7
    )
    # Adam's first step is the gradient's sign; its learning rate is 20 times as large.
    np.testing.assert_allclose(updates["b"], [-10.0, 10.0], rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (3, 6, 6)])
def test_newton_schulz_keeps_singular_vectors_and_evens_out_singular_values(shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape)
    left, _, right = np.linalg.svd(x, full_matrices=False)
    got = np.asarray(newton_schulz.orthogonalize(jnp.asarray(x, jnp.float32)))
    inner = np.swapaxes(left, -2, -1) @ got @ np.swapaxes(right, -2, -1)
    singular = np.diagonal(inner, axis1=-2, axis2=-1)
    assert np.all((singular > 0.6) & (singular < 1.25))
    np.testing.assert_allclose(
        inner, singular[..., None] * np.eye(singular.shape[-1]), atol=2e-4
    )


RULES = {
    "base": mulo.Celo2(hidden_size=4, orthogonalize=False),
    "orthogonal": mulo.Celo2(hidden_size=4),
}


def problem(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {
        k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()
    }


def first_update(rule, theta, params, grads, **options):
    tx = rule.transform(theta, **options)
    return jax.jit(tx.update)(grads, tx.init(params), params)[0]


@pytest.mark.parametrize("name", list(RULES))
def test_every_matrix_moves_by_the_learning_rate_whatever_the_gradients_scale(name):
    rule = RULES[name]
    theta = rule.init(jax.random.key(0))
    params = problem({"w": (6, 9), "conv": (2, 3, 4, 5)})
    for scale in (1e-3, 1.0, 100.0):
        grads = jax.tree.map(lambda p, s=scale: s * jnp.cos(p), params)
        updates = first_update(rule, theta, params, grads, learning_rate=0.25)
        for update in updates.values():
            rms = np.sqrt(np.mean(np.square(update), axis=(-2, -1)))
            np.testing.assert_allclose(rms, 0.25, rtol=1e-4)


def test_many_vectors_are_stepped_as_if_alone():
    rule = RULES["base"]
    theta = rule.init(jax.random.key(0))
    params = problem({str(n): (n,) if n else () for n in range(40)} | {"w": (3, 4)})
    del params["2"]
    grads = jax.tree.map(lambda p: 3.0 * jnp.sin(p), params)
    together = first_update(rule, theta, params, grads)
    for name in ("0", "1", "17", "39"):
        alone = first_update(rule, theta, {name: params[name]}, {name: grads[name]})
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-5, atol=1e-9)


def test_mup_multiplies_hidden_matrices_by_what_their_singular_values_need():
    narrow = problem({"in": (3, 8), "wide": (8, 32), "out": (8, 2), "b": (8,)})
    params = problem({"in": (3, 16), "wide": (16, 64), "out": (16, 2), "b": (16,)})
    grads = jax.tree.map(jnp.sin, params)
    scalings = mup.infer(narrow, params)
    hidden = {
        "base": 8 / 16,
        # fan_in doubles and fan_out is 4 times as large: √4 / √(64 / 8).
        "orthogonal": math.sqrt(4) / math.sqrt(8),
    }
    for name, rule in RULES.items():
        rule = type(rule)(
            hidden_size=4, orthogonalize=rule.orthogonalize, base_width=8.0
        )
        theta = rule.init(jax.random.key(0))
        chosen = {"in": False, "wide": True, "out": False, "b": False}
        plain = first_update(rule, theta, params, grads, matrices=chosen)
        scaled = first_update(rule, theta, params, grads, mup=scalings)
        for leaf in params:
            factor = hidden[name] if leaf == "wide" else 1.0
            np.testing.assert_allclose(scaled[leaf], factor * plain[leaf], rtol=1e-5)


def test_under_mup_a_weight_of_several_axes_is_orthogonalized_as_fan_in_by_fan_out():
    # A query projection (width, heads, head size); the learned direction does not mix
    # axes here, so both shapes have the same one.
    rule = mulo.Celo2(hidden_size=2, hidden_layers=1)
    theta = passes_on("gradient")
    params = problem({"q": (8, 2, 4)})
    grads = problem({"q": (8, 2, 4)}, seed=1)
    # Its features are normalized over the last two axes: make them all alike.
    rms = jnp.sqrt(jnp.mean(jnp.square(grads["q"]), (1, 2), keepdims=True))
    grads = {"q": grads["q"] / rms}
    scalings = mup.infer({"q": jnp.zeros((4, 2, 2))}, params)
    got = first_update(rule, theta, params, grads, mup=scalings)["q"]
    flat = {"q": grads["q"].reshape(8, 8)}
    want = first_update(rule, theta, {"q": params["q"].reshape(8, 8)}, flat)["q"]
    factor = mup.update_multipliers(scalings, optimizer="muon_rms", base_width=1.0)
    np.testing.assert_allclose(
        got.reshape(8, 8), factor["q"] * want, rtol=1e-3, atol=1e-6
    )


def test_which_leaves_are_matrices_can_be_said():
    rule = RULES["orthogonal"]
    theta = rule.init(jax.random.key(0))
    params = problem({"embedding": (5, 6), "w": (6, 6)})
    grads = jax.tree.map(jnp.sin, params)

    def chosen(params):
        return {name: name != "embedding" for name in params}

    updates = first_update(
        rule, theta, params, grads, matrices=chosen, learning_rate=1.0
    )
    adam = optax.adam(20.0, 0.9, 0.95)
    want, _ = adam.update(grads, adam.init(params), params)
    np.testing.assert_allclose(updates["embedding"], want["embedding"], rtol=1e-5)
    assert np.all(np.abs(updates["w"]) < 10)


def test_initial_theta_has_the_published_size_and_names():
    theta = mulo.Celo2().init(jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(theta)) == 347
    with np.load(GOLDEN / "celo2_base.npz") as arrays:
        public = {
            path.removeprefix("theta/ff_mod_stack/~/"): arrays[path].shape
            for path in arrays
            if path.startswith("theta/")
        }
    assert {k: v.shape for k, v in theta["ff_mod_stack"].items()} == public


def test_theta_may_be_vmapped_over():
    rule = RULES["orthogonal"]
    thetas = jax.vmap(rule.init)(jax.random.split(jax.random.key(0), 3))
    params = problem({"w": (4, 5), "b": (5,)})

    def step(theta):
        return first_update(rule, theta, params, params)

    together = jax.vmap(step)(thetas)
    for i in range(3):
        alone = step(jax.tree.map(lambda x, i=i: x[i], thetas))
        for name in params:
            np.testing.assert_allclose(
                together[name][i], alone[name], rtol=1e-4, atol=1e-8
            )


def test_a_pretrained_celo2_takes_the_users_rate_schedule_and_weight_decay(tmp_path):
    rule = mulo.Celo2(hidden_size=4, learning_rate=0.01)
    theta = rule.init(jax.random.key(0))
    loaded = mulo.load(mulo.save(tmp_path / "theta", rule, theta))
    assert loaded.rule == rule
    params = problem({"w": (4, 5), "b": (5,)})
    plain = first_update(rule, loaded.theta, params, params)

    def update(**options):
        tx = loaded.transform(**options)
        return tx.update(params, tx.init(params), params)[0]

    same, other = update(), update(learning_rate=0.1)
    decayed = update(learning_rate=optax.constant_schedule(0.1), weight_decay=0.5)
    for name, p in params.items():
        np.testing.assert_allclose(same[name], plain[name], rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(other[name], 10 * plain[name], rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(
            decayed[name], other[name] - 0.05 * p, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be an integer >= 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and > 0"),
        ({"adam_b2": 1.0}, r"adam_b2 must lie in \[0, 1\), got 1.0"),
        ({"initial_rms_decays": (0.9, 0.99)}, "initial_rms_decays must be one"),
        ({"initial_adafactor_decays": (0.9,)}, "as many as initial_momentum_decays"),
    ],
)
def test_a_bad_architecture_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mulo.Celo2(**arguments)


def test_a_theta_of_another_size_and_a_missing_tree_of_parameters_are_refused():
    theta = mulo.Celo2(hidden_size=4).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"'ff_mod_stack/b0' must have shape \(8,\)"):
        mulo.Celo2().transform(theta)
    tx = mulo.Celo2(hidden_size=4).transform(theta)
    params = {"w": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="Celo2 reads the parameters"):
        tx.update(params, tx.init(params))
