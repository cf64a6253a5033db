import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import transformer_oracle as oracle
from helpers.task_trees import leaves_by_path, shapes_of

import mulo
import tasks
from tasks.models import transformer

SMALL = "transformer-w16-d2-k8-s8-synthetic_text:16"
TINY = "transformer-w8-d1-k4-s5-synthetic_text:7"


def tokens_of(task, count, seed=0):
    shape = (count, *task.dataset.input_shape)
    tokens = np.random.default_rng(seed).integers(0, task.dataset.num_classes, shape)
    return tokens.astype(np.int32)


def task_of(name, sp=False):
    return tasks.get(f"sp-{name}" if sp else name, batch_size=4)


@pytest.mark.parametrize(
    ("name", "scale", "multiplier", "logit_multiplier"),
    [
        (TINY, 1 / 4, 1, 1 / 8),
        (f"sp-{TINY}", 1 / 2, 1, 1),
        ("transformer-w8-d2-h1-s5-a1-synthetic_text:7", 1 / 8, 1 / 2, 1 / 8),
    ],
)
def test_the_forward_pass_equals_loops_in_numpy(
    name, scale, multiplier, logit_multiplier
):
    task = tasks.get(name, batch_size=2)
    params = oracle.random_params(shapes_of(task), seed=1)
    tokens = tokens_of(task, 2)
    got = jax.jit(task.activations)(params, tokens)
    for b in range(2):
        x = np.stack(
            [
                params["token"]["embedding"][tokens[b, s]] + params["positions"][s]
                for s in range(5)
            ]
        ).astype(np.float64)
        x, want = oracle.blocks(
            params,
            x,
            depth=task.depth,
            heads=1 if "-h1-" in name else 2,
            scale=scale,
            causal=True,
            multiplier=multiplier,
        )
        want["logits"] = np.stack(
            [oracle.linear(params["readout"], v) * logit_multiplier for v in x]
        )
        assert want.keys() == got.keys()
        for layer, value in want.items():
            np.testing.assert_allclose(
                got[layer][b], value, rtol=1e-4, atol=1e-5, err_msg=layer
            )


def test_a_token_changes_the_logits_from_its_position_on_and_none_before():
    task = task_of(SMALL, sp=True)
    params = oracle.random_params(shapes_of(task), seed=2)
    logits = jax.jit(task.apply)
    tokens = tokens_of(task, 3)
    before = np.asarray(logits(params, tokens))
    for t in (0, 3, 7):
        changed = tokens.copy()
        changed[:, t] = (changed[:, t] + 1) % 16
        after = np.asarray(logits(params, changed))
        assert np.array_equal(after[:, :t], before[:, :t])
        assert np.all(np.any(after[:, t:] != before[:, t:], axis=-1))


def test_activations_are_named_in_the_order_of_computation():
    task = task_of(SMALL)
    names = []
    jax.eval_shape(
        # Kept outside: as an output of a traced function a dict is sorted.
        lambda p, x: names.extend(task.activations(p, x)),
        shapes_of(task),
        tokens_of(task, 1),
    )
    inside = ["query", "key", "value", "attention_logits", "attention"]
    inside += ["mlp_in", "mlp_out"]
    blocks = [[f"block_{i}/{name}" for name in inside] for i in range(2)]
    assert names == [
        "embed",
        *blocks[0],
        "block_0",
        *blocks[1],
        "block_1",
        "logits",
    ]


def test_the_loss_of_a_mup_network_starts_at_log_of_the_vocabulary():
    task = task_of(SMALL)
    params = jax.jit(task.init)(jax.random.key(0))
    batch = {"inputs": tokens_of(task, 4), "labels": tokens_of(task, 4, seed=1)}
    loss = jax.jit(task.loss)(params, jax.random.key(1), batch)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    # The readout and its biases are zero, so all tokens are as likely.
    assert float(loss) == pytest.approx(math.log(16), rel=1e-6)


def test_the_loss_is_the_mean_over_tokens_in_nats():
    task = task_of(SMALL, sp=True)
    params = oracle.random_params(shapes_of(task), seed=3)
    batch = {"inputs": tokens_of(task, 4), "labels": tokens_of(task, 4, seed=1)}
    metrics = jax.jit(task.metrics)(params, batch)
    logits = np.asarray(jax.jit(task.apply)(params, batch["inputs"]), np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    right = np.take_along_axis(shares, batch["labels"][..., None], -1)
    assert float(metrics["loss"]) == pytest.approx(-np.log(right).mean(), rel=1e-5)
    accuracy = np.mean(np.argmax(logits, -1) == batch["labels"])
    assert float(metrics["accuracy"]) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("transformer-w16-d2-k8-s8-synthetic_text:16", 7_248),
        # The narrowest of the μLO paper's Table 10, but for its 32,000 pieces.
        ("transformer-w192-d3-h3-s64-synthetic_text:256", 1_445_824),
    ],
)
def test_the_number_of_parameters(name, count):
    task = task_of(name)
    shapes = leaves_by_path(shapes_of(task))
    w, vocabulary = task.width, task.dataset.num_classes
    embed = (vocabulary + task.length) * w
    blocks = task.depth * oracle.block_parameters(w)
    assert embed + blocks + 2 * w + w * vocabulary + vocabulary == count
    assert sum(math.prod(x.shape) for x in shapes.values()) == count
    assert {x.dtype for x in shapes.values()} == {jnp.dtype("float32")}
    twin = leaves_by_path(shapes_of(task_of(name, sp=True)))
    assert {k: v.shape for k, v in twin.items()} == {
        k: v.shape for k, v in shapes.items()
    }


@pytest.mark.parametrize("heads", ["k8", "h2", "h2-k8"])
def test_mup_roles_hold_where_width_vocabulary_and_length_are_equal(heads):
    task = task_of(f"transformer-w16-d2-{heads}-s16-synthetic_text:16")
    scalings = leaves_by_path(task.scalings())
    hidden = {"query": 16, "key": 16, "value": 16, "out": 16}
    hidden |= {"mlp_in": 16, "mlp_out": 64}
    for path, scaling in scalings.items():
        layer = path.split("/")[-2] if "/" in path else path
        if path.endswith("kernel") and layer in hidden:
            assert (scaling.role, scaling.fan_in) == ("hidden", hidden[layer]), path
        elif path == "readout/kernel":
            assert (scaling.role, scaling.fan_in) == ("output", 16)
        else:
            assert scaling.role == "input", path
    assert task_of(SMALL, sp=True).scalings() is None


@pytest.mark.parametrize("sp", [False, True])
def test_every_leaf_starts_with_the_std_that_the_docstring_says(sp):
    task = task_of("transformer-w64-d1-k16-s32-synthetic_text:64", sp)
    params = leaves_by_path(jax.jit(task.init)(jax.random.key(0)))
    # What is left of a normal's std when it is truncated at two of them.
    cut = 0.8796
    for path, leaf in params.items():
        layer, _, kind = path.rpartition("/")
        fan_in = leaf.shape[0]
        if kind == "kernel" and sp:
            std = cut * fan_in**-0.5
        elif kind == "kernel":
            std = 0.0 if layer == "readout" else fan_in**-0.5
        elif kind in ("embedding", "positions"):
            std = cut if sp else 1.0
        elif kind == "bias":
            std = 0.0
        else:
            assert kind == "scale"
            assert np.all(leaf == 1), path
            continue
        # Five standard errors of a normal sample's std.
        assert np.std(leaf) == pytest.approx(std, rel=5 / math.sqrt(2 * leaf.size)), (
            path
        )


def head_shapes(name):
    task = task_of(name)
    found = jax.eval_shape(task.activations, shapes_of(task), tokens_of(task, 1))
    return found["block_0/attention_logits"].shape[1]


def test_heads_grow_with_width_unless_their_number_is_given():
    text = "s8-synthetic_text:16"
    assert [head_shapes(f"transformer-w{w}-d1-k8-{text}") for w in (16, 32)] == [2, 4]
    assert [head_shapes(f"transformer-w{w}-d1-h2-{text}") for w in (16, 32)] == [2, 2]
    assert [head_shapes(f"transformer-w{w}-d1-{text}") for w in (64, 192)] == [1, 3]


def test_heads_and_units_per_head_are_two_ways_to_say_the_same_network():
    names = [f"transformer-w8-d1-{x}-s5-synthetic_text:7" for x in ("k4", "h2")]
    both = [task_of(name) for name in names]
    params = oracle.random_params(shapes_of(both[0]), seed=4)
    logits = [jax.jit(t.apply)(params, tokens_of(t, 2)) for t in both]
    np.testing.assert_array_equal(logits[0], logits[1])


@pytest.mark.parametrize(
    ("heads", "width", "scale"), [("k8", 16, 8), ("k8", 32, 8), ("h2", 32, 16)]
)
def test_attention_logits_are_divided_by_the_units_of_a_head(heads, width, scale):
    found = []
    for sp in (False, True):
        task = task_of(f"transformer-w{width}-d1-{heads}-s8-synthetic_text:16", sp)
        params = oracle.random_params(shapes_of(task), seed=5)
        activations = jax.jit(task.activations)(params, tokens_of(task, 1))
        found.append(np.asarray(activations["block_0/attention_logits"]))
    np.testing.assert_allclose(found[0] * math.sqrt(scale), found[1], rtol=1e-5)
    assert np.std(found[0]) > 0.01


@pytest.mark.parametrize(("alpha", "share"), [("", 1.0), ("a1-", 0.5), ("a0.5-", 0.7)])
def test_alpha_divides_branches_by_a_power_of_depth(alpha, share):
    share = math.sqrt(0.5) if share == 0.7 else share
    task = task_of(f"transformer-w16-d2-k8-s8-{alpha}synthetic_text:16", sp=True)
    params = oracle.random_params(shapes_of(task), seed=6)
    found = jax.jit(task.activations)(params, tokens_of(task, 2))
    branches = found["block_1/attention"] + found["block_1/mlp_out"]
    np.testing.assert_allclose(
        found["block_1"] - found["block_0"], share * branches, atol=1e-5
    )


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_bf16_multiplies_in_bfloat16_and_does_the_rest_in_float32():
    task = task_of("transformer-w16-d2-k8-s8-bf16-synthetic_text:16")
    shapes = shapes_of(task)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    program = jax.make_jaxpr(task.apply)(shapes, tokens_of(task, 1))
    seen = {}
    for equation in equations(program.jaxpr):
        kinds = {v.aval.dtype.name for v in equation.invars if v.aval.shape}
        seen.setdefault(equation.primitive.name, set()).update(kinds)
    assert seen["dot_general"] == {"bfloat16"}
    for name in ("exp", "rsqrt", "reduce_sum", "reduce_max", "gather"):
        assert "bfloat16" not in seen[name], name
    assert program.out_avals[0].dtype == jnp.float32


def test_bf16_changes_logits_by_little():
    params = oracle.random_params(shapes_of(task_of(SMALL)), seed=7)
    names = [SMALL, "transformer-w16-d2-k8-s8-bf16-synthetic_text:16"]
    exact, rounded = (
        np.asarray(jax.jit(task.apply)(params, tokens_of(task, 4)))
        for task in map(task_of, names)
    )
    error = np.std(exact - rounded) / np.std(exact)
    # Some ten roundings in a row of 2^-9 each, adding up as random ones do.
    assert 1e-4 < error < 10 * 2**-9


def test_particles_under_vmap_give_what_each_gives_alone():
    task = task_of(SMALL)
    batch = {"inputs": tokens_of(task, 2), "labels": tokens_of(task, 2, seed=1)}
    particles = [oracle.random_params(shapes_of(task), seed=s) for s in (8, 9)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *particles)
    key = jax.random.key(0)
    together = jax.jit(jax.vmap(task.loss, in_axes=(0, None, None)))(
        stacked, key, batch
    )
    loss = jax.jit(task.loss)
    alone = [loss(params, key, batch) for params in particles]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert alone[0] != alone[1]


@pytest.mark.parametrize("sp", [False, True])
def test_training_learns_to_copy_the_token_before(sp):
    """It takes attention and positions: nothing else says which token was before."""
    task = task_of("transformer-w16-d1-k8-s8-synthetic_text:16", sp)
    params = jax.jit(task.init)(jax.random.key(0))
    tx = mulo.adam(0.01 if sp else 0.1, mup=task.scalings(), base_width=1)

    def step(carry, key):
        params, state = carry
        inputs = jax.random.bits(key, (16, 8), jnp.uint8).astype(jnp.int32) % 16
        labels = jnp.concatenate([inputs[:, :1], inputs[:, :-1]], axis=1)
        batch = {"inputs": inputs, "labels": labels}
        loss, grads = jax.value_and_grad(task.loss)(params, key, batch)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    keys = jax.random.split(jax.random.key(1), 200)
    _, losses = jax.jit(lambda c: jax.lax.scan(step, c, keys))(
        (params, tx.init(params))
    )
    assert losses[0] > 2
    assert np.mean(losses[-10:]) < 0.5


def test_a_data_set_that_is_no_text_is_refused():
    digits = tasks.data.load("digits")
    with pytest.raises(ValueError, match="needs text, got the data set 'digits'"):
        transformer.TransformerTask("x", digits, 4, 64, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("w32-d1", r"multiple of head_dim \(64, the default\), got 32; -k32 would"),
        ("w16-d1-k3", r"multiple of head_dim \(3\), got 16; -k2 would"),
        ("w16-d1-k32", r"multiple of head_dim \(32\), got 16; -k16 would"),
        ("w16-d1-h3", r"heads must divide the width 16, got 3; -h2 would"),
        ("w16-d1-h2-k4", r"must be the width 16, got 2 × 4; give only one"),
        ("w16-d1-h0", "heads must be at least 1, got 0"),
        ("w16-d1-k0", "head_dim must be at least 1, got 0"),
        ("w16-d1-k8-s0", "length must be at least 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_one_that_does(options, message):
    with pytest.raises(ValueError, match=message):
        tasks.get(f"transformer-{options}-synthetic_text:16")


def test_a_negative_alpha_is_refused():
    text = task_of(SMALL).dataset
    with pytest.raises(ValueError, match=r"alpha must be at least 0, got -1"):
        transformer.TransformerTask("x", text, 4, 64, 1, alpha=-1.0)


def test_windows_have_the_length_of_the_name():
    task = task_of(SMALL)
    assert task.dataset.input_shape == (8,)
    assert task.positions == 8
    arrays = task.dataset.arrays("train")
    batch = task.sample(arrays, jax.random.key(0))
    assert batch["inputs"].shape == batch["labels"].shape == (4, 8)
    assert np.array_equal(batch["inputs"][:, 1:], batch["labels"][:, :-1])
    assert task_of("transformer-w64-d1-synthetic_text:16").positions == 64
