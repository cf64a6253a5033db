import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from helpers import prepared_data

import tasks
from tasks.data import names as data_names
from tasks.data import tfds_images, tfds_sets


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MULO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="module")
def tfds():
    return prepared_data.tensorflow_datasets()


@pytest.fixture
def cifar10_dir():
    return prepared_data.folder_with("cifar10")


@pytest.fixture
def store(tfds, tmp_path):
    """Prepare a made-up set in tfds's own format; returns its folder."""
    import tensorflow as tf

    def prepare(name, features, **splits):
        any_shape: Any = None
        dtypes = {"image": tf.uint8, "label": tf.int64}
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            data_dir=tmp_path / "data",
            features=tfds.features.FeaturesDict(features),
            split_datasets={
                split: tf.data.Dataset.from_generator(
                    lambda examples=examples: iter(examples),
                    output_signature={
                        k: tf.TensorSpec(any_shape, dtypes[k]) for k in features
                    },
                )
                for split, examples in splits.items()
            },
            disable_shuffling=True,
        )
        return tmp_path / "data"

    return prepare


def examples(shapes, num_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"image": rng.integers(0, 256, s, dtype=np.uint8), "label": i % num_classes}
        for i, s in enumerate(shapes)
    ]


def stacked(made):
    return np.stack([e["image"] for e in made]), [e["label"] for e in made]


def test_cifar10_is_read_from_tfds_and_then_from_the_cache_alone(
    tfds, cifar10_dir, tmp_path
):
    dataset = tasks.data.load("cifar10:8x8:gray", cifar10_dir)
    assert dataset.input_shape == (8, 8, 1)
    assert dataset.num_classes == 10
    builder = tfds.builder("cifar10", data_dir=cifar10_dir)
    sizes = {s: builder.info.splits[s].num_examples for s in ("train", "test")}
    counts = {s: a["labels"].shape[0] for s, a in dataset.splits.items()}
    assert counts["train"] + counts["valid"] == sizes["train"]
    assert counts["valid"] == sizes["train"] // 10
    assert counts["test"] == sizes["test"]
    for split in ("train", "valid", "test"):
        classes = np.bincount(dataset.arrays(split)["labels"], minlength=10)
        assert classes.min() > 0.05 * classes.sum()
    # The first images as tfds itself gives them.
    plain = list(tfds.as_numpy(builder.as_dataset(split="train[:5]")))
    luma = np.stack([e["image"] for e in plain]) @ [0.299, 0.587, 0.114]
    blocks = luma.reshape(5, 8, 4, 8, 4).mean((2, 4))
    np.testing.assert_array_equal(
        dataset.arrays("train")["inputs"][:5, ..., 0], np.rint(blocks)
    )
    assert [e["label"] for e in plain] == list(dataset.arrays("train")["labels"][:5])
    # A new process that cannot import TensorFlow reads the cache, and trains on it.
    code = (
        "import sys; sys.modules['tensorflow'] = None; "
        "sys.modules['tensorflow_datasets'] = None\n"
        "import tasks, jax\n"
        "task = tasks.get('mlp-w8-d2-cifar10:8x8:gray', batch_size=4)\n"
        "key = jax.random.key(0)\n"
        "batch = task.sample(task.dataset.arrays('train'), key)\n"
        "print(float(task.loss(task.init(key), key, batch)))"
    )
    env = os.environ | {
        "TFDS_DATA_DIR": str(cifar10_dir),
        "JAX_PLATFORMS": "cpu",
        "MULO_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=prepared_data.ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(np.log(10), abs=0.2)


def test_cifar10_in_full_size_normalizes_to_mean_0_and_std_1(tfds, cifar10_dir):
    dataset = tasks.data.load("cifar10", cifar10_dir)
    assert dataset.input_shape == (32, 32, 3)

    @jax.jit
    def mean_and_std(arrays):
        inputs = dataset.normalize(arrays)["inputs"].reshape(-1, 3)
        return inputs.mean(0), inputs.std(0)

    mean, std = mean_and_std(dataset.arrays("train"))
    np.testing.assert_allclose(mean, 0, atol=1e-3)
    np.testing.assert_allclose(std, 1, atol=1e-3)


def test_a_set_of_one_channel_with_its_own_validation_split(tfds, store):
    features = {
        "image": tfds.features.Image(shape=(6, 4, 1)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    made = {
        split: examples([(6, 4, 1)] * n, seed=n)
        for split, n in [("train", 30), ("validation", 7), ("test", 5)]
    }
    folder = store("grays", features, **made)
    dataset = tasks.data.load("grays", folder)
    assert dataset.input_shape == (6, 4, 1)
    assert dataset.num_classes == 3
    for ours, theirs in [("train", "train"), ("valid", "validation"), ("test", "test")]:
        inputs, labels = stacked(made[theirs])
        np.testing.assert_array_equal(dataset.arrays(ours)["inputs"], inputs)
        assert list(dataset.arrays(ours)["labels"]) == labels


def test_images_that_vary_in_size_need_one_and_are_resized_each(tfds, store):
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    shapes = [(4, 4, 3), (8, 4, 3), (6, 10, 3), (2, 2, 3)] * 3
    made = examples(shapes)
    folder = store("ragged", features, train=made)
    with pytest.raises(
        ValueError, match="vary in size: give one, as in 'ragged:32x32'"
    ):
        tasks.data.load("ragged", folder)
    dataset = tasks.data.load("ragged:2x2", folder)
    assert dataset.input_shape == (2, 2, 3)
    train = dataset.arrays("train")["inputs"]
    assert train.shape[0] == 11
    for got, example in zip(train, made[:11], strict=True):
        h, w, c = example["image"].shape
        blocks = example["image"].reshape(2, h // 2, 2, w // 2, c).mean((1, 3))
        np.testing.assert_array_equal(got, np.rint(blocks))


def test_a_test_split_without_labels_is_left_out(tfds, store):
    features = {
        "image": tfds.features.Image(shape=(2, 2, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    made = examples([(2, 2, 3)] * 20)
    hidden = [e | {"label": -1} for e in examples([(2, 2, 3)] * 4)]
    dataset = tasks.data.load("half", store("half", features, train=made, test=hidden))
    assert dataset.arrays("test")["labels"].shape == (2,)
    assert dataset.arrays("test")["labels"].min() >= 0


def test_a_set_without_class_labels_says_which_features_it_has(tfds, store):
    features = {
        "image": tfds.features.Image(shape=(2, 2, 3)),
        "label": tfds.features.Scalar(np.int64),
    }
    folder = store("unlabelled", features, train=examples([(2, 2, 3)] * 3))
    with pytest.raises(ValueError, match=r"class label, got .*'label': 'Scalar'"):
        tasks.data.load("unlabelled", folder)


def test_an_unprepared_set_says_where_it_was_sought_and_how_to_prepare_it(
    tfds, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"python -c .*tfds.load\('cifar100'") as error:
        tasks.get("mlp-w8-d2-cifar100")
    assert f"found none in {tmp_path} (TFDS_DATA_DIR" in str(error.value)
    assert not (tmp_path / "cifar100").exists()


@pytest.mark.parametrize(
    ("name", "near"), [("cifar1", "cifar10"), ("digit", "digits"), ("mnits", "mnist")]
)
def test_an_unknown_set_gets_the_nearest_name(tfds, tmp_path, name, near):
    with pytest.raises(
        ValueError, match=f"got '{name}'. Did you mean '{near}'"
    ) as error:
        tasks.data.load(name, tmp_path)
    assert "digits" in str(error.value)
    assert "synthetic:HxWxC:classes" in str(error.value)


def test_an_unknown_configuration_is_an_error_that_names_it(tfds, tmp_path):
    with pytest.raises(ValueError, match="33x33"):
        tasks.data.load("imagenet_resized/33x33", tmp_path)


def plain_features(tfds):
    return {
        "image": tfds.features.Image(shape=(2, 2, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }


def test_a_set_beyond_the_budget_is_refused_before_it_is_decoded(tfds, store, tmp_path):
    made = examples([(2, 2, 3)] * 20)
    folder = store("plain", plain_features(tfds), train=made, test=made[:5])
    # 12 bytes of pixels and 4 of label each.
    with pytest.raises(ValueError, match=r"needs 400 bytes .* budget .* 399") as error:
        tasks.data.load("plain", folder, data_budget_bytes=399)
    assert "':first=17'" in str(error.value)
    assert not (tmp_path / "cache").exists()
    assert tasks.data.load("plain", folder, data_budget_bytes=400).name == "plain"
    # From the cache it is refused as well.
    with pytest.raises(ValueError, match="needs 400 bytes"):
        tasks.data.load("plain", folder, data_budget_bytes=399)


def test_a_test_split_that_is_left_out_is_not_counted(tfds, store):
    made = examples([(2, 2, 3)] * 20)
    hidden = [e | {"label": -1} for e in made]
    folder = store("half", plain_features(tfds), train=made, test=hidden)
    dataset = tasks.data.load("half", folder, data_budget_bytes=320)
    assert dataset.splits["test"] is dataset.splits["valid"]


def test_names_that_need_the_same_decoded_images_share_a_cache(
    tfds, store, tmp_path, monkeypatch
):
    made = examples([(2, 2, 3)] * 20)
    folder = store("plain", plain_features(tfds), train=made)
    whole = tasks.data.load("plain", folder)
    monkeypatch.setattr(tfds_sets, "builder", None)
    names = ("plain:first=5", "plain:flip", "plain:crop1:first=5", "plain:velodrome")
    first, flip, crop, velodrome = (tasks.data.load(name, folder) for name in names)
    assert [d.name for d in (first, flip, crop, velodrome)] == list(names)
    assert list(first.arrays("train")["labels"]) == [0, 1, 2, 0, 1]
    assert first.mean == whole.mean  # The same pixel is the same input.
    assert crop.arrays("train")["inputs"].shape == (5, 2, 2, 3)
    for kind in ("inputs", "labels"):
        for dataset in (first, flip):
            np.testing.assert_array_equal(
                dataset.arrays("valid")[kind], whole.arrays("valid")[kind]
            )
    counts = [velodrome.arrays(s)["labels"].size for s in ("train", "valid", "test")]
    assert counts == [16, 2, 2]
    assert len(os.listdir(tmp_path / "cache")) == 1


def test_images_resized_as_velodrome_does_have_a_cache_of_their_own(
    tfds, store, tmp_path
):
    folder = store("plain", plain_features(tfds), train=examples([(2, 2, 3)] * 20))
    ours = tasks.data.load("plain:1x1", folder)
    theirs = tasks.data.load("plain:1x1:velodrome", folder)
    assert ours.arrays("train")["inputs"].dtype == np.uint8
    assert theirs.arrays("train")["inputs"].dtype == np.float32
    assert len(os.listdir(tmp_path / "cache")) == 2
    again = tasks.data.load("plain:1x1:velodrome", folder)
    np.testing.assert_array_equal(
        again.arrays("train")["inputs"], theirs.arrays("train")["inputs"]
    )


def test_damaged_prepared_images_are_an_error_that_says_what_to_remove(
    tfds, store, tmp_path
):
    folder = store("plain", plain_features(tfds), train=examples([(2, 2, 3)] * 20))
    (record,) = folder.glob("**/*train.tfrecord*")
    record.write_bytes(record.read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"Remove {folder / 'plain' / '1.0.0'}"):
        tasks.data.load("plain", folder)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


@pytest.mark.parametrize("missing", ["tensorflow", "tensorflow_datasets"])
def test_without_tfds_the_error_says_what_to_install(monkeypatch, tmp_path, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=r"pip install 'mulo\[data\]'") as error:
        tfds_images.load(data_names.parse("digit"), tmp_path, 1 << 30)
    assert "Did you mean 'digits'?" in str(error.value)
