"""What every rule makes of weights in other layouts and of copies in one leaf."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from test_mulo_optax_contract import NAMES, make

import mulo
from mulo import mup
from mulo.mup import _axes as axes

# Two layers of a convolution (out, in, kernel) in one leaf, and their gains.
SHAPES = {"deep": (2, 6, 4, 2), "gains": (2, 4)}
SCALINGS = {
    "deep": mup.Scaling("hidden", 8, 6, copies=2, layout="out_in"),
    "gains": mup.Scaling("input", 1, 4, copies=2),
}
ONE = {"deep": mup.Scaling("hidden", 8, 6), "gains": mup.Scaling("input", 1, 4)}
APART = {f"{name}{k}": scaling for name, scaling in ONE.items() for k in range(2)}


def apart(tree):
    """The same model with a leaf per weight, each (*kernel, in, out)."""
    deep = jnp.transpose(tree["deep"], (0, 3, 2, 1))
    leaves = {f"deep{k}": x for k, x in enumerate(deep)}
    return leaves | {f"gains{k}": x for k, x in enumerate(tree["gains"])}


def draw(seed):
    rng = np.random.default_rng(seed)
    tree = {k: rng.standard_normal(s, np.float32) for k, s in SHAPES.items()}
    for x in tree.values():
        x[1] *= 30.0  # So that a norm of both would show.
    return jax.tree.map(jnp.asarray, tree)


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_steps_copies_and_layouts_as_leaves_of_their_own(name):
    together, alone = make(name, SCALINGS), make(name, APART)
    params = draw(0)

    @jax.jit
    def both(grads, states):
        got, mine = together.update(grads, states[0], params, value=1.0)
        want, theirs = alone.update(apart(grads), states[1], apart(params), value=1.0)
        return apart(got), want, (mine, theirs)

    states = together.init(params), alone.init(apart(params))
    for step in range(2):
        got, want, states = both(draw(1 + step), states)
    for leaf in want:
        assert np.any(want[leaf] != 0)
        np.testing.assert_allclose(got[leaf], want[leaf], rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "layout", "where", "seen"),
    [
        ((5, 2, 3), "in_out", ((0, 5),), (5, 2, 3)),
        ((2, 9), "in_out", ((1, 3),), (3, 2, 3)),  # Fused in the last axis.
        ((9, 2), "out_in", ((0, 3),), (3, 2, 3)),
        ((2, 3, 4, 5), "in_out", ((1, 3),), (3, 2, 4, 5)),  # In an axis of their own.
        ((5, 9, 2), "out_in", ((0, 5), (1, 3)), (15, 2, 3)),  # Layers of them.
        ((6, 4, 2, 3), "out_in", (), (1, 2, 3, 4, 6)),
        ((6, 4, 2, 3), "in_out_kernel", (), (1, 2, 3, 6, 4)),
        ((2, 3, 6, 4), "kernel_out_in", (), (1, 2, 3, 4, 6)),
        ((7,), "out_in", (), (1, 7)),
    ],
)
def test_a_leaf_is_split_and_joined_along_the_axes_it_says(shape, layout, where, seen):
    x = jnp.arange(np.prod(shape)).reshape(shape)
    parts = axes.split(x, layout, where)
    assert parts.shape == seen
    np.testing.assert_array_equal(axes.join(parts, shape, layout, where), x)


def test_fused_copies_are_the_slices_they_look_like():
    x = jnp.arange(18).reshape(2, 9)
    parts = axes.split(x, "in_out", ((1, 3),))
    np.testing.assert_array_equal(parts, jnp.split(x, 3, axis=1))
    parts = axes.split(x.T, "out_in", ((0, 3),))
    np.testing.assert_array_equal(parts, jnp.split(x, 3, axis=1))


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_of_another_width_or_structure_is_refused_at_init(name):
    tx = make(name, ONE)
    params = {"deep": jnp.ones((2, 4, 6)), "gains": jnp.ones(4)}
    tx.init(params)
    with pytest.raises(ValueError, match=r"'gains' has 5 entries, .* is for 4"):
        tx.init(params | {"gains": jnp.ones(5)})
    with pytest.raises(ValueError, match=r"'extra' of the parameters has no μP"):
        tx.init(params | {"extra": jnp.ones(4)})
    with pytest.raises(ValueError, match=r"'gains' of the μP tree is not among"):
        tx.init({"deep": params["deep"]})


def test_a_transposed_tree_is_refused_at_init():
    narrow, params = {"w": jnp.ones((2, 3))}, {"w": jnp.ones((4, 6))}
    tx = mulo.optimizers.get("adam", learning_rate=0.1, mup=mup.infer(narrow, params))
    with pytest.raises(ValueError, match=r"has shape \(6, 4\), .* is for \(4, 6\)"):
        tx.init({"w": params["w"].T})


def test_copies_that_are_not_where_they_should_be_are_named():
    scaling = {"w": mup.Scaling("hidden", 4, 3, copies=2)}
    tx = mulo.muon(0.1, mup=scaling)
    with pytest.raises(ValueError, match=r"'w' of shape \(3, 8\) holds 2 copies"):
        tx.init({"w": jnp.ones((3, 8))})


def test_a_state_holds_copies_in_the_structure_of_the_parameters():
    rule = mulo.LearnedAdam()
    tx = rule.transform(rule.init(jax.random.key(0)), mup=SCALINGS)
    params = draw(0)
    state: Any = tx.init(params)
    assert jax.tree.map(jnp.shape, state[1].mu) == {
        "deep": (2, 2, 4, 6),
        "gains": (2, 4),
    }
    # So that what belongs to parameters is found, and specs can be laid beside it.
    marks = {"deep": 1.0, "gains": 2.0}
    marked: Any = optax.tree.map_params(tx, lambda x, m: m + 0.0 * x, state, marks)
    assert np.all(marked[1].nu["gains"] == 2.0)
    assert np.all(marked[1].count == 0)
    # nnx gives optimizers its parameters in boxes.
    boxed = nnx.State(jax.tree.map(nnx.Param, params))
    got, _ = tx.update(boxed, tx.init(boxed), boxed)
    want, _ = tx.update(params, state, params)
    for name in params:
        np.testing.assert_array_equal(got[name][...], want[name])


@pytest.mark.parametrize("copies", [False, True])
def test_masks_are_functions_of_parameters_in_their_own_form(copies):
    stack = {"copies": 2, "copy_axes": ((0, 2),)} if copies else {"layout": "out_in"}
    scalings = {"w": mup.Scaling("hidden", 3, 2 if copies else 4, **stack)}
    params = {"w": jnp.ones((2, 3, 2) if copies else (4, 3))}
    asked = []

    def mask(tree):
        asked.append(jnp.shape(tree["w"]))
        return {"w": True}

    tx = mulo.soap(0.1, mup=scalings, weight_decay=0.5, mask=mask)
    zero = jax.tree.map(jnp.zeros_like, params)
    _, state = tx.update(zero, tx.init(params), params)  # SOAP does not decay at once.
    updates, _ = tx.update(zero, state, params)
    assert set(asked) == {params["w"].shape}
    np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-6)


def test_masked_leaves_stay_and_the_others_step():
    scalings = SCALINGS | {"frozen": mup.Scaling("hidden", 3, 4, layout="out_in")}
    params = draw(0) | {"frozen": jnp.ones((4, 3))}
    tx = mulo.muon(0.1, mup=scalings)
    masked = optax.masked(tx, {"deep": True, "gains": True, "frozen": False})
    updates, _ = masked.update(params, masked.init(params), params)
    alone = mulo.muon(0.1, mup=SCALINGS)
    want, _ = alone.update(draw(0), alone.init(draw(0)), draw(0))
    np.testing.assert_array_equal(updates["frozen"], params["frozen"])
    np.testing.assert_allclose(updates["deep"], want["deep"], rtol=1e-6)
