import numpy as np
import pytest

from tasks.data import images


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_area_resize_by_a_whole_ratio_is_the_mean_of_blocks():
    x = random_images(5, 32, 32, 3)
    blocks = x.astype(np.float64).reshape(5, 8, 4, 8, 4, 3).mean((2, 4))
    got = images.convert(x, (8, 8), gray=False)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.rint(blocks))


def test_area_weights_share_the_pixels_that_edges_cut():
    # Three pixels to two: each output covers one and a half inputs.
    expected = [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]
    np.testing.assert_allclose(images.area_weights(3, 2), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("before", "after"), [(28, 8), (8, 28), (7, 7), (1, 5), (5, 1)]
)
def test_area_weights_keep_brightness_everywhere(before, after):
    weights = images.area_weights(before, after)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(weights.sum(axis=0), after / before, rtol=1e-12)
    assert weights.min() >= 0


def test_rows_and_columns_are_resized_each_by_its_own_ratio():
    x = random_images(2, 4, 6, 1)
    got = images.convert(x, (2, 3), gray=False)
    blocks = x.astype(np.float64).reshape(2, 2, 2, 3, 2, 1).mean((2, 4))
    np.testing.assert_array_equal(got, np.rint(blocks))


def test_gray_is_bt601_luma():
    primaries = np.eye(3, dtype=np.uint8).reshape(1, 1, 3, 3) * 255
    got = images.convert(primaries, None, gray=True)
    np.testing.assert_array_equal(got.ravel(), [76, 150, 29])
    white = np.full((1, 2, 2, 3), 255, np.uint8)
    assert np.all(images.convert(white, None, gray=True) == 255)


def test_gray_takes_one_channel_as_it_is_and_drops_alpha():
    one = random_images(2, 3, 3, 1)
    assert images.convert(one, None, gray=True) is one
    rgb, alpha = random_images(2, 3, 3, 3), random_images(2, 3, 3, 1, seed=1)
    with_alpha = np.concatenate([rgb, alpha], axis=-1)
    np.testing.assert_array_equal(
        images.convert(with_alpha, None, gray=True),
        images.convert(rgb, None, gray=True),
    )


def test_mean_and_std_are_those_of_the_scaled_pixels():
    x = random_images(50, 5, 4, 3)
    x[..., 1] //= 3
    mean, std = images.mean_and_std(x)
    np.testing.assert_allclose(mean, (x / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (x / 255).std((0, 1, 2)), rtol=1e-10)


def test_the_std_of_a_constant_channel_is_given_as_one():
    mean, std = images.mean_and_std(np.full((3, 2, 2, 1), 51, np.uint8))
    assert mean == (pytest.approx(0.2),)
    assert std == (1.0,)


def test_work_in_chunks_changes_nothing(monkeypatch):
    x = random_images(7, 6, 6, 3)
    whole = images.convert(x, (4, 4), gray=True), images.mean_and_std(x)
    monkeypatch.setattr(images, "_CHUNK_BYTES", 2 * 6 * 6 * 3)
    np.testing.assert_array_equal(images.convert(x, (4, 4), gray=True), whole[0])
    assert images.mean_and_std(x) == whole[1]
