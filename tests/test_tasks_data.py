import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasks
from tasks import base, data


def test_digits_are_the_images_of_scikit_learn_with_a_tenth_for_validation():
    dataset = data.load("digits")
    counts = {s: a["labels"].shape[0] for s, a in dataset.splits.items()}
    assert counts == {"train": 1617, "valid": 180, "test": 180}
    assert dataset.input_shape == (8, 8, 1)
    assert dataset.num_classes == 10
    train = dataset.arrays("train")
    assert train["inputs"].dtype == np.uint8
    assert train["labels"].dtype == np.int32
    assert train["inputs"].min() == 0
    assert train["inputs"].max() == 255
    # The first image is a nought; its top row in sixteenths is 0 0 5 13 9 1 0 0.
    assert train["labels"][0] == 0
    top = np.array([0, 0, 5, 13, 9, 1, 0, 0]) * 255 / 16
    np.testing.assert_array_equal(train["inputs"][0, 0, :, 0], np.rint(top))


def test_no_example_is_in_both_train_and_validation_splits():
    arrays = {"inputs": np.zeros((20, 1, 1, 1), np.uint8), "labels": np.arange(20)}
    splits = base.complete_splits({"train": arrays})
    assert list(splits["train"]["labels"]) == list(range(18))
    assert list(splits["valid"]["labels"]) == [18, 19]
    assert splits["test"] is splits["valid"]


def test_a_train_split_of_one_example_is_refused():
    with pytest.raises(ValueError, match="must hold 2 examples, got 1"):
        base.complete_splits({"train": {"labels": np.zeros(1, np.int32)}})


def test_splits_that_a_set_brings_are_kept_whole():
    train, valid, test = ({"labels": np.arange(n)} for n in (10, 3, 4))
    both = base.complete_splits({"train": train, "valid": valid, "test": test})
    assert both == {"train": train, "valid": valid, "test": test}


@pytest.mark.parametrize("name", ["digits", "synthetic:4x5x3:7"])
def test_normalized_training_images_have_mean_0_and_std_1_per_channel(name):
    dataset = data.load(name)
    inputs = dataset.normalize(dataset.arrays("train"))["inputs"]
    assert inputs.dtype == jnp.float32
    np.testing.assert_allclose(inputs.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std((0, 1, 2)), 1, atol=1e-5)


def test_a_batch_is_a_pure_function_of_the_key():
    dataset = data.load("digits")
    arrays = jax.device_put(dataset.arrays("train"))
    sample = jax.jit(dataset.sample, static_argnums=2)
    first, again = (sample(arrays, jax.random.key(3), 16) for _ in range(2))
    eager = dataset.sample(arrays, jax.random.key(3), 16)
    other = sample(arrays, jax.random.key(4), 16)
    for key in ("inputs", "labels"):
        np.testing.assert_array_equal(first[key], again[key])
        np.testing.assert_allclose(first[key], eager[key], rtol=1e-6, atol=1e-6)
    assert np.any(first["inputs"] != other["inputs"])
    assert first["inputs"].shape == (16, 8, 8, 1)
    assert first["labels"].dtype == jnp.int32


def test_batches_cover_the_split_evenly_and_keep_images_with_their_labels():
    dataset = base.Dataset(
        name="counted",
        num_classes=50,
        input_shape=(1, 1, 1),
        mean=(0.0,),
        std=(1.0,),
        splits={
            "train": {
                "inputs": np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1),
                "labels": np.arange(50, dtype=np.int32),
            }
        },
    )
    batch = dataset.sample(dataset.arrays("train"), jax.random.key(0), 50 * 400)
    drawn = np.rint(np.asarray(batch["inputs"]).ravel() * 255).astype(int)
    np.testing.assert_array_equal(drawn, batch["labels"])
    counts = np.bincount(drawn, minlength=50)
    # 400 expected each, standard deviation 20.
    assert counts.size == 50
    assert np.all(np.abs(counts - 400) < 5 * 20)


def test_arrays_given_to_jit_do_not_become_constants_of_the_program():
    dataset = data.load("digits")
    arrays = jax.device_put(dataset.arrays("train"))
    sample = jax.jit(dataset.sample, static_argnums=2)
    text = sample.lower(arrays, jax.random.key(0), 8).as_text()
    assert len(text) < arrays["inputs"].nbytes


def test_embedded_sets_take_the_options_too():
    dataset = data.load("digits:4x4:gray")
    whole = data.load("digits").arrays("train")["inputs"].astype(np.float64)
    blocks = whole.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4))
    assert dataset.input_shape == (4, 4, 1)
    assert dataset.name == "digits:4x4:gray"
    np.testing.assert_array_equal(dataset.arrays("train")["inputs"], np.rint(blocks))


def test_synthetic_sets_hold_every_class_the_same_in_every_load():
    dataset = data.load("synthetic:3x4x2:5")
    assert dataset.input_shape == (3, 4, 2)
    for split in ("train", "valid", "test"):
        assert set(dataset.arrays(split)["labels"]) == set(range(5))
    data._synthetic.cache_clear()
    again = data.load("synthetic:3x4x2:5").arrays("test")["inputs"]
    np.testing.assert_array_equal(dataset.arrays("test")["inputs"], again)


def test_an_unknown_split_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"one of \['test', 'train', 'valid'\], got 'x'"
    ):
        data.load("digits").arrays("x")


def test_importing_tasks_opens_nothing_and_imports_no_heavy_library():
    heavy = ("tensorflow", "tensorflow_datasets", "sklearn", "flax", "tqdm")
    code = f"import sys, tasks; print([m for m in {heavy!r} if m in sys.modules])"
    root = tasks.__path__[0].rsplit("/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
