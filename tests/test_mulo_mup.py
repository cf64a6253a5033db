"""Roles read off shapes, overrides, and the multipliers they get."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.mup_parts import network, one, shape

from mulo import mup
from mulo.mup import Scaling


@pytest.mark.parametrize(
    ("narrow", "target", "expected"),
    [
        pytest.param((64, 8), (64, 16), Scaling("input", 64, 16), id="input dense"),
        pytest.param((8, 8), (16, 16), Scaling("hidden", 16, 16), id="hidden dense"),
        pytest.param((8, 32), (16, 64), Scaling("hidden", 16, 64), id="expanding"),
        pytest.param((8, 10), (16, 10), Scaling("output", 16, 10), id="readout"),
        pytest.param((8,), (16,), Scaling("input", 1, 16), id="vector"),
        pytest.param((10,), (10,), Scaling("input", 1, 10, True), id="fixed vector"),
        pytest.param((), (), Scaling("input", 1, 1, True), id="scalar"),
        pytest.param((4, 5), (4, 5), Scaling("input", 4, 5, True), id="fixed matrix"),
        pytest.param((50, 8), (50, 16), Scaling("input", 50, 16), id="embedding"),
        pytest.param(
            (3, 3, 4, 8), (3, 3, 4, 16), Scaling("input", 36, 16), id="first conv"
        ),
        pytest.param(
            (3, 3, 8, 8), (3, 3, 16, 16), Scaling("hidden", 144, 16), id="conv"
        ),
        pytest.param(
            (1, 1, 8, 10), (1, 1, 16, 10), Scaling("output", 16, 10), id="conv readout"
        ),
        pytest.param(
            (8, 2, 4), (16, 4, 4), Scaling("hidden", 16, 16), id="query, more heads"
        ),
        pytest.param(
            (8, 2, 4), (16, 2, 8), Scaling("hidden", 16, 16), id="query, larger heads"
        ),
        pytest.param(
            (16, 2, 8), (64, 4, 16), Scaling("hidden", 64, 64), id="query, both"
        ),
        pytest.param(
            (2, 4, 8), (4, 4, 16), Scaling("hidden", 16, 16), id="proj, more heads"
        ),
        pytest.param(
            (2, 4, 8), (2, 8, 16), Scaling("hidden", 16, 16), id="proj, larger heads"
        ),
        pytest.param((1, 1, 8), (1, 1, 16), Scaling("input", 1, 16), id="class token"),
        pytest.param((16, 16), (8, 8), Scaling("hidden", 8, 8), id="target narrower"),
    ],
)
def test_infer_reads_role_and_fans_from_the_axes_that_differ(narrow, target, expected):
    grows = sum(narrow) <= sum(target)  # `other` must change the same way.
    trees = [
        {"leaf": shape(*sizes), "other": shape(3, width)}
        for sizes, width in ((narrow, 8), (target, 16 if grows else 4))
    ]
    assert mup.infer(*trees)["leaf"] == expected


@pytest.mark.parametrize(
    ("name", "narrow", "target"),
    [("bias", (2, 4), (4, 4)), ("bias", (2, 4), (4, 8)), ("scale", (2, 4), (2, 8))],
)
def test_biases_and_gains_with_several_axes_are_input_like(name, narrow, target):
    tree = mup.infer({"q": {name: shape(*narrow)}}, {"q": {name: shape(*target)}})
    assert tree["q"][name] == Scaling("input", 1, math.prod(target))


@pytest.mark.parametrize("module", ["query", "key", "value"])
@pytest.mark.parametrize(
    ("narrow", "target", "expected"),
    [
        ((5, 2, 4), (5, 4, 4), Scaling("input", 5, 16)),  # From a finite context.
        ((5, 2, 4), (5, 2, 8), Scaling("input", 5, 16)),
        ((8, 2, 4), (16, 4, 4), Scaling("hidden", 16, 16)),
        ((8, 2, 4), (32, 2, 8), Scaling("hidden", 32, 16)),
        ((8, 2, 4), (16, 2, 4), Scaling("output", 16, 8)),  # Fixed heads of fixed size.
    ],
)
def test_projections_to_heads_have_the_heads_on_the_output_side(
    module, narrow, target, expected
):
    def tree(kernel, width):
        return {
            "attention": {module: {"kernel": shape(*kernel)}},
            "in": shape(3, width),
        }

    for boxed in (False, True):
        trees = tree(narrow, 8), tree(target, 16)
        if boxed:
            for t in trees:
                leaf = t["attention"][module].pop("kernel")
                t["attention"][module]["kernel"] = {"value": leaf}
        found = mup.infer(*trees)["attention"][module]["kernel"]
        assert (found["value"] if boxed else found) == expected


def test_infer_keeps_the_structure_and_takes_arrays_scalars_and_structs():
    def model(width):
        return [
            {"w": jnp.zeros((3, width)), "temperature": 1.0},
            (np.ones(width), shape(width, 2)),
        ]

    tree = mup.infer(model(4), model(6))
    assert jax.tree.structure(tree) == jax.tree.structure(model(6))
    assert [s.role for s in jax.tree.leaves(tree)] == [
        "input",
        "input",
        "input",
        "output",
    ]
    assert tree[0]["temperature"].finite


def test_infer_takes_a_bare_array():
    assert mup.infer(shape(4, 4), shape(8, 8)) == Scaling("hidden", 8, 8)


def test_the_same_width_twice_says_that_nothing_differs():
    with pytest.raises(ValueError, match="Nothing differs"):
        mup.infer(network(16), network(16))


def test_width_and_data_changed_together_is_an_error_that_names_both():
    narrow, target = network(8), network(16)
    target["in"]["kernel"] = shape(49, 16)
    with pytest.raises(ValueError, match=r"grows .*'in/kernel' shrinks"):
        mup.infer(narrow, target)


@pytest.mark.parametrize(
    ("narrow", "target"),
    [
        pytest.param((8, 2, 3), (16, 2, 6), id="unequal sides"),
        pytest.param((4, 4, 10), (8, 4, 10), id="two finite axes after"),
    ],
)
def test_an_ambiguous_leaf_is_named_with_the_way_out(narrow, target):
    with pytest.raises(ValueError, match=r"Leaf 'leaf' is ambiguous.*overrides="):
        one(narrow, target)
    given = one(narrow, target, overrides={"leaf": "hidden"})
    assert given.role == "hidden"
    exact = Scaling("hidden", target[0], math.prod(target[1:]))
    assert one(narrow, target, overrides={"leaf": exact}) == exact


def test_trees_of_different_models_are_an_error_that_names_the_leaf():
    deeper = network(16) | {"extra": shape(16)}
    with pytest.raises(ValueError, match=r"'extra' is in the target model and not"):
        mup.infer(network(8), deeper)
    with pytest.raises(ValueError, match=r"'extra' is in the narrow model and not"):
        mup.infer(deeper, network(8))
    with pytest.raises(ValueError, match=r"'mid/kernel' has 2 axes .* and 3 in the"):
        mup.infer(network(8), network(16, depth_axis=(3,)))


def test_overrides_apply_by_path_pattern():
    tree = mup.infer(
        {"embed": shape(50, 8), "a": {"w": shape(8, 8)}, "b": {"w": shape(8, 8)}},
        {"embed": shape(50, 16), "a": {"w": shape(16, 16)}, "b": {"w": shape(16, 16)}},
        overrides={"embed": "output", "*/w": "input"},
    )
    # A tied embedding is read along its rows: the infinite axis is the input.
    assert tree["embed"] == Scaling("output", 16, 50)
    assert tree["a"]["w"].role == tree["b"]["w"].role == "input"


def test_an_override_changes_only_what_it_names():
    narrow, target = {"a": shape(64, 32)}, {"a": shape(64, 64)}

    def override(given, **kwargs):
        return mup.infer(narrow, target, overrides={"a": given}, **kwargs)["a"]

    assert override("hidden") == Scaling("hidden", 64, 64)
    # The first axis grows, as in equinox's and torch's input weights.
    narrow, target = {"a": shape(32, 48)}, {"a": shape(64, 48)}
    assert override("input") == Scaling("input", 48, 64, layout="out_in")
    assert override({"role": "input"}) == override("input")
    flipped = {"a": "input"}
    assert mup.infer(
        {"a": shape(48, 32)}, {"a": shape(48, 64)}, overrides=flipped, layout="out_in"
    )["a"] == Scaling("input", 48, 64)
    narrow, target = {"a": shape(32, 64)}, {"a": shape(64, 64)}
    assert override("input", layout="out_in") == Scaling(
        "input", 64, 64, layout="out_in"
    )
    assert override({"fan_in": 32, "copies": 2}) == Scaling("output", 32, 64, copies=2)
    with pytest.raises(ValueError, match=r"'fanin', which is no field .* 'fan_in'\?"):
        override({"fanin": 32})
    with pytest.raises(ValueError, match="has 4096 entries"):
        override({"fan_in": 32})
    assert override(Scaling("input", 64, 64), layout="out_in").layout == "out_in"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hiden/*": "input"}, r"'hiden/\*' matches no leaf"),
        ({"mid/kernl": "input"}, "did you mean 'mid/kernel'"),
        ({"mid/kernel": "inner"}, "must be one of input, hidden, output"),
        ({"mid/*": "input", "*/kernel": "hidden"}, "disagree"),
        ({"mid/kernel": Scaling("hidden", 8, 8)}, "has 256 entries"),
        ({"mid/bias": "hidden"}, "too few axes"),
    ],
)
def test_bad_overrides_are_errors(overrides, message):
    with pytest.raises(ValueError, match=message):
        mup.infer(network(8), network(16), overrides=overrides)


def test_functions_are_traced_and_not_run():
    def model(width):
        def init(key):
            assert isinstance(key, jax.core.Tracer)
            return {"w": jax.random.normal(key, (3, width)), "b": jnp.zeros(width)}

        return init

    want = mup.infer(*(jax.eval_shape(model(w), jax.random.key(0)) for w in (4, 8)))
    assert mup.infer(model(4), model(8)) == want
    assert mup.infer(lambda: {"w": jnp.ones((3, 4))}, {"w": jnp.ones((3, 8))}) == {
        "w": Scaling("input", 3, 8)
    }
    with pytest.raises(ValueError, match=r"takes a PRNG key or nothing, .* rngs, x"):
        mup.infer(lambda rngs, x: x, model(8))


def test_scaling_refuses_nonsense():
    with pytest.raises(ValueError, match="one of input, hidden, output"):
        Scaling("inner", 1, 1)  # pyrefly: ignore[bad-argument-type]
    with pytest.raises(ValueError, match="fan_in must be at least 1"):
        Scaling("input", 0, 1)


def test_initial_scale_and_forward_multiplier_follow_the_table():
    assert mup.init_std(Scaling("input", 64, 16)) == 1 / 8
    assert mup.init_std(Scaling("hidden", 16, 64)) == 1 / 4
    assert mup.init_std(Scaling("output", 16, 10)) == 0.0
    assert mup.forward_multiplier(Scaling("output", 16, 10)) == 1 / 16
    assert mup.forward_multiplier(Scaling("output", 16, 10), base_width=4) == 1 / 4
    assert mup.forward_multiplier(Scaling("hidden", 16, 16)) == 1.0


@pytest.mark.parametrize(
    ("optimizer", "kwargs", "expected"),
    [
        # input (64, 48), hidden (32, 48), output (32, 10), base 8: i = 4, o = 6.
        ("adam", {}, (1.0, 1 / 4, 1.0)),
        ("sgd", {}, (6.0, 6 / 4, 4.0)),
        ("muon", {}, (6**0.5, 1.5**0.5, 2.0)),
        ("shampoo", {}, (6**0.5, 1.5**0.5, 2.0)),
        ("shampoo", {"shampoo_exponent": 0.25}, (6**0.75, 1.5**0.75, 4**0.75)),
        # Blocks of 8: 6 of them, 4 times 6, and 4.
        ("shampoo", {"block_size": 8}, (1.0, (1.5 / 24) ** 0.5, 1.0)),
        ("soap", {}, (6**0.5, 24**0.5 / 4, 2.0)),
        ("soap", {"block_size": 8}, (1.0, 1 / 4, 1.0)),
    ],
)
def test_update_multipliers_follow_the_table(optimizer, kwargs, expected):
    tree = (
        Scaling("input", 64, 48),
        Scaling("hidden", 32, 48),
        Scaling("output", 32, 10),
    )
    got = mup.update_multipliers(tree, optimizer=optimizer, base_width=8, **kwargs)
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("optimizer", mup.OPTIMIZERS)
def test_multipliers_are_one_at_the_base_width_and_on_leaves_that_stay(optimizer):
    tree = mup.infer(network(16), network(32))
    got = mup.update_multipliers(tree, optimizer=optimizer, base_width=32)
    assert all(type(m) is float for m in jax.tree.leaves(got))
    assert jax.tree.leaves(got) == [1.0] * 6
    wide = mup.infer(network(16), network(512))
    got = mup.update_multipliers(wide, optimizer=optimizer, base_width=32)
    assert got["out"]["bias"] == 1.0


def one_step(width, optimizer):
    """Change of what each layer of a linear network produces, by a step of it alone."""
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.normal(size=(8, width)) / 8**0.5,
        "b": rng.normal(size=(width, width)) / width**0.5,
        # Not zero, so that gradients reach the layers below at once.
        "c": rng.normal(size=(width, 4)),
    }
    x = rng.normal(size=(1, 8))
    scalings = mup.infer({k: np.zeros(v) for k, v in NARROW.items()}, weights)
    multipliers = mup.update_multipliers(scalings, optimizer=optimizer, base_width=1.0)
    forward = mup.forward_multiplier(scalings["c"])
    inputs = {"a": x, "b": x @ weights["a"]}
    inputs["c"] = inputs["b"] @ weights["b"]
    # Gradients of the sum of the logits.
    back = {"c": np.full((1, 4), forward)}
    back["b"] = back["c"] @ weights["c"].T
    back["a"] = back["b"] @ weights["b"].T
    changes = []
    for name in "abc":
        g = inputs[name].T @ back[name]
        if optimizer == "adam":
            g = np.sign(g)
        elif optimizer in ("muon", "shampoo"):  # Its one singular value becomes 1.
            g = g / np.linalg.norm(g)
        change = multipliers[name] * (inputs[name] @ g)
        change *= forward if name == "c" else 1.0
        changes.append(np.sqrt(np.mean(change**2)))
    return np.array(changes)


NARROW = {"a": (8, 2), "b": (2, 2), "c": (2, 4)}


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon", "shampoo"])
def test_one_step_changes_activations_equally_at_every_width(optimizer):
    small, large = one_step(64, optimizer), one_step(1024, optimizer)
    assert (np.abs(np.log2(large / small)) < 0.75).all()  # 4 doublings of the width.


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"optimizer": "adamm"}, r"'adamm'; did you mean 'adam'\? Known: adam, sgd"),
        ({"base_width": 0}, "base_width must be finite and > 0"),
        ({"block_size": 8}, "block_size is for shampoo and soap"),
        ({"optimizer": "soap", "block_size": 0}, "block_size must be at least 1"),
    ],
)
def test_bad_arguments_of_update_multipliers_are_errors(kwargs, message):
    tree = {"w": Scaling("hidden", 4, 4)}
    with pytest.raises(ValueError, match=message):
        mup.update_multipliers(
            tree, **({"optimizer": "adam", "base_width": 1} | kwargs)
        )


def test_a_leaf_that_is_no_scaling_is_named():
    with pytest.raises(ValueError, match=r"'a/w' of the μP tree must be a mulo"):
        mup.update_multipliers({"a": {"w": 1.0}}, optimizer="adam", base_width=1.0)


def test_align_keeps_masked_nodes_and_names_what_does_not_fit():
    values = {"a": {"w": 1.0, "b": 2.0}, "c": 3.0}
    params = {"a": optax.MaskedNode(), "c": jnp.zeros(3)}
    assert mup.align(values, params) == {"a": optax.MaskedNode(), "c": 3.0}
    with pytest.raises(ValueError, match="'d' of the parameters has no μP scaling"):
        mup.align(values, params | {"d": jnp.zeros(1)})
    with pytest.raises(ValueError, match="'c' of the μP tree is not among"):
        mup.align(values, {"a": params["a"]})
    with pytest.raises(ValueError, match=r"'c' has 3 entries, its μP scaling is for 8"):
        mup.align(
            {"c": 1.0}, {"c": params["c"]}, scalings={"c": Scaling("input", 1, 8)}
        )
