"""What is said of doubtful leaves, and what a model's part of μP is."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.mup_parts import network, shape

from mulo import mup
from mulo.mup import Scaling


def attention(width):
    return {
        name: shape(width, width if name in "qo" else 64) for name in ("q", "k", "v")
    } | {"norm": shape(width)}


def test_leaves_that_may_be_no_readouts_are_warned_of_with_what_to_write():
    narrow, target = {"block": attention(8)}, {"block": attention(16)}
    write = r'overrides={"block/k": "hidden", "block/v": "hidden"}'
    with pytest.warns(UserWarning, match=write):
        mup.infer(narrow, target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = {"block/k": "hidden", "block/v": "hidden"}
        tree = mup.infer(narrow, target, overrides=said)
    assert tree["block"]["k"] == Scaling("hidden", 16, 64)
    # One alone, with a hidden weight in its module.
    for model in (narrow, target):
        model["block"].pop("v")
    with pytest.warns(UserWarning, match=r"'block/k' \(16, 64\)"):
        mup.infer(narrow, target)


def test_a_router_in_a_module_of_its_own_is_warned_of():
    def model(width, router, readout="head"):
        experts = {"up": shape(width, 4 * width), "down": shape(4 * width, width)}
        return {
            "block": {"moe": {router: {"kernel": shape(width, 8)}, "experts": experts}},
            "norm": {"scale": shape(width)},
            "embedder": {"embedding": shape(50, width)},
        }

    for router in ("router", "Dense_0"):
        with pytest.warns(UserWarning, match=rf"'block/moe/{router}/kernel' \(16, 8\)"):
            mup.infer(
                model(8, router), model(16, router), overrides={"embedder/*": "input"}
            )
    # A model within another's tree, numbered or with a readout that is called so.
    for names in (("Dense_0", "Dense_1", "Dense_2"), ("in", "mid", "head")):

        def network(width, names=names):
            sizes = (4, width), (width, width), (width, 3)
            layers = {
                n: {"kernel": shape(*s)} for n, s in zip(names, sizes, strict=True)
            }
            return {"net": {"inner": layers}, "gain": shape(width)}

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mup.infer(network(8), network(16))


@pytest.mark.parametrize("boxed", [False, True])
def test_weights_without_a_bias_in_another_layout_are_warned_of(boxed):
    def mlp(width):
        sizes = ((width, 64), (width, width), (10, width))
        return {"layers": {str(i): {"weight": box(*s)} for i, s in enumerate(sizes)}}

    def language_model(width):
        return {
            "tokens": {"embedding": box(50, width)},
            "mid": {"weight": box(width, width)},
            "lm_head": {"weight": box(50, width)},
        }

    def box(*size):
        return {"value": shape(*size)} if boxed else shape(*size)

    for model, layout in (
        (mlp, "out_in"),
        (language_model, {"tokens/*": "in_out", "*": "out_in"}),
    ):
        with pytest.warns(UserWarning, match='in another order.*layout="out_in"'):
            mup.infer(model(8), model(16))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mup.infer(model(8), model(16), layout=layout)
    # The other way round.
    with pytest.warns(UserWarning, match=r'{"tokens/embedding.*": "in_out", "\*"'):
        mup.infer(language_model(8), language_model(16), layout="out_in")


def test_one_weight_that_is_said_to_be_turned_makes_its_siblings_doubtful():
    def mlp(width):
        sizes = ((width, 64), (width, width), (10, width))
        return {f"layers.{i}.weight": shape(*s) for i, s in enumerate(sizes)}

    with pytest.warns(
        UserWarning, match=r"'layers\.0\.weight' .* is 'out_in': weights"
    ):
        mup.infer(mlp(8), mlp(16), overrides={"layers.0.weight": "input"})


@pytest.mark.parametrize(
    "names", [("inp", "mid", "out"), ("stem", "body", "fc"), ("a", "b", "decoder")]
)
def test_a_head_that_would_be_an_input_is_warned_of(names):
    def model(width):
        sizes = ((width, 784), (width, width), (10, width))
        return {n: {"weight": shape(*s)} for n, s in zip(names, sizes, strict=True)}

    with pytest.warns(UserWarning, match='in another order.*layout="out_in"'):
        mup.infer(model(8), model(16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mup.infer(model(8), model(16), layout="out_in")


def test_heads_among_doubtful_leaves_are_to_be_called_readouts_and_no_table_tied():
    def model(width):
        experts = {"up": shape(width, 4 * width), "down": shape(4 * width, width)}
        return {
            "embed": shape(100, width),
            "layers": {"0": {"router": {"kernel": shape(width, 4)}, **experts}},
            "head": {"kernel": shape(width, 100)},
        }

    with pytest.warns(UserWarning, match="within a network") as said:
        mup.infer(model(8), model(16))
    (message,) = [str(x.message) for x in said]
    assert '"head/kernel": "output"' in message
    assert '"layers/0/router/kernel": "hidden"' in message


def test_a_router_in_the_topmost_module_is_told_by_its_name():
    def model(width):
        sizes = {"inp": (10, width), "mlp": (width, width), "router": (width, 4)}
        return {name: {"kernel": shape(*size)} for name, size in sizes.items()}

    with pytest.warns(UserWarning, match='"router/kernel": "hidden"'):
        mup.infer(model(8), model(16))


@pytest.mark.parametrize(
    "path", ["wte.weight", "emb/weight", "tok_emb/weight", "input_embedding", "embed"]
)
def test_embeddings_are_told_by_their_usual_names(path):
    def model(width):
        return {path: shape(50, width), "mid": {"weight": shape(width, width)}}

    with pytest.warns(UserWarning, match=rf'No leaf is a readout.*"{path}": "tied"'):
        tree = mup.infer(model(8), model(16))
    params = {path: jnp.zeros((50, 16))}
    drawn = mup.init(params, {path: tree[path]}, jax.random.key(0))
    np.testing.assert_allclose(np.std(drawn[path]), 1.0, rtol=0.1)
    with pytest.warns(UserWarning, match=rf'"{path}": "in_out", "\*": "out_in"'):
        mup.infer(model(8), model(16), layout="out_in")


def test_a_tied_embedding_has_the_multiplier_of_a_readout_and_does_not_start_at_zero():
    narrow, target = ({"embed": shape(50, w), "w": shape(w, w)} for w in (8, 16))
    with pytest.warns(UserWarning, match=r'overrides={"embed": "tied"}'):
        mup.infer(narrow, target)
    tied = mup.infer(narrow, target, overrides={"embed": "tied"})["embed"]
    assert tied == Scaling("input", 50, 16, tied=True)
    assert mup.forward_multiplier(tied, base_width=4) == 1 / 4
    assert mup.init_std(tied) > 0
    # Its step is right for both of its uses.
    for optimizer in ("adam", "sgd", "muon"):
        pair = tied, Scaling("output", 16, 50)
        steps = mup.update_multipliers(pair, optimizer=optimizer, base_width=4)
        assert steps[0] == steps[1]
    with pytest.raises(ValueError, match="tied embedding has the role 'input'"):
        Scaling("output", 16, 50, tied=True)


def test_a_model_is_drawn_again_at_the_scales_of_mup():
    def model(width):
        return network(width) | {
            "norm": {"scale": shape(width)},
            "tokens": {"embedding": shape(50, width)},
            "fixed": shape(4, 5),
        }

    params = jax.tree.map(lambda x: jnp.full(x.shape, 7.0), model(128))
    params["mid"]["kernel"] = params["mid"]["kernel"].astype(jnp.bfloat16)
    scalings = mup.infer(model(64), model(128))
    drawn = mup.init(params, scalings, jax.random.key(0))
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, params)
    assert drawn["mid"]["kernel"].dtype == jnp.bfloat16
    want = {"in": 64**-0.5, "mid": 128**-0.5}
    for name, std in want.items():
        found = np.std(np.asarray(drawn[name]["kernel"], np.float32))
        np.testing.assert_allclose(found, std, rtol=0.05)
    np.testing.assert_allclose(np.std(drawn["tokens"]["embedding"]), 1.0, rtol=0.05)
    assert not np.any(drawn["out"]["kernel"])
    # Drawn with 1/√1, gains and biases would be noise.
    kept = [*(drawn[k]["bias"] for k in want), drawn["norm"]["scale"], drawn["fixed"]]
    assert all(np.all(x == 7.0) for x in kept)
    with pytest.raises(ValueError, match=r"'in/bias' has 128 entries"):
        mup.init(params, mup.infer(model(128), model(64)), jax.random.key(0))


def test_a_table_says_what_becomes_of_every_leaf():
    table = mup.describe(mup.infer(network(8), network(16)), base_width=4).splitlines()
    cells = {line.split()[0]: line.split() for line in table[1:]}
    assert cells["in/kernel"][1:] == "(64, 16) input 64 1 1 0.125".split()
    assert cells["mid/kernel"][1:] == "(16, 16) hidden 16 1 0.25 0.25".split()
    assert cells["out/kernel"][1:] == "(16, 10) output 16 0.25 1 0".split()
    assert cells["mid/bias"][-2:] == ["as", "is"]
    table = mup.describe(Scaling("hidden", 2, 3, copies=4, layout="out_in"))
    assert "hidden, 4 copies, out_in" in table


def test_a_tied_embedding_is_read_as_embeddings_are_whatever_the_layout():
    def tree(width):
        return {
            "embedding": {"weight": jnp.zeros((50, width))},
            "l": {"weight": jnp.zeros((width, width)), "bias": jnp.zeros(width)},
        }

    scalings = mup.infer(
        tree(4), tree(8), layout="out_in", overrides={"embedding/weight": "tied"}
    )
    tied = scalings["embedding"]["weight"]
    assert (tied.role, tied.fan_out, tied.layout) == ("input", 8, "in_out")


def test_the_weight_of_an_embedding_module_is_drawn_as_embeddings_are():
    def tree(width):
        return {
            "embedding": {"weight": jnp.zeros((50, width))},
            "head": {"weight": jnp.zeros((width, 50))},
        }

    drawn = mup.init(tree(64), mup.infer(tree(32), tree(64)), jax.random.key(0))
    assert float(jnp.std(drawn["embedding"]["weight"])) == pytest.approx(1, abs=0.05)
    assert not np.any(drawn["head"]["weight"])
