import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import transformer_oracle as oracle
from helpers.task_trees import leaves_by_path, shapes_of

import mulo
import tasks
from tasks.models import vit

SMALL = "vit-w16-d2-p2-k8-synthetic:4x4x1:3"
TINY = "vit-w8-d1-p2-h2-synthetic:4x6x2:3"  # 2 rows of 3 patches of 8 numbers.


def images_of(task, count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *task.dataset.input_shape)).astype(np.float32)


def task_of(name, sp=False):
    return tasks.get(f"sp-{name}" if sp else name, batch_size=4)


@pytest.mark.parametrize("sp", [False, True])
@pytest.mark.parametrize("class_token", [False, True])
def test_the_forward_pass_equals_loops_in_numpy(sp, class_token):
    task = task_of(TINY.replace("-p2-", "-p2-cls-") if class_token else TINY, sp)
    assert task.positions == (7 if class_token else 6)
    params = oracle.random_params(shapes_of(task), seed=1)
    images = images_of(task, 2)
    got = jax.jit(task.activations)(params, images)
    for b in range(2):
        vectors = [params["class_token"]] if class_token else []
        for row in range(2):
            for column in range(3):
                pixels = [
                    images[b, 2 * row + i, 2 * column + j, channel]
                    for i in range(2)
                    for j in range(2)
                    for channel in range(2)
                ]
                vectors.append(oracle.linear(params["embed"], np.array(pixels)))
        x = np.stack(vectors) + params["positions"].astype(np.float64)
        x, want = oracle.blocks(
            params,
            x,
            depth=1,
            heads=2,
            scale=1 / 2 if sp else 1 / 4,
            causal=False,
            multiplier=1,
        )
        read = x[0] if class_token else sum(x) / 6
        want["logits"] = oracle.linear(params["readout"], read) * (1 if sp else 1 / 8)
        assert want.keys() == got.keys()
        for layer, value in want.items():
            np.testing.assert_allclose(
                got[layer][b], value, rtol=1e-4, atol=1e-5, err_msg=layer
            )


def test_cut_goes_through_patches_row_by_row():
    # Pixel (i, j) holds 10 i + j.
    image = 10 * jnp.arange(4).reshape(4, 1) + jnp.arange(6).reshape(1, 6)
    patches = vit.cut(image.reshape(1, 4, 6, 1), 2)
    assert patches.shape == (1, 6, 4)
    assert patches[0, 0].tolist() == [0, 1, 10, 11]
    assert patches[0, 1].tolist() == [2, 3, 12, 13]
    assert patches[0, 3].tolist() == [20, 21, 30, 31]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        (SMALL, 6_787),
        # The narrowest of the μLO paper's Table 10, at 4x4 pixels a patch.
        ("vit-w192-d3-p4-cls-h3-synthetic:32x32x3:1000", 1_550_056),
    ],
)
def test_the_number_of_parameters(name, count):
    task = task_of(name)
    shapes = leaves_by_path(shapes_of(task))
    w, classes = task.width, task.dataset.num_classes
    pixels = task.patch**2 * task.dataset.input_shape[-1]
    embed = pixels * w + w + task.positions * w + task.class_token * w
    blocks = task.depth * oracle.block_parameters(w)
    assert embed + blocks + 2 * w + w * classes + classes == count
    assert sum(math.prod(x.shape) for x in shapes.values()) == count
    assert {x.dtype for x in shapes.values()} == {jnp.dtype("float32")}
    twin = leaves_by_path(shapes_of(task_of(name, sp=True)))
    assert {k: v.shape for k, v in twin.items()} == {
        k: v.shape for k, v in shapes.items()
    }


def test_mup_roles_hold_where_width_classes_and_patches_are_equal():
    # 16 units, 16 patches of 16 numbers, 16 classes; 17 positions.
    task = task_of("vit-w16-d2-p4-cls-k8-synthetic:16x16x1:16")
    scalings = leaves_by_path(task.scalings())
    hidden = {"query", "key", "value", "out", "mlp_in", "mlp_out"}
    for path, scaling in scalings.items():
        layer = path.split("/")[-2] if "/" in path else path
        if path.endswith("kernel") and layer in hidden:
            assert scaling.role == "hidden", path
        elif path == "readout/kernel":
            assert (scaling.role, scaling.fan_in) == ("output", 16)
        else:
            assert scaling.role == "input", path
    assert {"embed/kernel", "positions", "class_token"} <= scalings.keys()
    assert task_of(SMALL, sp=True).scalings() is None


@pytest.mark.parametrize("sp", [False, True])
def test_vectors_before_the_blocks_start_with_the_std_that_the_docstring_says(sp):
    task = task_of("vit-w256-d1-p4-cls-h4-synthetic:16x16x1:4", sp)
    params = leaves_by_path(jax.jit(task.init)(jax.random.key(0)))
    stds = {
        "embed/kernel": 0.8796 / 4 if sp else 1 / 4,
        "embed/bias": 0.0,
        "positions": 0.02 if sp else 1.0,
        "class_token": 0.0 if sp else 1.0,
        "readout/kernel": 0.8796 / 16 if sp else 0.0,
    }
    for path, std in stds.items():
        leaf = params[path]
        # Five standard errors of a normal sample's std.
        tolerance = 5 / math.sqrt(2 * leaf.size)
        assert np.std(leaf) == pytest.approx(std, rel=tolerance), path


def test_the_loss_of_a_mup_network_starts_at_log_of_the_class_count():
    task = task_of(SMALL)
    params = jax.jit(task.init)(jax.random.key(0))
    batch = task.sample(task.dataset.arrays("train"), jax.random.key(1))
    loss = jax.jit(task.loss)(params, jax.random.key(2), batch)
    # The readout and its biases are zero, so all classes are as likely.
    assert float(loss) == pytest.approx(math.log(3), rel=1e-6)


def test_bf16_changes_logits_by_little_and_keeps_parameters_float32():
    names = [f"vit-w16-d2-p2-k8{x}-synthetic:4x4x1:3" for x in ("", "-bf16")]
    both = [task_of(name) for name in names]
    assert {x.dtype for x in jax.tree.leaves(shapes_of(both[1]))} == {
        jnp.dtype("float32")
    }
    params = oracle.random_params(shapes_of(both[0]), seed=2)
    images = images_of(both[0], 4)
    exact, rounded = (np.asarray(jax.jit(t.apply)(params, images)) for t in both)
    assert rounded.dtype == np.float32
    error = np.std(exact - rounded) / np.std(exact)
    # Some ten roundings in a row of 2^-9 each, adding up as random ones do.
    assert 1e-4 < error < 10 * 2**-9


@pytest.mark.parametrize("sp", [False, True])
def test_training_learns_the_synthetic_images(sp):
    name = SMALL.replace("-d2-", "-d1-")  # Quicker to compile.
    task = tasks.get(f"sp-{name}" if sp else name, batch_size=16)
    arrays = jax.device_put(task.dataset.arrays("train"))
    tx = mulo.adam(0.01 if sp else 0.1, mup=task.scalings(), base_width=1)

    def step(carry, key):
        params, state = carry
        batch = task.sample(arrays, key)
        grads = jax.grad(task.loss)(params, key, batch)
        updates, state = tx.update(grads, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), None

    params = jax.jit(task.init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 60)
    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, keys))(
        (params, tx.init(params))
    )
    valid = task.dataset.examples(task.dataset.arrays("valid"), jnp.arange(64))
    assert float(jax.jit(task.metrics)(params, valid)["accuracy"]) > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("w64-d1-p3", r"divide the 4x8 images .* got 3; one of -p1, -p2, -p4 would"),
        ("w64-d1-p8", r"divide the 4x8 images .* got 8; one of -p1, -p2, -p4 would"),
        ("w64-d1-p0", "patch must be at least 1, got 0"),
        ("w32-d1", r"multiple of head_dim \(64, the default\), got 32; -k32 would"),
        ("w16-d1-h3", "heads must divide the width 16, got 3; -h2 would"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_one_that_does(options, message):
    with pytest.raises(ValueError, match=message):
        tasks.get(f"vit-{options}-synthetic:4x8x1:3")


def test_text_is_refused():
    text = tasks.data.load("synthetic_text:16", modality="text")
    with pytest.raises(ValueError, match="needs images, got the data set"):
        vit.ViTTask("x", text, 4, 64, 1)
