import jax.numpy as jnp
import numpy as np
import pytest
from helpers import prepared_data

from tasks import data
from tasks.data import image_dataset, velodrome


@pytest.fixture(scope="module")
def tfds():
    return prepared_data.tensorflow_datasets()


@pytest.fixture
def cifar10_dir():
    return prepared_data.folder_with("cifar10")


def counted(count):
    return {"labels": np.arange(count)}


def test_splits_are_the_first_80_and_the_next_10_percent():
    cut = velodrome.complete_splits({"train": counted(50), "test": counted(7)})
    assert list(cut["train"]["labels"]) == list(range(40))
    assert list(cut["valid"]["labels"]) == list(range(40, 45))
    assert list(cut["test"]["labels"]) == list(range(7))
    own = velodrome.complete_splits({"train": counted(50), "valid": counted(3)})
    assert list(own["valid"]["labels"]) == list(range(40, 45))
    assert list(own["test"]["labels"]) == list(range(3))
    alone = velodrome.complete_splits({"train": counted(50)})
    assert list(alone["test"]["labels"]) == list(range(45, 50))
    with pytest.raises(ValueError, match="80, 10 and 10 % of them, got 3"):
        velodrome.complete_splits({"train": counted(3)})


def test_pixels_are_divided_by_255_and_nothing_else():
    dataset = data.load("digits:velodrome")
    assert isinstance(dataset, image_dataset.ImageDataset)
    assert (dataset.mean, dataset.std) == ((0.0,), (1.0,))
    whole = data.load("digits").arrays("train")
    train = dataset.arrays("train")
    assert train["labels"].shape == (1438,)  # 80 % of 1,797 is 1,437.6.
    assert dataset.arrays("valid")["labels"].shape == (1617 - 1438,)
    assert dataset.arrays("test")["labels"].shape == (1797 - 1617,)
    np.testing.assert_array_equal(train["inputs"], whole["inputs"][:1438])
    batch = dataset.examples(train, jnp.arange(1438))
    np.testing.assert_allclose(batch["inputs"], train["inputs"] / 255, rtol=1e-6)


def test_resizing_takes_the_two_nearest_pixels_and_does_not_round():
    image = np.asarray([[0, 10, 20, 30, 40, 50, 60, 71]], np.uint8)[..., None]
    got = velodrome.convert(np.repeat(image, 8, 0)[None], (2, 2), gray=False)
    # Centres at 1.5 and 5.5 of 8 pixels: means of pixels 1 and 2, and 5 and 6.
    np.testing.assert_array_equal(got[0, ..., 0], [[15, 55], [15, 55]])
    got = velodrome.convert(image[None], (1, 3), gray=False)
    # Centres at 5/6, 3.5 and 37/6.
    np.testing.assert_allclose(got[0, 0, :, 0], [25 / 3, 35, 60 + 11 / 6], rtol=1e-6)


def test_gray_is_the_mean_of_the_channels_after_resizing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    colour = velodrome.convert(image, (4, 4), gray=False)
    gray = velodrome.convert(image, (4, 4), gray=True)
    assert gray.shape == (3, 4, 4, 1)
    np.testing.assert_allclose(gray[..., 0], colour.mean(-1), rtol=1e-6)


@pytest.mark.parametrize(
    ("before", "after"), [((28, 28), (8, 8)), ((32, 32), (8, 8)), ((28, 28), (32, 32))]
)
def test_resizing_is_that_of_tensorflow_to_the_last_bit(tfds, before, after):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, *before, 3), dtype=np.uint8)
    got = velodrome.convert(images, after, gray=False)
    np.testing.assert_array_equal(got, tf.image.resize(images, after).numpy())


def test_cifar10_is_what_tfds_and_tensorflow_make_of_it(
    tfds, cifar10_dir, tmp_path, monkeypatch
):
    import tensorflow as tf

    monkeypatch.setenv("MULO_CACHE_DIR", str(tmp_path))
    builder = tfds.builder("cifar10", data_dir=cifar10_dir)
    theirs = {
        ours: builder.as_dataset(split=split, batch_size=-1)
        for ours, split in [
            ("train", "train[0:80%]"),
            ("valid", "train[80%:90%]"),
            ("test", "test"),
        ]
    }
    small = data.load("cifar10:8x8:gray:velodrome", cifar10_dir)
    for split, want in theirs.items():
        arrays = small.arrays(split)
        np.testing.assert_array_equal(arrays["labels"], want["label"])
        pixels = tf.cast(tf.image.resize(want["image"], (8, 8)), tf.float32) / 255.0
        pixels = tf.reduce_mean(pixels, axis=3, keepdims=True).numpy()
        got = small.examples(arrays, jnp.arange(len(pixels)))["inputs"]
        np.testing.assert_allclose(got, pixels, rtol=1e-6, atol=1e-7)
    full = data.load("cifar10:velodrome", cifar10_dir)
    np.testing.assert_array_equal(
        full.arrays("train")["inputs"], theirs["train"]["image"]
    )
    # The undecoded pixels are shared with the plain set.
    folders = {p.name for p in tmp_path.iterdir()}
    assert folders == {"cifar10", "cifar10-8x8-gray-velodrome"}


def test_the_first_80_percent_of_a_set_in_several_files_are_those_of_tfds(
    tfds, tmp_path, monkeypatch
):
    monkeypatch.setenv("MULO_CACHE_DIR", str(tmp_path / "cache"))

    class Sharded(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(2, 2, 1)),
                "label": tfds.features.ClassLabel(num_classes=200),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(200):
                yield i, {"image": np.full((2, 2, 1), i, np.uint8), "label": i}

    folder = tmp_path / "data"
    builder = Sharded(data_dir=folder)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=4)
    )
    assert builder.info.splits["train"].num_shards == 4
    dataset = data.load("sharded:velodrome", folder)
    for ours, theirs in [("train", "train[0:80%]"), ("valid", "train[80%:90%]")]:
        want = builder.as_dataset(split=theirs, batch_size=-1)["label"].numpy()
        assert set(dataset.arrays(ours)["labels"]) == set(want)
