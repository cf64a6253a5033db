"""Images as VeLOdrome prepares them, so that curves compare with its tuned baselines.

* Pixels are x / 255: neither mean nor std.
* Resizing is bilinear between the two nearest pixels of a row and of a column, without
  smoothing first; what it gives is not rounded, so resized images are kept in float32.
* Gray is the mean of red, green and blue, after resizing.
* ``train`` is the first 80 % of the set's train split and ``valid`` the next 10 %;
  ``test`` is the set's test split, else its validation split, else the last 10 % of its
  train split, which VeLOdrome keeps for meta-validation.

Differs from [1] in nothing but the order of batches, drawn with replacement here, and
in that [1] takes 1 % instead of 80 % of cifar100, svhn_cropped and food101: there the
fraction is ``min(1, int(80 * data_fraction))``.

Axes: n images, h and w pixels, c channels.

References:
  [1] ``learned_optimization/tasks/datasets/{base,image}.py``, of VeLOdrome
  (Metz et al., `VeLO <https://arxiv.org/abs/2211.09760>`_, 2022).
"""

from collections.abc import Mapping

import numpy as np

_TRAIN_PERCENT, _VALID_PERCENT = 80, 10
_CHUNK_BYTES = 1 << 24  # Of uint8 pixels resized at a time.


def dtype(size: tuple[int, int] | None, gray: bool) -> type:
    """Return the type of :func:`convert`'s images: uint8 where nothing is done."""
    return np.uint8 if size is None and not gray else np.float32


def convert(images: np.ndarray, size: tuple[int, int] | None, gray: bool) -> np.ndarray:
    """Resize images and reduce them to one channel, without rounding.

    Args:
      images: uint8 (n, h, w, c).
      size: Height and width to get, in pixels; None keeps them.
      gray: Whether to average the channels.

    Returns:
      (n, h', w', c') in the units of ``images``, of the type that :func:`dtype` gives.
    """
    if dtype(size, gray) == np.uint8:
        return images
    n, h, w, c = images.shape
    out = np.empty((n, *(size or (h, w)), 1 if gray else c), np.float32)
    rows, columns = size or (h, w)
    step = max(1, _CHUNK_BYTES // (max(h, rows) * max(w, columns) * c))
    for start in range(0, n, step):
        x = images[start : start + step].astype(np.float32)
        for axis, length in enumerate(size or (h, w), start=1):
            x = _resize(x, axis, length)
        out[start : start + step] = x.mean(axis=-1, keepdims=True) if gray else x
    return out


def complete_splits(
    splits: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Mapping[str, np.ndarray]]:
    """Return train, valid and test as VeLOdrome cuts them.

    Args:
      splits: ``train``, complete and in the order of tensorflow-datasets, and where
        the set has them ``valid`` and ``test``.

    Returns:
      All three; arrays are views of those given.

    Raises:
      ValueError: If a split would be empty.
    """
    train = splits["train"]
    count = train["labels"].shape[0]
    # As tensorflow-datasets rounds percentages.
    first = round(_TRAIN_PERCENT * count / 100)
    second = round((_TRAIN_PERCENT + _VALID_PERCENT) * count / 100)
    if not 0 < first < second < count:
        raise ValueError(
            "under ':velodrome' the train split must hold enough examples for 80, 10 "
            f"and 10 % of them, got {count}."
        )
    rest = {k: v[second:] for k, v in train.items()}
    return {
        "train": {k: v[:first] for k, v in train.items()},
        "valid": {k: v[first:second] for k, v in train.items()},
        "test": splits.get("test", splits.get("valid", rest)),
    }


def _resize(x: np.ndarray, axis: int, after: int) -> np.ndarray:
    """Interpolate float32 x linearly along an axis, pixel centres at halves."""
    before = x.shape[axis]
    if after == before:
        return x
    centres = np.arange(after, dtype=np.float32) + np.float32(0.5)
    centres = centres * np.float32(before / after) - np.float32(0.5)
    below = np.floor(centres)
    shape = [1] * x.ndim
    shape[axis] = after
    weight = (centres - below).reshape(shape)
    low = np.take(x, np.maximum(below, 0).astype(int), axis)
    high = np.take(x, np.minimum(below + 1, before - 1).astype(int), axis)
    return low + (high - low) * weight
