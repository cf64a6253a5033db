import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasks
from tasks import augmentation, base
from tasks.augmentation import AugmentConfig, AugmentedFamily

NAME = "sp-mlp-w6-d2-synthetic:2x2x1:5"
LEVELS = ("global", "tensor", "parameter")


@functools.cache
def opened(name) -> base.Task:
    return tasks.get(name, batch_size=16)


def task(name=NAME) -> base.Task:
    return opened(name)


def family(name=NAME, **config) -> AugmentedFamily:
    return AugmentedFamily(task(name), AugmentConfig(**config))


def members(made: AugmentedFamily, count: int):
    """What tells ``count`` members apart, as numpy arrays with a leading axis."""
    keys = jax.random.split(jax.random.key(0), count)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(made.sample))(keys))


def one_batch(name=NAME):
    return task(name).sample(task(name).dataset.arrays("train"), jax.random.key(7))


@pytest.mark.parametrize("level", LEVELS)
def test_reparametrization_keeps_the_function_and_scales_gradients(level):
    made, batch, key = family(reparam=level), one_batch(), jax.random.key(0)
    plain, params = task(), task().init(key)
    loss, grads = jax.value_and_grad(plain.loss)(params, key, batch)
    member = made.at(made.sample(jax.random.key(3)))
    assert isinstance(member, augmentation.AugmentedTask)
    scaled = member.init(key)
    own_loss, own_grads = jax.value_and_grad(member.loss)(scaled, key, batch)
    assert own_loss == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(
        member.apply(scaled, batch["inputs"]),
        plain.apply(params, batch["inputs"]),
        rtol=1e-4,
        atol=1e-6,
    )
    want = plain.activations(params, batch["inputs"])
    for name, got in member.activations(scaled, batch["inputs"]).items():
        np.testing.assert_allclose(got, want[name], rtol=1e-4, atol=1e-6)
    metrics, plain_metrics = (
        m.metrics(p, batch) for m, p in ((member, scaled), (plain, params))
    )
    assert metrics["accuracy"] == plain_metrics["accuracy"]

    def check(path, p, g, p0, g0, scale):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(p * scale, p0, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(g / scale, g0, rtol=1e-4, atol=1e-6, err_msg=name)

    jax.tree_util.tree_map_with_path(
        check, scaled, own_grads, params, grads, member.scales
    )


@pytest.mark.parametrize("level", LEVELS)
def test_scales_are_log_uniform_in_their_range(level):
    scale = members(family(reparam=level), 4000)["scale"]
    shapes = {"global": (), "tensor": (6,), "parameter": (30 + 42 + 35,)}
    assert scale.shape == (4000, *shapes[level])
    exponent = (np.log10(scale) + 3) / 6  # Uniform in [0, 1] for [1e-3, 1e3].
    assert exponent.min() >= -1e-6
    assert exponent.max() <= 1 + 1e-6
    count = exponent.size
    for share in (0.1, 0.5, 0.9):
        error = (share * (1 - share) / count) ** 0.5
        assert abs(np.mean(exponent < share) - share) < 5 * error


@pytest.mark.parametrize("level", ["tensor", "parameter"])
def test_scales_of_a_member_are_independent(level):
    exponent = np.log(members(family(reparam=level), 2000)["scale"])
    correlation = np.corrcoef(exponent, rowvar=False)
    off_diagonal = correlation[~np.eye(len(correlation), dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / 2000**0.5


def test_one_scale_per_tensor_is_one_for_all_its_parameters():
    made = family(reparam="tensor")
    member = made.at({"scale": jnp.arange(1.0, 7.0)})
    ratios = jax.tree.map(
        jnp.divide, task().init(jax.random.key(0)), member.init(jax.random.key(0))
    )
    kernels = [jnp.mean(r[n]["kernel"]) for r in [ratios] for n in ratios]
    np.testing.assert_allclose(kernels, [2.0, 4.0, 6.0], rtol=1e-6)  # Biases first.


def test_sgd_at_scale_1000_learns_a_million_times_as_fast():
    made = family(reparam="global", reparam_low=1e3, reparam_high=1e3)
    batch, key, rate = one_batch(), jax.random.key(0), 1e-7
    member = made.at(made.sample(key))
    scaled = member.init(key)
    stepped = jax.tree.map(
        lambda p, g: p - rate * g, scaled, jax.grad(member.loss)(scaled, key, batch)
    )
    params = task().init(key)
    want = jax.tree.map(
        lambda p, g: p - 1e6 * rate * g,
        params,
        jax.grad(task().loss)(params, key, batch),
    )
    jax.tree.map(
        lambda got, w: np.testing.assert_allclose(1e3 * got, w, rtol=1e-4, atol=1e-6),
        stepped,
        want,
    )
    moved = jax.tree.leaves(
        jax.tree.map(lambda w, p: jnp.abs(w - p).max(), want, params)
    )
    assert max(moved) > 1e-3


def test_label_subsets_have_every_size_and_hold_every_class():
    drawn = members(family(label_subset_min=2), 3000)
    sizes = np.bincount(drawn["num_classes"], minlength=6)
    assert list(sizes[:2]) == [0, 0]
    assert np.all(np.abs(sizes[2:] - 750) < 5 * (3000 * 0.25 * 0.75) ** 0.5)
    np.testing.assert_array_equal(
        np.sort(drawn["classes"], axis=1), np.tile(np.arange(5), (3000, 1))
    )
    for place in range(5):  # Each class is equally likely at each place.
        counts = np.bincount(drawn["classes"][:, place], minlength=5)
        assert np.all(np.abs(counts - 600) < 5 * (3000 * 0.2 * 0.8) ** 0.5)


def test_batches_hold_only_the_members_classes_each_as_often():
    made = family(label_subset_min=2)
    arrays = made.arrays("train")
    member = {
        "num_classes": jnp.int32(3),
        "classes": jnp.asarray([4, 0, 2, 1, 3], jnp.int32),
    }
    batch = made.at(member).sample(arrays, jax.random.key(0), 9000)
    counts = np.bincount(batch["labels"], minlength=5)
    assert list(counts[[1, 3]]) == [0, 0]
    assert np.all(np.abs(counts[[0, 2, 4]] - 3000) < 5 * 2000**0.5)
    # Images still go with their labels, and every one of a class is drawn.
    plain = task().dataset.examples(arrays, jnp.arange(512))
    numbers = {
        image.tobytes(): i for i, image in enumerate(np.asarray(plain["inputs"]))
    }
    index = np.asarray([numbers[x.tobytes()] for x in np.asarray(batch["inputs"])])
    np.testing.assert_array_equal(np.asarray(plain["labels"])[index], batch["labels"])
    for label in (0, 2, 4):
        seen = np.bincount(index[np.asarray(batch["labels"]) == label])
        of_class = np.flatnonzero(np.asarray(plain["labels"]) == label)
        mean = 3000 / len(of_class)
        assert np.all(np.abs(seen[of_class] - mean) < 5 * mean**0.5)


def test_label_subsets_crop_and_mirror_too():
    made = family("mlp-w4-d1-synthetic:3x3x1:5:crop1:flip", label_subset_min=1)
    arrays, key = made.arrays("train"), jax.random.key(0)
    whole = {"num_classes": jnp.int32(1), "classes": jnp.arange(5, dtype=jnp.int32)}
    batch = made.at(whole).sample(arrays, key, 200)
    assert set(np.asarray(batch["labels"])) == {0}
    plain = np.asarray(made.task.dataset.examples(arrays, jnp.arange(512))["inputs"])
    same = [
        np.any(np.all(x == plain, axis=(1, 2, 3))) for x in np.asarray(batch["inputs"])
    ]
    assert 0 < np.mean(same) < 0.2  # One of 18 versions is the image itself.


def test_noise_has_the_members_own_std_and_is_new_in_every_batch():
    made = family(input_noise_max=2.0)
    arrays, size = made.arrays("train"), 2000
    stds = members(made, 1000)["noise_std"]
    assert stds.min() >= 0.0
    assert stds.max() <= 2.0
    assert abs(stds.mean() - 1.0) < 5 * 2 / math.sqrt(12 * 1000)

    def noise(std, key):
        """What is added, found with the same draws of examples at no noise."""
        batches = [
            made.at({"noise_std": jnp.float32(s)}).sample(arrays, key, size)
            for s in (std, 0.0)
        ]
        np.testing.assert_array_equal(batches[0]["labels"], batches[1]["labels"])
        return np.asarray(batches[0]["inputs"] - batches[1]["inputs"])

    first, second = noise(0.5, jax.random.key(0)), noise(0.5, jax.random.key(1))
    count = first.size
    assert abs(first.std() - 0.5) < 5 * 0.5 / math.sqrt(2 * count)
    assert abs(first.mean()) < 5 * 0.5 / math.sqrt(count)
    correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    assert abs(correlation) < 5 / math.sqrt(count)


def test_each_member_uses_one_of_the_activation_functions():
    chosen = ("relu", "tanh", "gelu")
    made = family(activations=chosen)
    drawn = members(made, 3000)["activation"]
    counts = np.bincount(drawn, minlength=3)
    assert len(counts) == 3
    assert np.all(np.abs(counts - 1000) < 5 * (3000 / 3 * 2 / 3) ** 0.5)
    batch, key = one_batch(), jax.random.key(0)
    params = task().init(key)
    loss = jax.jit(lambda i: made.at({"activation": i}).loss(params, key, batch))
    losses = [float(loss(jnp.int32(i))) for i in range(3)]
    for got, name in zip(losses, chosen, strict=True):
        same = task(NAME.replace("-d2-", f"-d2-{name}-"))
        assert got == pytest.approx(float(same.loss(params, key, batch)), rel=1e-6)
    assert len(set(losses)) == 3


def test_everything_together_trains_under_vmap_as_it_does_alone():
    made = family(
        "mlp-w6-d1-synthetic:2x2x1:5",
        reparam="tensor",
        label_subset_min=2,
        input_noise_max=0.5,
        activations=("relu", "tanh"),
    )
    arrays = jax.device_put(dict(made.arrays("train")))

    def run(key):
        member = made.at(made.sample(key))
        params = member.init(key)
        batch = member.sample(arrays, key)
        return jax.value_and_grad(member.loss)(params, key, batch)

    keys = jax.random.split(jax.random.key(1), 3)
    together, one = jax.jit(jax.vmap(run))(keys), jax.jit(run)
    for i in range(3):
        alone = one(keys[i])
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5),
            together,
            alone,
        )
    assert made.at(made.sample(keys[0])).scalings() == made.task.scalings()


def test_a_member_takes_one_draw_however_much_is_turned_on():
    made = family(
        reparam="parameter",
        label_subset_min=1,
        input_noise_max=1.0,
        activations=("relu", "tanh"),
    )
    program = str(jax.make_jaxpr(made.sample)(jax.random.key(0)))
    assert program.count("random_bits") == 1


def test_arrays_say_where_every_class_lies():
    made = family("mlp-w4-d1-digits", label_subset_min=2)
    for split in ("train", "valid"):
        arrays = made.arrays(split)
        labels = arrays["labels"]
        for label in range(10):
            start, count = (arrays[f"class_{k}"][label] for k in ("start", "count"))
            index = arrays["by_class"][start : start + count]
            np.testing.assert_array_equal(index, np.flatnonzero(labels == label))
    assert made.arrays("train")["by_class"].dtype == np.int32
    assert family(input_noise_max=1.0).arrays("train") is task().dataset.arrays("train")


def test_only_classes_that_occur_are_drawn():
    # The first seven digits are 0 to 6.
    made = family("mlp-w4-d1-digits:first=7", label_subset_min=7)
    drawn = members(made, 20)
    assert set(drawn["num_classes"]) == {7}
    np.testing.assert_array_equal(np.sort(drawn["classes"])[3], np.arange(7))
    batch = made.at(made.sample(jax.random.key(0))).sample(
        made.arrays("train"), jax.random.key(1), 200
    )
    assert set(np.asarray(batch["labels"])) == set(range(7))
    with pytest.raises(ValueError, match="at most the number of classes, 7 "):
        family("mlp-w4-d1-digits:first=7", label_subset_min=8)


def test_a_split_without_a_class_of_the_train_split_is_refused():
    made = family("mlp-w4-d1-digits", label_subset_min=2)
    small = {k: v[:5] for k, v in made.task.dataset.arrays("train").items()}
    splits = {**made.task.dataset.splits, "valid": small}
    object.__setattr__(made.task.dataset, "splits", splits)
    try:
        with pytest.raises(ValueError, match=r"split 'valid' .* hold every class"):
            made.arrays("valid")
    finally:
        opened.cache_clear()


def test_text_can_be_reparametrized_and_nothing_else():
    name = "transformer-w4-d1-h1-s4-synthetic_text:5"
    made = family(name, reparam="global", reparam_low=1e2, reparam_high=1e2)
    key, batch = jax.random.key(0), one_batch(name)
    member = made.at(made.sample(key))
    assert member.positions == 4
    got = member.loss(member.init(key), key, batch)
    want = task(name).loss(task(name).init(key), key, batch)
    assert got == pytest.approx(float(want), rel=1e-5)
    for field in ("label_subset_min", "input_noise_max"):
        with pytest.raises(ValueError, match=rf"augment\.{field} is for images"):
            family(name, **{field: 1})
    with pytest.raises(ValueError, match=r"augment\.activations is for tasks with"):
        family(name, activations=("relu",))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"reparam": "globl"}, r"one of \['none', 'global', .*got 'globl'"),
        ({"reparam_low": 0.0}, "0 < low <= high < inf, got 0.0 and 1000.0"),
        ({"reparam_high": 1e-4}, "got 0.001 and 0.0001"),
        ({"reparam_high": math.inf}, "got 0.001 and inf"),
        ({"label_subset_min": -1}, "label_subset_min must be >= 0, got -1"),
        ({"input_noise_max": -0.5}, "input_noise_max must be finite and >= 0"),
        ({"input_noise_max": math.nan}, "input_noise_max must be finite and >= 0"),
        ({"activations": ("relu", "rel")}, "got 'rel'. Did you mean 'relu'"),
    ],
)
def test_a_bad_config_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**config)


def test_nothing_turned_on_is_the_task_itself():
    made = augmentation.family(task(), AugmentConfig())
    assert made.sample(jax.random.key(0)) == ()
    assert made.at(()) is task()
    on = [
        {"reparam": "global"},
        {"label_subset_min": 1},
        {"input_noise_max": 0.1},
        {"activations": ["tanh"]},
    ]
    for config in on:
        made = augmentation.family(task(), AugmentConfig(**config))
        assert isinstance(made, AugmentedFamily)
