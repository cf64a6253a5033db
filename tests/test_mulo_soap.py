import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import full_compile
from helpers.goldens import golden

import mulo
from mulo import mup
from mulo._designed import blocks
from mulo._designed import soap as soap_lib

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = {
    "soap_default": {},
    "soap_frequency1": {"precondition_frequency": 1},
    "soap_merge_dims": {"merge_dims": True, "max_precondition_dim": 64},
    "soap_normalize_grads": {"normalize_grads": True, "weight_decay": 0.0},
    "soap_one_sided": {"max_precondition_dim": 16},
    "soap_precondition_1d": {"precondition_1d": True},
    "soap_shampoo_beta": {"shampoo_beta": 0.9, "b1": 0.9, "b2": 0.99},
}


def with_bases(state, params, options, bases):
    """The state with these eigenbases, by "leaf/axis", put in place of its own."""
    names = sorted(params)  # As jax orders a dictionary.
    used = set()
    groups = dict(state.groups)
    for group in blocks.layout([params[n] for n in names], options):
        region = groups[group.name].regions[0]
        for row, i in enumerate(group.leaves):
            new = list(region.bases)
            for axis, basis in enumerate(new):
                key = f"{names[i]}/{axis}"
                if basis is not None:
                    new[axis] = basis.at[row, 0].set(bases[key])
                    used.add(key)
            region = region._replace(bases=tuple(new))
        groups[group.name] = groups[group.name]._replace(regions=(region,))
    assert used == set(bases)  # The same axes have a basis in the public code.
    return state._replace(groups=groups)


@pytest.mark.parametrize("case", CASES)
def test_soap_follows_the_public_implementation_in_float64(case):
    arrays, info = golden(case)
    options = blocks.Options(
        max_precondition_dim=CASES[case].get("max_precondition_dim", 10_000),
        merge_dims=CASES[case].get("merge_dims", False),
        precondition_1d=CASES[case].get("precondition_1d", False),
    )
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, arrays["params"])
        tx = mulo.soap(info["lr"], **CASES[case])
        state = tx.init(params)
        update = full_compile.jit(tx.update)
        for step in range(info["steps"]):
            grads = {name: jnp.asarray(g[step]) for name, g in arrays["grads"].items()}
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
            if step == 0:
                soap_state = with_bases(state[0], params, options, arrays["basis0"])
                state = (soap_state, *state[1:])
            for name, p in params.items():
                error = np.abs(np.asarray(p) - arrays["out"][name][step]).max()
                assert error < 1e-9, (name, step, error)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def run(tx, params, grads):
    """Every step's updates, stacked, for gradients stacked along axis 0."""

    def step(state, g):
        updates, state = tx.update(g, state, params)
        return state, updates

    grads, params = jax.tree.map(jnp.asarray, (grads, params))
    return jax.jit(lambda: jax.lax.scan(step, tx.init(params), grads)[1])()


def like(grads):
    return jax.tree.map(lambda g: jnp.zeros(g.shape[1:], g.dtype), grads)


def test_a_step_computed_by_hand():
    # G₁ = 1 1ᵀ has L = R = 0.05·2·(1 1ᵀ), so both bases are u = (1, 1)/√2 and
    # v = (1, -1)/√2 (either sign). G₂ = 2 e₁ e₁ᵀ is [[1, 1], [1, 1]] there, so Adam's
    # first step is 1 in every entry, and rotated back that is G₂ itself: Adam alone
    # would have made e₁ e₁ᵀ of it.
    grads = jnp.array([[[1.0, 1.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]])
    params = jnp.ones((2, 2))
    updates = run(mulo.soap(0.1, weight_decay=0.5), params, grads)
    np.testing.assert_array_equal(updates[0], 0.0)
    # p - 0.1 G₂ = [[0.8, 1], [1, 1]] then loses 0.1 · 0.5 of itself.
    want = [[-0.2 - 0.04, -0.05], [-0.05, -0.05]]
    np.testing.assert_allclose(updates[1], want, atol=1e-6)


def refreshed_before(grads, b1, b2, beta, eps):
    """Steps of refresh="before" in plain numpy: L, R, QR of L Q, then Adam."""
    steps, sides, bases = [], [0.0, 0.0], [None, None]
    mean, square = np.zeros_like(grads[0]), np.zeros_like(grads[0])
    for t, g in enumerate(grads, start=1):
        for i, outer in enumerate((g @ g.T, g.T @ g)):
            sides[i] = beta * sides[i] + (1 - beta) * outer
            if t == 1:
                bases[i] = np.linalg.eigh(sides[i])[1]
                continue
            order = np.argsort(-np.diag(bases[i].T @ sides[i] @ bases[i]))
            square = np.take(square, order, axis=i)
            bases[i] = np.linalg.qr(sides[i] @ bases[i][:, order])[0]
        left, right = bases
        mean = b1 * mean + (1 - b1) * g
        square = b2 * square + (1 - b2) * (left.T @ g @ right) ** 2
        step = left @ ((left.T @ mean @ right) / (np.sqrt(square) + eps)) @ right.T
        steps.append(step * np.sqrt(1 - b2**t) / (1 - b1**t))
    return np.stack(steps)


def test_refreshed_before_a_step_its_gradient_is_in_the_bases():
    grads = normal(6, 4, 3)
    with jax.enable_x64(True):
        tx = mulo.scale_by_soap(refresh="before", b1=0.8, b2=0.9, shampoo_beta=0.7)
        got = run(tx, jnp.zeros((4, 3)), grads)
        late = run(tx, jnp.zeros((4, 3)), np.concatenate([0 * grads[:2], grads]))
    want = refreshed_before(grads, 0.8, 0.9, 0.7, 1e-8)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    # By definition: Adam's first step in its own basis has singular values of one.
    u, _, vt = np.linalg.svd(grads[0], full_matrices=False)
    np.testing.assert_allclose(got[0], u @ vt, rtol=0, atol=1e-6)
    # Gradients of zero in front are as if they had not been.
    np.testing.assert_array_equal(late[:2], 0.0)
    np.testing.assert_allclose(late[2], want[0], rtol=0, atol=1e-6)


def test_an_unknown_refresh_is_named():
    with pytest.raises(ValueError, match='"after" or "before", got \'never\''):
        mulo.soap(0.1, refresh="never")


def test_without_a_basis_soap_is_adam_from_the_second_gradient_on():
    grads = {"w": normal(6, 3, 4), "b": normal(6, 4, seed=1), "s": normal(6, seed=2)}
    grads = jax.tree.map(np.float32, grads)
    soap = mulo.scale_by_soap(max_precondition_dim=1, b1=0.8, b2=0.9)
    adam = optax.scale_by_adam(b1=0.8, b2=0.9)
    got = run(soap, like(grads), grads)
    # SOAP adds eps before the correction, Adam after; both are far below the squares.
    want = run(adam, like(grads), jax.tree.map(lambda g: g[1:], grads))
    for name in grads:
        np.testing.assert_array_equal(got[name][0], 0.0)
        np.testing.assert_allclose(got[name][1:], want[name], rtol=1e-5)


def test_rotating_both_sides_of_the_gradients_rotates_the_steps():
    u, v = (np.linalg.qr(normal(5, 5, seed=seed))[0] for seed in (1, 2))
    grads = normal(8, 5, 5)
    with jax.enable_x64(True):
        tx = mulo.scale_by_soap(precondition_frequency=2)
        plain = run(tx, jnp.zeros((5, 5)), grads)
        rotated = run(tx, jnp.zeros((5, 5)), u @ grads @ v.T)
        np.testing.assert_allclose(rotated, u @ plain @ v.T, rtol=0, atol=1e-7)


def test_the_basis_diagonalizes_what_the_gradients_share():
    # Gradients with fixed singular directions and random sizes: the eigenbasis must be
    # those directions, and Adam on them keeps each step inside their span.
    u, v = (np.linalg.qr(normal(4, 4, seed=seed))[0] for seed in (1, 2))
    sizes = normal(30, 4, seed=3) * np.array([8.0, 4.0, 2.0, 1.0])
    grads = np.einsum("ik,tk,jk->tij", u, sizes, v)
    with jax.enable_x64(True):
        updates = run(
            mulo.scale_by_soap(precondition_frequency=3), jnp.zeros((4, 4)), grads
        )
    inside = u.T @ np.asarray(updates[-1]) @ v
    off = inside - np.diag(np.diag(inside))
    assert np.abs(off).max() < 1e-6 < 1e-2 < np.abs(np.diag(inside)).min()


def test_blocks_are_optimized_like_leaves_of_their_own():
    grads = normal(7, 5, 4)
    cut = {f"{i}{j}": grads[:, i : i + 2, j : j + 2] for i in (0, 2, 4) for j in (0, 2)}
    with jax.enable_x64(True):
        options = {"precondition_frequency": 2}
        whole = run(
            mulo.scale_by_soap(block_size=2, **options), jnp.zeros((5, 4)), grads
        )
        parts = run(mulo.scale_by_soap(**options), like(cut), cut)
    for name, part in parts.items():
        i, j = map(int, name)
        np.testing.assert_allclose(
            whole[:, i : i + 2, j : j + 2], part, rtol=0, atol=1e-9
        )


def test_one_sided_leaves_out_the_larger_axis():
    grads = normal(6, 12, 3)
    with jax.enable_x64(True):
        tx = mulo.scale_by_soap
        by_option = run(tx(one_sided=True), jnp.zeros((12, 3)), grads)
        by_limit = run(tx(max_precondition_dim=3), jnp.zeros((12, 3)), grads)
    np.testing.assert_array_equal(by_option, by_limit)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("when", [0, 3])
def test_a_gradient_that_is_not_usable_counts_as_none_for_its_leaf_alone(bad, when):
    # 1e30 is finite, its square is not. Bases are made once only: when they are
    # refined is counted in updates, not in gradients.
    tx = mulo.scale_by_soap(precondition_frequency=100)
    grads = {k: np.float32(normal(6, 4, 3, seed=i)) for i, k in enumerate("abc")}
    grads["v"] = np.float32(normal(6, 3, seed=4))
    broken = {k: g.copy() for k, g in grads.items()}
    broken["b"][when, 1, 1] = bad
    broken["v"][when, 1] = bad
    got, clean = (run(tx, like(grads), g) for g in (broken, grads))
    for name in ("b", "v"):
        np.testing.assert_array_equal(got[name][when], 0.0)
        rest = {name: np.delete(grads[name], when, axis=0)}
        without = run(tx, like(rest), rest)[name]
        np.testing.assert_allclose(
            np.delete(got[name], when, axis=0), without, rtol=1e-4, atol=1e-5
        )
    for name in ("a", "c"):
        np.testing.assert_array_equal(got[name], clean[name])


def test_leaves_without_gradient_signal_stay_and_wake_up_finite():
    grads = np.float32(normal(8, 4, 3))
    grads[:5] = 0.0
    updates = np.asarray(
        run(mulo.scale_by_soap(precondition_frequency=2), jnp.zeros((4, 3)), grads)
    )
    np.testing.assert_array_equal(updates[:6], 0.0)  # The sixth makes the bases.
    assert np.all(np.isfinite(updates))
    assert np.all(np.abs(updates[6:]).max(axis=(1, 2)) > 0.1)


def decompositions(layers):
    params = {f"layer{i}": jnp.zeros((6, 4)) for i in range(layers)}
    params |= {f"bias{i}": jnp.zeros(4) for i in range(layers)}
    tx = mulo.soap(0.1)
    text = str(jax.make_jaxpr(tx.update)(params, tx.init(params), params))
    return text.count("= eigh["), text.count("= qr[")


def test_the_number_of_decompositions_does_not_depend_on_the_number_of_layers():
    assert decompositions(2) == decompositions(9) == (4, 4)
    # For sides of 6 and of 4; on CPUs, and elsewhere.


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
        ({}, {"w": "soap", "in": "soap", "out": "soap", "b": "adam"}),
        ({"precondition_1d": True}, dict.fromkeys(("w", "in", "out", "b"), "soap")),
        ({"block_size": 2}, dict.fromkeys(("w", "in", "out", "b"), "adam")),
        ({"max_precondition_dim": 1}, dict.fromkeys(("w", "in", "out", "b"), "adam")),
        # The side that grows is not rotated.
        ({"max_precondition_dim": 3}, {"in": "adam", "out": "adam"}),
    ],
)
def test_mup_multiplies_each_leaf_by_the_rule_of_what_is_done_with_it(given, rule):
    grads = {k: np.float32(normal(3, *s)) for k, s in WIDE.items()}
    options = {"weight_decay": 0.0, **given}
    plain = run(mulo.soap(0.1, **options), like(grads), grads)
    mu = run(
        mulo.soap(0.1, mup=scalings(), base_width=2, **options), like(grads), grads
    )
    np.testing.assert_array_equal(mu["s"], plain["s"])
    for name, optimizer in rule.items():
        factor = mup.update_multipliers(scalings(), optimizer=optimizer, base_width=2)[
            name
        ]
        np.testing.assert_allclose(mu[name], factor * plain[name], rtol=1e-5)
        assert np.any(plain[name] != 0)


def test_one_rotated_side_of_a_hidden_matrix_adds_the_root_of_its_growth():
    options = blocks.Options(max_precondition_dim=100, one_sided=True)
    leaf = mup.Scaling("hidden", 16, 64)
    # Base width 4: the inner side grew 4-fold and is rotated; Adam's rule is 1/4.
    assert soap_lib.soap_multiplier(leaf, (16, 64), options, 4) == math.sqrt(4) / 4
    leaf = mup.Scaling("hidden", 64, 16)
    assert soap_lib.soap_multiplier(leaf, (64, 16), options, 4) == math.sqrt(4) / 16


@pytest.mark.parametrize(("rule", "factor"), [("independent", 1.0), ("coupled", 0.25)])
def test_weight_decay_follows_its_mup_rule_and_mask_and_spares_the_first_step(
    rule, factor
):
    params = {k: jnp.ones(s) for k, s in WIDE.items()}
    grads = {k: np.zeros((2, *s), np.float32) for k, s in WIDE.items()}
    tx = mulo.soap(
        0.1,
        mup=scalings(),
        base_width=2,
        block_size=2,
        weight_decay=0.5,
        weight_decay_rule=rule,
        mask={k: k != "b" for k in WIDE},
    )
    updates = run(tx, params, grads)
    for name in WIDE:
        np.testing.assert_array_equal(updates[name][0], 0.0)
    np.testing.assert_allclose(updates["w"][1], -0.05 * factor, rtol=1e-6)
    np.testing.assert_allclose(updates["in"][1], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], 0.0)


def test_hyperparameters_may_be_injected_once_sizes_are_static():
    grads = {"w": np.float32(normal(5, 4, 3))}
    make = optax.inject_hyperparams(
        mulo.soap, static_args=("max_precondition_dim", "base_width")
    )
    got = run(make(0.1, precondition_frequency=2), like(grads), grads)
    want = run(mulo.soap(0.1, precondition_frequency=2), like(grads), grads)
    np.testing.assert_allclose(got["w"], want["w"], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"max_precondition_dim.*static_args"):
        optax.inject_hyperparams(mulo.soap)(0.1).init(like(grads))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"b1": 1.0}, r"b1 must lie in \[0, 1\), got 1.0"),
        ({"b2": "0.9"}, r"b2 must be a number and lie in \[0, 1\), got '0.9'"),
        ({"precondition_frequency": "10"}, "precondition_frequency.*got '10'"),
        ({"shampoo_beta": -1}, r"shampoo_beta must lie in \[0, 1\), got -1"),
        ({"precondition_frequency": 0}, "precondition_frequency.*got 0"),
        ({"precondition_frequency": 1.5}, "precondition_frequency.*got 1.5"),
        ({"weight_decay_rule": "both"}, "weight_decay_rule must be one of.*'both'"),
    ],
)
def test_arguments_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        mulo.soap(0.1, **given)


def test_leaves_states_and_calls_that_do_not_fit_are_refused():
    tx = mulo.soap(0.1)
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    with pytest.raises(ValueError, match="leaf 'n' is int32"):
        tx.init(params | {"n": jnp.ones(2, jnp.int32)})
    with pytest.raises(ValueError, match="leaf 'w' is complex64"):
        tx.init({"w": jnp.ones((2, 2), jnp.complex64)})
    other = {"w": jnp.ones((4, 3)), "b": jnp.ones(4)}
    with pytest.raises(ValueError, match=r"other parameters.*1 × 3:-.*1 × 4:-"):
        tx.update(other, tx.init(params), other)
    with pytest.raises(ValueError, match="params=None"):
        tx.update(params, tx.init(params))
    mu = mulo.soap(0.1, mup={"w": mup.Scaling("hidden", 4, 3)})
    with pytest.raises(ValueError, match="'b' of the parameters has no μP scaling"):
        mu.init(params)


def test_an_empty_tree_and_empty_leaves_are_fine():
    tx = mulo.soap(0.1)
    assert tx.update({}, tx.init({}), {})[0] == {}
    params = {"e": jnp.ones((0, 3)), "w": jnp.ones((2, 2))}
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["e"].shape == (0, 3)
