"""Data sets by name: embedded ones, and any image set of tensorflow-datasets.

Splits: ``train``; ``valid`` is the set's own validation split, else the last 10 % of
its train split (which then leaves ``train``); ``test`` is the set's own test split,
else the same as ``valid``.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks import base, images, names

_SYNTHETIC_EXAMPLES = {"train": 512, "valid": 128, "test": 128}
_SYNTHETIC_NOISE = 0.5  # Std of the pixels around their class centre, whose std is 1.

Split = Mapping[str, np.ndarray]  # "inputs": uint8 (n, h, w, c), "labels": int32 (n,).


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> base.Dataset:
    """Open a data set.

    Args:
      name: ``digits``; ``synthetic:HxWxC:classes``, small and made up, for tests; or
        the name of an image-classification set of tensorflow-datasets. Each with the
        options ``:HxW`` (resized by area) and ``:gray`` (luma).
      data_dir: Where tensorflow-datasets keeps its data; default ``$TFDS_DATA_DIR``,
        else ``~/tensorflow_datasets``. Embedded sets do not look at it.

    Returns:
      The data set. Arrays of tensorflow-datasets are memory-mapped from a cache.

    Raises:
      ValueError: If no such set is known or prepared, or it does not hold labelled
        images of one size (and no size is given).
    """
    parsed = names.parse_data(name)
    if parsed.source == "digits":
        return _embedded(parsed, _digits(), num_classes=10)
    if parsed.synthetic is not None:
        made = _synthetic(parsed.synthetic)
        return _embedded(parsed, made, num_classes=parsed.synthetic[3])
    from tasks import tfds_images  # Only here: it needs files and tqdm.

    return tfds_images.load(parsed, data_dir)


def _embedded(
    name: names.DataName, splits: Mapping[str, Split], num_classes: int
) -> base.Dataset:
    splits = {
        split: {
            "inputs": images.convert(arrays["inputs"], name.size, name.gray),
            "labels": arrays["labels"],
        }
        for split, arrays in base.complete_splits(splits).items()
    }
    inputs = splits["train"]["inputs"]
    mean, std = images.mean_and_std(inputs)
    h, w, c = inputs.shape[1:]
    return base.Dataset(str(name), num_classes, (h, w, c), mean, std, splits)


@functools.cache
def _digits() -> dict[str, Split]:
    """The 1,797 images of 8x8 pixels that scikit-learn brings along."""
    from sklearn import datasets  # Only here: it takes a second to import.

    bunch: Any = datasets.load_digits()
    inputs = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return {"train": {"inputs": inputs, "labels": bunch.target.astype(np.int32)}}


@functools.cache
def _synthetic(shape: tuple[int, int, int, int]) -> dict[str, Split]:
    """Gaussian clusters around one random image per class, the same in every run."""
    h, w, c, num_classes = shape
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((num_classes, h, w, c))
    splits: dict[str, Split] = {}
    for split, count in _SYNTHETIC_EXAMPLES.items():
        labels = np.arange(count, dtype=np.int32) % num_classes
        noise = _SYNTHETIC_NOISE * rng.standard_normal((count, h, w, c))
        pixels = np.rint(128 + 40 * (centres[labels] + noise))
        splits[split] = {
            "inputs": np.clip(pixels, 0, 255).astype(np.uint8),
            "labels": labels,
        }
    return splits
