import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.convnet_oracle import layer_norm, random_params, relu
from helpers.task_trees import leaves_by_path, shapes_of

import tasks
from mulo import mup
from tasks.models import mlp

SMALL = "mlp-w8-d3-synthetic:4x4x1:3"


def init(task, seed=0):
    return jax.jit(task.init)(jax.random.key(seed))


def batch_of(task, split="train", seed=0):
    return task.sample(task.dataset.arrays(split), jax.random.key(seed))


@pytest.mark.parametrize(("width", "depth"), [(8, 1), (8, 3), (5, 4)])
def test_depth_counts_the_matrices_before_the_readout(width, depth):
    task = tasks.get(f"mlp-w{width}-d{depth}-synthetic:4x4x1:3")
    params = leaves_by_path(shapes_of(task))
    sizes = [16, *[width] * depth, 3]
    shapes = [
        params[f"{layer}/kernel"].shape
        for layer in [*[f"linear_{i}" for i in range(depth)], "readout"]
    ]
    assert shapes == list(itertools.pairwise(sizes))
    count = sum(m * n + n for m, n in itertools.pairwise(sizes))
    assert sum(x.size for x in params.values()) == count
    assert {x.dtype for x in params.values()} == {jnp.dtype("float32")}


def test_mup_draws_weights_of_variance_one_over_fan_in_and_unit_biases():
    task = tasks.get("mlp-w512-d3-digits")
    params = leaves_by_path(init(task))
    assert np.std(params["linear_0/kernel"]) == pytest.approx(64**-0.5, rel=0.02)
    for i in (1, 2):
        kernel = params[f"linear_{i}/kernel"]
        assert np.std(kernel) == pytest.approx(512**-0.5, rel=0.01)
        # Truncated at two standard deviations of the normal before truncation.
        assert np.max(np.abs(kernel)) <= 2 / 0.8796 * 512**-0.5
    biases = np.concatenate([params[f"linear_{i}/bias"] for i in range(3)])
    assert np.std(biases) == pytest.approx(1.0, rel=0.06)
    assert abs(np.mean(biases)) < 4 / math.sqrt(biases.size)
    assert np.all(params["readout/kernel"] == 0)
    assert np.all(params["readout/bias"] != 0)


def test_sp_draws_every_weight_as_haiku_does_and_zero_biases():
    task = tasks.get("sp-mlp-w512-d2-digits")
    params = leaves_by_path(init(task))
    for name, fan_in in [("linear_0", 64), ("linear_1", 512), ("readout", 512)]:
        kernel = params[f"{name}/kernel"]
        assert np.std(kernel) == pytest.approx(0.8796 * fan_in**-0.5, rel=0.03)
        assert np.max(np.abs(kernel)) <= 2 * fan_in**-0.5 * 1.0001
        assert np.all(params[f"{name}/bias"] == 0)


def test_the_sp_twin_has_the_same_shapes_and_no_scalings():
    twins = tasks.get(SMALL), tasks.get(f"sp-{SMALL}")
    shapes = [jax.tree.map(lambda x: x.shape, t.init(jax.random.key(0))) for t in twins]
    assert shapes[0] == shapes[1]
    assert twins[0].scalings() is not None
    assert twins[1].scalings() is None


def test_only_hidden_weights_get_an_update_multiplier_of_one_over_fan_in():
    task = tasks.get("mlp-w32-d3-digits")
    multipliers = mup.update_multipliers(
        task.scalings(), optimizer="adam", base_width=1.0
    )
    assert jax.tree.structure(multipliers) == jax.tree.structure(shapes_of(task))
    hidden = {"linear_1/kernel", "linear_2/kernel"}
    for path, multiplier in leaves_by_path(multipliers).items():
        assert multiplier == (1 / 32 if path in hidden else 1.0), path


def test_scalings_hold_where_the_width_equals_another_size():
    # 16 pixels, 16 units, 3 classes; and 3 units, 3 classes.
    for width in (16, 3):
        task = tasks.get(f"mlp-w{width}-d2-synthetic:4x4x1:3")
        roles = {k: v.role for k, v in leaves_by_path(task.scalings()).items()}
        assert roles["linear_0/kernel"] == "input"
        assert roles["linear_1/kernel"] == "hidden"
        assert roles["readout/kernel"] == "output"
        assert roles["linear_1/bias"] == roles["linear_0/bias"] == "input"


def test_loss_of_a_mup_network_starts_at_log_of_the_class_count():
    task = tasks.get("mlp-w256-d3-digits", batch_size=32)
    loss = task.loss(init(task), jax.random.key(1), batch_of(task))
    # Logits are biases of size 1 over a width of 256.
    assert float(loss) == pytest.approx(math.log(10), abs=0.02)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32


@pytest.mark.parametrize("sp", [False, True])
def test_a_forward_pass_computed_by_hand(sp):
    task = tasks.get(f"{'sp-' if sp else ''}mlp-w2-d2-synthetic:1x2x1:2")
    params = {
        "linear_0": {"kernel": jnp.array([[1.0, -1.0], [2.0, 0.5]]), "bias": [0.5, 1]},
        "linear_1": {"kernel": jnp.array([[1.0, 3.0], [0.0, -2.0]]), "bias": [-1, 0]},
        "readout": {"kernel": jnp.array([[1.0, 0.0], [2.0, -1.0]]), "bias": [1, 2]},
    }
    params = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32),
        params,
        is_leaf=lambda x: isinstance(x, list),
    )
    inputs = jnp.array([1.0, -1.0]).reshape(1, 1, 2, 1)
    # linear_0: (1 - 2 + 0.5, -1 - 0.5 + 1) = (-0.5, -0.5), ReLU (0, 0)
    # linear_1: (-1, 0), ReLU (0, 0); logits: the biases (1, 2), halved under μP.
    got = task.activations(params, inputs)
    assert list(got) == ["linear_0", "linear_1", "logits"]
    np.testing.assert_allclose(got["linear_0"], [[-0.5, -0.5]])
    np.testing.assert_allclose(got["linear_1"], [[-1.0, 0.0]])
    np.testing.assert_allclose(got["logits"], [[1.0, 2.0] if sp else [0.5, 1.0]])
    # The other sign: (1.5, 2.5), then (1.5 - 1, 4.5 - 5) = (0.5, -0.5), ReLU (0.5, 0).
    got = task.apply(params, -inputs)
    np.testing.assert_allclose(got, [[1.5, 2.0] if sp else [0.75, 1.0]])
    batch = {"inputs": -inputs, "labels": jnp.array([1])}
    gap = 0.5 if sp else 0.25  # Logit of the right class over the other.
    metrics = task.metrics(params, batch)
    assert float(metrics["loss"]) == pytest.approx(math.log(1 + math.exp(-gap)))
    assert float(metrics["accuracy"]) == 1.0
    loss = task.loss(params, jax.random.key(0), batch)
    assert float(loss) == pytest.approx(float(metrics["loss"]), rel=1e-6)


def test_accuracy_is_the_fraction_of_right_answers():
    task = tasks.get("mlp-w4-d1-synthetic:2x2x1:3")
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes_of(task))
    params["readout"]["bias"] = jnp.array([0.0, 1.0, 0.0])
    batch = {"inputs": jnp.zeros((4, 2, 2, 1)), "labels": jnp.array([1, 0, 1, 1])}
    assert float(task.metrics(params, batch)["accuracy"]) == 0.75


def test_gradients_are_finite_and_match_finite_differences():
    task = tasks.get(f"sp-{SMALL}", batch_size=16)
    params, batch = init(task), batch_of(task)
    loss = jax.jit(lambda p: task.loss(p, jax.random.key(1), batch))
    grads = jax.jit(jax.grad(loss))(params)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads))
    norm = math.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)))

    def moved(distance):
        return jax.tree.map(lambda p, g: p + distance * g / norm, params, grads)

    slope = float(loss(moved(2e-3)) - loss(moved(-2e-3))) / 4e-3
    assert slope == pytest.approx(norm, rel=0.01)


def test_particles_under_vmap_give_what_each_gives_alone():
    task = tasks.get(SMALL, batch_size=8)
    arrays = jax.device_put(task.dataset.arrays("train"))
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.jit(jax.vmap(task.init))(keys)

    def loss(params, key, arrays):
        return task.loss(params, key, task.sample(arrays, key))

    together = jax.jit(jax.vmap(loss, in_axes=(0, 0, None)))(params, keys, arrays)
    single = jax.jit(loss)
    for i, key in enumerate(keys):
        particle = jax.tree.map(lambda x, i=i: x[i], params)
        alone = single(particle, key, arrays)
        np.testing.assert_allclose(together[i], alone, rtol=1e-5)
    assert len(np.unique(together)) == 3


def test_gradient_descent_learns_the_embedded_digits():
    task = tasks.get("sp-mlp-w32-d2-digits", batch_size=64)
    arrays = jax.device_put(task.dataset.arrays("train"))

    def step(params, key):
        grads = jax.grad(task.loss)(params, key, task.sample(arrays, key))
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), None

    params = init(task)
    keys = jax.random.split(jax.random.key(1), 300)
    params = jax.jit(lambda p: jax.lax.scan(step, p, keys)[0])(params)
    valid = task.dataset.normalize(task.dataset.arrays("valid"))
    assert float(task.metrics(params, valid)["accuracy"]) > 0.85


def test_a_template_is_refused_with_the_name_to_give():
    with pytest.raises(ValueError, match="'mlp-w128-d3-digits'"):
        tasks.get("mlp-d3-digits")


def test_get_takes_a_parsed_name_and_keeps_its_text():
    parsed = tasks.names.parse(SMALL)
    task = tasks.get(parsed, batch_size=4)
    assert task.name == SMALL
    assert batch_of(task)["inputs"].shape == (4, 4, 4, 1)


@pytest.mark.parametrize("field", ["batch_size", "width", "depth"])
def test_sizes_below_one_are_refused(field):
    sizes: dict[str, Any] = {"batch_size": 4, "width": 4, "depth": 1, field: 0}
    dataset = tasks.data.load("synthetic:2x2x1:2")
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        mlp.MLPTask(name="x", dataset=dataset, **sizes)


@pytest.mark.parametrize(
    ("option", "activation"), [("ln", relu), ("tanh-ln", np.tanh), ("tanh", np.tanh)]
)
@pytest.mark.parametrize("sp", [False, True])
def test_layer_norm_comes_before_the_activation_function(sp, option, activation):
    task = tasks.get(f"{'sp-' if sp else ''}mlp-w4-d2-{option}-synthetic:1x3x1:2")
    params = random_params(shapes_of(task), seed=1)
    inputs = np.random.default_rng(0).standard_normal((5, 1, 3, 1)).astype(np.float32)
    got = task.activations(params, inputs)
    x = np.float64(inputs).reshape(5, 3)
    for i in range(2):
        x = x @ params[f"linear_{i}"]["kernel"] + params[f"linear_{i}"]["bias"]
        np.testing.assert_allclose(got[f"linear_{i}"], x, rtol=1e-4, atol=1e-5)
        if "ln" in option:
            x = layer_norm(x, **params[f"norm_{i}"])
        x = activation(x)
    x = x @ params["readout"]["kernel"] + params["readout"]["bias"]
    np.testing.assert_allclose(got["logits"], x if sp else x / 4, rtol=1e-4, atol=1e-5)
    assert list(got) == ["linear_0", "linear_1", "logits"]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # VeLOdrome's 128x128x128: 393,344 + 2 · 16,512 + 1,290, and 3 · 256 of norms.
        ("mlp-w128-d3-synthetic:32x32x3:10", 427_658),
        ("mlp-w128-d3-ln-synthetic:32x32x3:10", 428_426),
        ("mlp-w256-d3-synthetic:32x32x3:10", 920_842),
        ("mlp-w256-d3-ln-synthetic:32x32x3:10", 922_378),
    ],
)
def test_parameter_counts(name, count):
    for task in (tasks.get(name), tasks.get(f"sp-{name}")):
        assert sum(x.size for x in jax.tree.leaves(shapes_of(task))) == count


@pytest.mark.parametrize("sp", [False, True])
def test_gains_start_at_one_offsets_at_zero_and_both_count_as_input(sp):
    task = tasks.get(f"{'sp-' if sp else ''}mlp-w8-d2-ln-synthetic:4x4x1:3")
    params = init(task)
    for i in range(2):
        assert (params[f"norm_{i}"]["scale"] == 1).all()
        assert (params[f"norm_{i}"]["bias"] == 0).all()
        if not sp:
            scalings = task.scalings()[f"norm_{i}"]
            assert scalings["scale"].role == scalings["bias"].role == "input"
