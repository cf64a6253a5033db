import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import data
from tasks.data import image_dataset

SHAPE = (5, 4, 2)


def made(count=1, **options):
    """A set of random images whose labels are their numbers."""
    rng = np.random.default_rng(0)
    split = {
        "inputs": rng.integers(1, 256, (count, *SHAPE), dtype=np.uint8),
        "labels": np.arange(count, dtype=np.int32),
    }
    return image_dataset.ImageDataset(
        name="made",
        splits={"train": split},
        classes=count,
        mean=(0.3, 0.6),
        std=(0.2, 0.4),
        **options,
    )


def raw(dataset, inputs):
    """Undo the normalization: uint8."""
    mean, std = np.asarray(dataset.mean), np.asarray(dataset.std)
    return np.rint((np.asarray(inputs) * std + mean) * 255).astype(np.uint8)


def versions(image, crop, flip):
    """Every image that cropping and mirroring may give, in plain numpy."""
    h, w, _ = image.shape
    padded = np.pad(image, ((crop, crop), (crop, crop), (0, 0)))
    offsets = itertools.product(range(2 * crop + 1), repeat=2)
    shifted = [padded[y : y + h, x : x + w] for y, x in offsets]
    return shifted + [v[:, ::-1] for v in shifted] * flip


@pytest.mark.parametrize(("crop", "flip"), [(2, True), (1, False), (0, True)])
def test_crops_and_mirrors_are_uniform_over_exactly_those_there_can_be(crop, flip):
    dataset = made(crop=crop, flip=flip)
    arrays = dataset.arrays("train")
    possible = {v.tobytes(): 0 for v in versions(arrays["inputs"][0], crop, flip)}
    assert len(possible) == (2 * crop + 1) ** 2 * (1 + flip)
    expected = 400
    size = expected * len(possible)
    batch = jax.jit(dataset.sample, static_argnums=2)(arrays, jax.random.key(0), size)
    for image in raw(dataset, batch["inputs"]):
        possible[image.tobytes()] += 1  # A KeyError is an image that cannot be.
    counts = np.asarray(list(possible.values()))
    assert np.all(np.abs(counts - expected) < 5 * expected**0.5)


def test_padding_is_black_before_normalization():
    dataset = made(crop=3)
    batch = dataset.sample(dataset.arrays("train"), jax.random.key(1), 64)
    black = -np.asarray(dataset.mean) / np.asarray(dataset.std)
    padded = raw(dataset, batch["inputs"]) == 0
    assert padded.any()  # The images themselves hold no zeros.
    values = np.broadcast_to(black, batch["inputs"].shape)[padded]
    np.testing.assert_allclose(np.asarray(batch["inputs"])[padded], values, rtol=1e-6)


def test_cropped_images_keep_their_labels():
    dataset = made(count=6, crop=1, flip=True)
    arrays = dataset.arrays("train")
    batch = dataset.sample(arrays, jax.random.key(2), 60)
    assert set(np.asarray(batch["labels"])) == set(range(6))
    for image, label in zip(
        raw(dataset, batch["inputs"]), batch["labels"], strict=True
    ):
        whole = versions(arrays["inputs"][label], 1, True)
        assert any(np.array_equal(image, v) for v in whole)


def test_evaluation_sees_images_as_they_are():
    plain, distorting = made(count=6), made(count=6, crop=2, flip=True)
    arrays, index = plain.arrays("train"), jnp.asarray([3, 0, 5])
    assert plain.num_examples(arrays) == distorting.num_examples(arrays) == 6
    want, got = plain.examples(arrays, index), distorting.examples(arrays, index)
    np.testing.assert_array_equal(got["inputs"], want["inputs"])
    np.testing.assert_array_equal(got["labels"], [3, 0, 5])
    np.testing.assert_array_equal(raw(plain, got["inputs"]), arrays["inputs"][index])


def test_without_options_a_batch_takes_one_draw_of_one_word_per_example():
    dataset = made(count=6)
    arrays, key = dataset.arrays("train"), jax.random.key(5)
    index = jax.random.bits(key, (7,)) % 6
    want = dataset.examples(arrays, index.astype(jnp.int32))
    got = dataset.sample(arrays, key, 7)
    np.testing.assert_array_equal(got["inputs"], want["inputs"])
    program = str(jax.make_jaxpr(lambda k: dataset.sample(arrays, k, 7))(key))
    assert program.count("random_bits") == 1
    assert "dynamic_slice" not in program


def test_distorted_batches_are_the_same_alone_and_under_vmap():
    dataset = made(count=6, crop=2, flip=True)
    arrays = jax.device_put(dataset.arrays("train"))
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(lambda key: dataset.sample(arrays, key, 5)["inputs"])(keys)
    for i in range(3):
        alone = dataset.sample(arrays, keys[i], 5)["inputs"]
        np.testing.assert_allclose(together[i], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("crop", [-1, 4])
def test_a_crop_that_could_lose_the_image_is_refused(crop):
    with pytest.raises(ValueError, match=rf"crop must lie in \[0, 4\) .* got {crop}"):
        made(crop=crop)


def test_names_ask_for_crops_and_mirrors():
    dataset = data.load("digits:crop2:flip")
    assert isinstance(dataset, image_dataset.ImageDataset)
    assert (dataset.crop, dataset.flip) == (2, True)
    plain = data.load("digits")
    assert isinstance(plain, image_dataset.ImageDataset)
    assert (plain.crop, plain.flip) == (0, False)
    assert dataset.mean == plain.mean
    with pytest.raises(ValueError, match=r"in \[0, 8\) .* got 8 in 'digits:crop8'"):
        data.load("digits:crop8")
