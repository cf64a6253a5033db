import importlib
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasks
from tasks import base, data
from tasks.data import image_dataset


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
    dataset = image_dataset.ImageDataset(
        name="counted",
        classes=50,
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


@pytest.mark.parametrize("name", ["digits", "digits:4x4", "synthetic:8x8x1:10"])
def test_images_are_no_text_and_the_error_lists_what_is(name):
    with pytest.raises(ValueError, match=f"{name}' holds images, .* needs text: pyst"):
        data.load(name, modality="text")
    with pytest.raises(ValueError, match="needs text: pystdlib, synthetic_text"):
        tasks.get(f"transformer-w16-d1-k8-s8-{name}")


@pytest.mark.parametrize("name", ["pystdlib", "synthetic_text:16"])
def test_text_is_no_images_and_the_error_lists_what_is(name):
    with pytest.raises(ValueError, match=f"{name}' holds text, .* needs images: digit"):
        data.load(name)
    with pytest.raises(ValueError, match="needs images: digits, synthetic:HxWxC"):
        tasks.get(f"mlp-w16-d1-{name}")


def test_options_of_the_other_modality_are_refused_by_name():
    with pytest.raises(ValueError, match=r"\[':8x8', ':gray'\] are for images"):
        data.load("pystdlib:8x8:gray", modality="text")
    with pytest.raises(ValueError, match=r"':sp32k=…'\] are for text"):
        data.load("cifar10:sp32k=some.model")
    with pytest.raises(ValueError, match="made of tokens, not of pieces"):
        data.load("synthetic_text:16:sp32k=some.model", modality="text")


@pytest.mark.parametrize("name", ["digits", "synthetic:4x5x3:7"])
def test_first_keeps_the_first_training_examples_as_they_are(name):
    whole, first = data.load(name), data.load(f"{name}:first=30")
    assert first.name == f"{name}:first=30"
    for kind in ("inputs", "labels"):
        kept = first.arrays("train")[kind]
        np.testing.assert_array_equal(kept, whole.arrays("train")[kind][:30])
    assert (first.mean, first.std) == (whole.mean, whole.std)
    assert first.arrays("valid")["labels"].size == whole.arrays("valid")["labels"].size


def test_first_keeps_the_first_training_tokens():
    whole = data.load("synthetic_text:16", modality="text").arrays("train")["tokens"]
    first = data.load("synthetic_text:16:first=99", modality="text")
    np.testing.assert_array_equal(first.arrays("train")["tokens"], whole[:99])


@pytest.mark.parametrize(
    ("name", "modality", "needed"),
    # 1797 images of 64 bytes and labels of 4; validation serves for the test as well.
    [("digits", "images", 1797 * 68), ("synthetic_text:300", "text", 12288 * 2)],
)
def test_a_set_larger_than_the_budget_is_refused_with_what_it_needs(
    name, modality, needed
):
    dataset = data.load(name, modality=modality, data_budget_bytes=needed)
    assert dataset.name == name
    with pytest.raises(ValueError, match=f"needs {needed} bytes .*':first="):
        data.load(name, modality=modality, data_budget_bytes=needed - 1)


def test_every_config_has_the_budget_that_is_the_default_here():
    folder = pathlib.Path(tasks.__path__[0]).parent / "configs"
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "base")
    assert "mulo_digits" in names
    for name in names:
        config = importlib.import_module(f"configs.{name}").get_config()
        assert config.data_budget_bytes == data.DATA_BUDGET_BYTES, name


def test_importing_tasks_opens_nothing_and_imports_no_heavy_library():
    heavy = ("tensorflow", "tensorflow_datasets", "sklearn", "flax", "tqdm")
    code = f"import sys, tasks; print([m for m in {heavy!r} if m in sys.modules])"
    root = tasks.__path__[0].rsplit("/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
