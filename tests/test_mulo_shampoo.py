import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import full_compile
from helpers.goldens import golden

import mulo
from mulo import mup

GOLDEN = pathlib.Path(__file__).parent / "golden"
# The public implementation does not correct the averages' start at zero.
COMMON = {"correct_bias": False, "b2": 0.99, "precondition_frequency": 1}
CASES = {
    "shampoo_rmsprop": {"block_size": 16},
    "shampoo_blocks_every3": {
        "block_size": 4,
        "precondition_frequency": 3,
        "grafting": "sgd",
        "nesterov": False,
    },
    "shampoo_sums_no_graft": {
        "block_size": 16,
        "grafting": "none",
        "b2": 1.0,
        "exponent": 1.0,  # Two inverse square roots.
        "average_momentum": False,
    },
    "shampoo_adagrad_merge_decay": {
        "block_size": 8,
        "merge_dims": True,
        "grafting": "adagrad",
        "weight_decay": 0.1,
    },
}


def with_initial_statistics(state, eps):
    """The public code starts its averages at eps times the identity, ours at zero."""
    return state._replace(
        groups={
            name: group._replace(
                regions=tuple(
                    region._replace(
                        statistics=tuple(
                            None
                            if s is None
                            else s + eps * jnp.eye(s.shape[-1])[None, None]
                            for s in region.statistics
                        )
                    )
                    for region in group.regions
                )
            )
            for name, group in state.groups.items()
        }
    )


@pytest.mark.parametrize("case", CASES)
def test_shampoo_follows_the_public_implementation_in_float64(case):
    arrays, info = golden(case)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, arrays["params"])
        tx = mulo.shampoo(info["lr"], **(COMMON | CASES[case]))
        state: Any = tx.init(params)
        state = (with_initial_statistics(state[0], info["matrix_epsilon"]), *state[1:])
        update = full_compile.jit(tx.update)
        for step in range(info["steps"]):
            grads = {name: jnp.asarray(g[step]) for name, g in arrays["grads"].items()}
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
            for name, p in params.items():
                error = np.abs(np.asarray(p) - arrays["out"][name][step]).max()
                assert error < 1e-9, (name, step, error)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def run(tx, params, grads):
    """Every step's updates and the last state, for gradients stacked along axis 0."""

    def step(state, g):
        updates, state = tx.update(g, state, params)
        return state, updates

    grads, params = jax.tree.map(jnp.asarray, (grads, params))
    state, updates = jax.jit(lambda: jax.lax.scan(step, tx.init(params), grads))()
    return updates, state


def like(grads):
    return jax.tree.map(lambda g: jnp.zeros(g.shape[1:], g.dtype), grads)


PLAIN = {"grafting": "none", "b1": 0.0, "b2": 1.0, "precondition_frequency": 1}


def test_two_steps_computed_by_hand():
    # Sums of outer products, quarter powers. Step 1: L = diag(25, 0) and R has the one
    # direction (3, 4)/5 with 25, so G₁ / (25^¼ 25^¼) = G₁ / 5. Step 2: L = diag(50, 0),
    # R = 25 I, so G₂ / (50^¼ 25^¼).
    grads = jnp.array([[[3.0, 4.0], [0.0, 0.0]], [[4.0, -3.0], [0.0, 0.0]]])
    tx = mulo.scale_by_shampoo(**PLAIN, nesterov=False)
    updates, _ = run(tx, jnp.zeros((2, 2)), grads)
    np.testing.assert_allclose(updates[0], grads[0] / 5.0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        updates[1], grads[1] / 1250.0**0.25, rtol=1e-5, atol=1e-5
    )


def test_half_powers_are_adafactor_in_shampoos_eigenbasis():
    # Claim 1 of the SOAP paper: with row sums A and column sums C of the averaged
    # squares in the eigenbasis, Adafactor divides by sqrt(A Cᵀ / sum(A)), and Shampoo
    # with two inverse square roots does the same but for sqrt(sum(A)).
    b2 = 0.9
    grads = normal(12, 4, 5)
    tx = mulo.scale_by_shampoo(
        **(PLAIN | {"b2": b2}),
        exponent=1.0,
        matrix_eps=1e-14,
        nesterov=False,
        correct_bias=False,
    )
    with jax.enable_x64(True):
        updates, state = run(tx, jnp.zeros((4, 5)), grads)
    bases = [
        np.linalg.eigh(np.asarray(s[0, 0]))[1]
        for s in state.groups["4x5:float64"].regions[0].statistics
    ]
    rotated = bases[0].T @ grads @ bases[1]
    weights = (1.0 - b2) * b2 ** np.arange(11, -1, -1)
    squares = np.einsum("t,tij->ij", weights, rotated**2)
    rows, columns = squares.sum(1), squares.sum(0)
    step = rotated[-1] / np.sqrt(np.outer(rows, columns) / rows.sum())
    adafactor = bases[0] @ step @ bases[1].T
    np.testing.assert_allclose(
        np.asarray(updates[-1]) * np.sqrt(rows.sum()), adafactor, rtol=1e-6
    )


def test_quarter_powers_do_not_see_the_scale_of_the_gradients():
    grads = normal(5, 4, 3)
    options = PLAIN | {"b2": 0.9}
    with jax.enable_x64(True):
        tx = mulo.scale_by_shampoo(**options)
        small, _ = run(tx, jnp.zeros((4, 3)), grads)
        large, _ = run(tx, jnp.zeros((4, 3)), 1e4 * grads)
    np.testing.assert_allclose(small, large, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("grafting", "other"),
    [
        ("sgd", lambda g: g[-1]),
        ("sign", lambda g: np.sign(g[-1])),
        ("adagrad", lambda g: g[-1] / np.sqrt((g**2).sum(0))),
        (
            "rmsprop",
            lambda g: (
                g[-1]
                / np.sqrt(
                    np.einsum("t,t...->...", 0.9 ** np.arange(3, -1, -1), g**2)
                    * (0.1 / (1 - 0.9**4))
                )
            ),
        ),
    ],
)
def test_grafting_takes_the_norm_of_the_other_rule_and_shampoos_direction(
    grafting, other
):
    grads = {"w": normal(4, 4, 3), "s": normal(4)}
    options = PLAIN | {"b2": 0.9, "nesterov": False, "block_size": 3}
    with jax.enable_x64(True):
        own, _ = run(mulo.scale_by_shampoo(**options), like(grads), grads)
        tx = mulo.scale_by_shampoo(**(options | {"grafting": grafting}))
        grafted, _ = run(tx, like(grads), grads)
    w, plain = np.asarray(grafted["w"][-1]), np.asarray(own["w"][-1])
    want = other(grads["w"])
    np.testing.assert_allclose(
        w, plain * np.linalg.norm(want) / np.linalg.norm(plain), rtol=1e-7
    )
    # A scalar has nothing to precondition and takes the other rule's step itself.
    np.testing.assert_allclose(grafted["s"][-1], other(grads["s"]), rtol=1e-7)


def test_blocks_are_preconditioned_like_leaves_of_their_own():
    grads = normal(4, 5, 4)
    cut = {f"{i}{j}": grads[:, i : i + 2, j : j + 2] for i in (0, 2, 4) for j in (0, 2)}
    with jax.enable_x64(True):
        whole, _ = run(
            mulo.scale_by_shampoo(**PLAIN, block_size=2), jnp.zeros((5, 4)), grads
        )
        parts, _ = run(mulo.scale_by_shampoo(**PLAIN), like(cut), cut)
    for name, part in parts.items():
        i, j = map(int, name)
        np.testing.assert_allclose(
            whole[:, i : i + 2, j : j + 2], part, rtol=1e-7, atol=1e-10
        )


def test_both_ways_to_the_roots_lead_to_the_same_steps():
    grads = {"w": np.float32(normal(4, 6, 5)), "k": np.float32(normal(4, 2, 3, 4))}
    options = {"grafting": "none", "matrix_eps": 1e-3, "precondition_frequency": 1}
    by_eigh, _ = run(mulo.scale_by_shampoo(**options), like(grads), grads)
    by_newton, _ = run(
        mulo.scale_by_shampoo(**options, root="newton"), like(grads), grads
    )
    for name in grads:
        # Newton's ridge rests on an estimate of the largest eigenvalue, see its tests.
        np.testing.assert_allclose(by_newton[name], by_eigh[name], atol=2e-3)


def test_roots_are_renewed_every_so_many_steps_only():
    tx = mulo.scale_by_shampoo(precondition_frequency=3)
    params = {"w": jnp.zeros((3, 3))}
    state = tx.init(params)
    update = jax.jit(tx.update)
    changed = []
    for grad in normal(7, 3, 3).astype(np.float32):
        before = state.groups["3x3"].regions[0].roots[0]
        _, state = update({"w": jnp.asarray(grad)}, state, params)
        changed.append(bool(jnp.any(before != state.groups["3x3"].regions[0].roots[0])))
    assert changed == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("when", [0, 2])
def test_a_gradient_that_is_not_usable_counts_as_none_for_its_leaf_alone(bad, when):
    tx = mulo.scale_by_shampoo(precondition_frequency=1)
    grads = {k: np.float32(normal(5, 4, 3, seed=i)) for i, k in enumerate("abc")}
    broken = {k: g.copy() for k, g in grads.items()}
    broken["b"][when, 1, 1] = bad
    got, _ = run(tx, like(grads), broken)
    clean, _ = run(tx, like(grads), grads)
    np.testing.assert_array_equal(got["b"][when], 0.0)
    rest = {"b": np.delete(grads["b"], when, axis=0)}
    without, _ = run(tx, like(rest), rest)
    np.testing.assert_allclose(
        np.delete(got["b"], when, axis=0), without["b"], rtol=1e-4, atol=1e-5
    )
    for name in ("a", "c"):
        np.testing.assert_array_equal(got[name], clean[name])


NARROW = {"w": (4, 4), "in": (3, 4), "out": (4, 2), "b": (4,), "s": ()}
WIDE = {"w": (8, 8), "in": (3, 8), "out": (8, 2), "b": (8,), "s": ()}


def scalings():
    trees = [
        {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}
        for shapes in (NARROW, WIDE)
    ]
    return mup.infer(*trees)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({}, {"optimizer": "adam"}),
        ({"grafting": "sgd"}, {"optimizer": "sgd"}),
        (
            {"grafting": "none", "block_size": 4, "exponent": 1.0},
            {"optimizer": "shampoo", "block_size": 4, "shampoo_exponent": 1.0},
        ),
    ],
)
def test_mup_follows_the_rule_of_whose_norm_a_step_has(given, rule):
    grads = {k: np.float32(normal(2, *s)) for k, s in WIDE.items()}
    plain, _ = run(mulo.shampoo(0.1, **given), like(grads), grads)
    mu, _ = run(
        mulo.shampoo(0.1, mup=scalings(), base_width=2, **given), like(grads), grads
    )
    factors = mup.update_multipliers(scalings(), base_width=2, **rule)
    for name in WIDE:
        np.testing.assert_allclose(mu[name], factors[name] * plain[name], rtol=1e-5)
        assert np.any(plain[name] != 0)


@pytest.mark.parametrize(("rule", "factor"), [("independent", 1.0), ("coupled", 0.25)])
def test_weight_decay_follows_its_mup_rule_and_mask(rule, factor):
    params = {k: jnp.ones(s) for k, s in WIDE.items()}
    grads = {k: np.zeros((1, *s), np.float32) for k, s in WIDE.items()}
    tx = mulo.shampoo(
        0.1,
        mup=scalings(),
        base_width=2,
        weight_decay=0.5,
        weight_decay_rule=rule,
        mask={k: k != "b" for k in WIDE},
    )
    updates, _ = run(tx, params, grads)
    np.testing.assert_allclose(updates["w"], -0.05 * factor, rtol=1e-6)
    np.testing.assert_allclose(updates["in"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], 0.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grafting": "adam"}, "grafting must be one of none, .*got 'adam'"),
        ({"root": "svd"}, "root must be one of eigh, newton; got 'svd'"),
        ({"exponent": 0.0}, r"exponent must lie in \(0, 1\], got 0.0"),
        ({"exponent": "1/2"}, r"exponent must lie in \(0, 1\], got '1/2'"),
        ({"b2": None}, r"b2 must lie in \[0, 1\], 1 for sums; got None"),
        ({"b2": 1.1}, r"b2 must lie in \[0, 1\], 1 for sums; got 1.1"),
        ({"precondition_frequency": 0}, "precondition_frequency.*got 0"),
        ({"block_size": 0}, "block_size must be an integer >= 1.*got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        mulo.shampoo(0.1, **given)


def test_leaves_and_states_that_do_not_fit_are_refused():
    tx = mulo.shampoo(0.1)
    params = {"w": jnp.ones((4, 3))}
    with pytest.raises(ValueError, match="leaf 'n' is int32"):
        tx.init(params | {"n": jnp.ones(2, jnp.int32)})
    other = {"w": jnp.ones((3, 4))}
    with pytest.raises(ValueError, match=r"other parameters.*1 × 4x3.*1 × 3x4"):
        tx.update(other, tx.init(params), other)


def test_an_empty_tree_and_empty_leaves_are_fine():
    tx = mulo.shampoo(0.1)
    assert tx.update({}, tx.init({}), {})[0] == {}
    params = {"e": jnp.ones((0, 3)), "w": jnp.ones((2, 2))}
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["e"].shape == (0, 3)
