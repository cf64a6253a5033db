import numpy as np
import pytest

from tasks import data
from tasks.data import budget, names


def splits(train=100, valid=20, test=30):
    """Splits of 10 bytes per example: inputs of 6 and labels of 4."""
    return {
        split: {
            "inputs": np.zeros((count, 6), np.uint8),
            "labels": np.arange(count, dtype=np.int32),
        }
        for split, count in [("train", train), ("valid", valid), ("test", test)]
    }


def fit(name, given, budget_bytes):
    return budget.fit(names.parse(name), given, budget_bytes)


def test_what_fits_exactly_is_kept_as_it_is():
    given = splits()
    assert fit("x", given, 1500) is given


def test_a_byte_more_than_the_budget_is_an_error_that_says_how_much_it_needs():
    with pytest.raises(ValueError, match="'x' needs 1500 bytes of device mem") as error:
        fit("x", splits(), 1499)
    assert "(data_budget_bytes) is 1499 bytes" in str(error.value)
    assert "set data_budget_bytes to 1500 or more" in str(error.value)


def test_the_number_that_the_error_offers_fits_and_is_the_largest_that_does():
    with pytest.raises(ValueError, match="':first=73'"):
        fit("x", splits(), 1239)
    assert fit("x:first=73", splits(), 1239)["train"]["labels"].size == 73
    with pytest.raises(ValueError, match="needs 1240 bytes"):
        fit("x:first=74", splits(), 1239)


def test_without_room_for_the_other_splits_no_number_is_offered():
    with pytest.raises(ValueError, match="Its other splits alone exceed it") as error:
        fit("x", splits(), 500)
    assert "first" not in str(error.value)


def test_first_takes_views_of_the_train_split_alone():
    given = splits()
    got = fit("x:first=7", given, 10_000)
    assert list(got["train"]["labels"]) == list(range(7))
    assert np.shares_memory(got["train"]["inputs"], given["train"]["inputs"])
    assert got["valid"] is given["valid"]
    assert got["test"] is given["test"]


def test_more_than_there_is_cannot_be_kept():
    assert fit("x:first=100", splits(), 10_000)["train"]["labels"].size == 100
    with pytest.raises(ValueError, match=r"first must be at most 100.*got 101"):
        fit("x:first=101", splits(), 10_000)


def test_a_split_that_serves_twice_is_counted_once():
    given = splits()
    given["test"] = given["valid"]
    assert fit("x", given, 1200) is given
    with pytest.raises(ValueError, match="needs 1200 bytes"):
        fit("x", given, 1199)


def test_large_sizes_are_given_in_gib():
    with pytest.raises(ValueError, match=r"needs 3 GiB .* is 1\.5 GiB"):
        fit("x", {"train": {"tokens": np.broadcast_to(np.uint8(0), 3 << 30)}}, 3 << 29)


@pytest.mark.parametrize("options", ["", ":velodrome"])
def test_embedded_images_are_measured_before_they_are_resized(options):
    # Resized, they would take 18 TB.
    with pytest.raises(ValueError, match=r"needs .* GiB of device memory"):
        data.load(f"digits:100000x100000{options}")
