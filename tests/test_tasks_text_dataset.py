import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.data import text_dataset


def counted(n=1000, vocabulary=65536, dtype=np.uint16):
    """Text whose tokens are their own positions."""
    tokens = np.arange(n).astype(dtype)
    splits = {split: {"tokens": tokens} for split in ("train", "valid", "test")}
    return text_dataset.from_arrays("counted", splits, vocabulary)


def test_windows_are_consecutive_tokens_and_labels_are_the_next_ones():
    dataset = counted().windows(24)
    batch = dataset.sample(dataset.arrays("train"), jax.random.key(0), 50)
    for array in batch.values():
        assert array.shape == (50, 24)
        assert array.dtype == jnp.int32 == dataset.input_dtype
    inputs = np.asarray(batch["inputs"])
    np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(24))
    np.testing.assert_array_equal(batch["labels"], inputs + 1)
    assert dataset.input_shape == (24,)
    assert dataset.num_classes == 65536


def test_every_offset_is_drawn_equally_often():
    dataset = counted(100).windows(8)
    batch = dataset.sample(dataset.arrays("train"), jax.random.key(0), 92 * 400)
    counts = np.bincount(np.asarray(batch["inputs"][:, 0]))
    # 400 expected of each of 100 - 8 offsets, standard deviation 20.
    assert counts.size == 92
    assert np.all(np.abs(counts - 400) < 5 * 20)
    assert batch["labels"].max() == 99


def test_a_batch_is_a_pure_function_of_the_key_jitted_or_not():
    dataset = counted().windows(8)
    arrays = jax.device_put(dataset.arrays("train"))
    sample = jax.jit(dataset.sample, static_argnums=2)
    first, other = (sample(arrays, jax.random.key(seed), 16) for seed in (3, 4))
    eager = dataset.sample(arrays, jax.random.key(3), 16)
    for name in ("inputs", "labels"):
        np.testing.assert_array_equal(first[name], eager[name])
    assert np.any(first["inputs"] != other["inputs"])


def test_under_vmap_every_key_draws_the_batch_it_draws_alone():
    dataset = counted().windows(8)
    arrays = jax.device_put(dataset.arrays("train"))
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(lambda key: dataset.sample(arrays, key, 16))(keys)
    for i, key in enumerate(keys):
        alone = dataset.sample(arrays, key, 16)
        np.testing.assert_array_equal(together["inputs"][i], alone["inputs"])


def test_tokens_given_to_jit_do_not_become_constants_of_the_program():
    dataset = counted(60_000).windows(8)
    arrays = jax.device_put(dataset.arrays("train"))
    sample = jax.jit(dataset.sample, static_argnums=2)
    lowered = sample.lower(arrays, jax.random.key(0), 8).as_text()
    assert len(lowered) < arrays["tokens"].nbytes


@pytest.mark.parametrize(("n", "windows"), [(80, 9), (81, 10), (88, 10), (9, 1)])
def test_evaluation_windows_tile_the_split(n, windows):
    dataset = counted(n).windows(8)
    arrays = dataset.arrays("valid")
    assert dataset.num_examples(arrays) == windows
    batch = dataset.examples(arrays, jnp.arange(windows))
    np.testing.assert_array_equal(batch["inputs"].ravel(), np.arange(8 * windows))
    np.testing.assert_array_equal(batch["labels"].ravel(), np.arange(8 * windows) + 1)


@pytest.mark.parametrize("count", [1, 7, 65_536, 1_000_003, 2**31 - 1])
def test_random_bits_are_scaled_to_offsets_as_with_integers_of_any_size(count):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 1000, dtype=np.uint32)
    bits[:3] = [0, 2**32 - 1, 2**31]
    expected = [int(x) * count >> 32 for x in bits]
    got = text_dataset._spread(jnp.asarray(bits), count)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, expected)


def test_no_part_of_a_text_of_billions_of_tokens_is_preferred():
    count = 3 * 2**29  # The remainder would be in the first third with probability 1/2.
    bits = jax.random.bits(jax.random.key(0), (30_000,))
    offsets = np.asarray(text_dataset._spread(bits, count))
    thirds = np.bincount(offsets // 2**29, minlength=3)
    # 10,000 expected, standard deviation 82.
    assert np.all(np.abs(thirds - 10_000) < 5 * 82)


def test_windows_share_the_tokens_and_are_64_long_or_as_the_text_allows():
    dataset = counted()
    assert dataset.window == 64
    assert dataset.windows(8).splits is dataset.splits
    assert counted(30).window == 29


@pytest.mark.parametrize(
    ("vocabulary", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)]
)
def test_tokens_are_kept_in_the_narrowest_type_that_holds_them(vocabulary, dtype):
    assert text_dataset.token_dtype(vocabulary) == dtype


def test_a_window_as_long_as_a_split_is_refused():
    assert counted(65).windows(64).window == 64
    with pytest.raises(ValueError, match="more tokens than a window of 65, got 65"):
        counted(65).windows(65)
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        counted().windows(0)


def test_tokens_of_another_type_or_form_are_refused():
    with pytest.raises(ValueError, match="one row of uint8, got uint16"):
        counted(vocabulary=256)
    with pytest.raises(ValueError, match="1 to 65536 tokens, got 65537"):
        counted(vocabulary=65537)
    tokens = {"train": {"tokens": np.zeros((10, 2), np.uint8)}}
    with pytest.raises(ValueError, match=r"shape \(10, 2\)"):
        text_dataset.from_arrays("x", tokens, 256)


def test_a_split_too_long_for_int32_says_how_many_tokens_to_keep():
    # Takes one byte: every token is the same one.
    tokens = {"tokens": np.broadcast_to(np.uint8(1), (2**31,))}
    with pytest.raises(ValueError, match=r"':first=2147483647'.*pieces"):
        text_dataset.from_arrays("x", {"train": tokens}, 256)
