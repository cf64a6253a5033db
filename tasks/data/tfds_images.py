"""Image-classification sets of tensorflow-datasets, decoded once.

One cache serves all names that need the same decoded images: crops, mirrors and
``:first`` change what is done with them, and ``:velodrome`` how they are resized.
"""

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tqdm

from tasks import base
from tasks.data import (
    array_cache,
    budget,
    image_dataset,
    images,
    names,
    tfds_sets,
    velodrome,
)

_CHUNK_EXAMPLES = 1024  # Decoded at a time.
_ARRAYS = ("inputs", "labels")
_LOG = logging.getLogger(__name__)

MeanAndStd = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class _Decoded:
    """What a cache holds: the splits that the set has, and facts about them."""

    splits: array_cache.Splits
    num_classes: int
    mean_and_std: MeanAndStd | None  # None under ``:velodrome``, which needs none.


def load(
    name: names.DataName,
    data_dir: str | os.PathLike[str] | None,
    budget_bytes: int,
) -> base.Dataset:
    """Open a set from its cache, after decoding it into one where there is none.

    Args:
      name: Its name in tensorflow-datasets, and options.
      data_dir: Default ``$TFDS_DATA_DIR``, else ``~/tensorflow_datasets``.
      budget_bytes: As :func:`tasks.data.budget.fit`; asked before anything is decoded.

    Returns:
      The data set, memory-mapped.

    Raises:
      ValueError: If the set is unknown, not prepared, not of labelled uint8 images,
        its images vary in size and the name gives none, or it exceeds the budget.
    """
    directory = tfds_sets.directory(data_dir)
    where = array_cache.place(_decoded_name(name), name.source, directory)
    cached = array_cache.read(where, _parse)
    if cached is None:
        builder = tfds_sets.builder(name.source, directory, "images")
        form = _Form.of(builder, name)
        _make(name, _size_only(builder, form), budget_bytes)
        _decode(builder, form, name, where)
        cached = array_cache.read(where, _parse)
    if cached is None:
        raise OSError(f"the cache of {str(name)!r} was damaged while it was written.")
    return _make(name, cached, budget_bytes)


def _decoded_name(name: names.DataName) -> str:
    """Return the name less the options that leave the decoded images as they are."""
    resized = velodrome.dtype(name.size, name.gray) != np.uint8
    return str(
        dataclasses.replace(
            name,
            crop=None,
            flip=False,
            first=None,
            velodrome=name.velodrome and resized,
        )
    )


def _parse(splits: array_cache.Splits, facts: Mapping[str, Any]) -> _Decoded:
    mean_and_std = None
    if facts["mean"] is not None:
        mean = tuple(float(x) for x in facts["mean"])
        mean_and_std = mean, tuple(float(x) for x in facts["std"])
    return _Decoded(splits, int(facts["num_classes"]), mean_and_std)


def _make(name: names.DataName, decoded: _Decoded, budget_bytes: int) -> base.Dataset:
    dataset = image_dataset.make(
        name, decoded.splits, decoded.num_classes, decoded.mean_and_std
    )
    splits = budget.fit(name, dataset.splits, budget_bytes)
    return dataclasses.replace(dataset, splits=splits)


@dataclasses.dataclass(frozen=True)
class _Form:
    """Where a set keeps its images, and the form they are to be decoded to."""

    image: str  # Features of the set.
    label: str
    splits: Mapping[str, str]  # The set's names of its splits, by ours.
    shape: tuple[int, int, int]  # (h, w, c) of a decoded image.
    dtype: type
    ragged: bool  # Whether the set's own images vary in size.
    num_classes: int

    @classmethod
    def of(cls, builder: Any, name: names.DataName) -> "_Form":
        """Return the form of a prepared set's images under a name's options."""
        image, label = _feature_keys(builder, name)
        height, width, channels = builder.info.features[image].shape
        h, w = name.size or (height, width)
        if h is None or w is None:
            raise ValueError(
                f"images of {name.source!r} vary in size: give one, as in "
                f"'{name.source}:32x32'."
            )
        return cls(
            image=image,
            label=label,
            splits=tfds_sets.splits(builder, name.source),
            shape=(h, w, 1 if name.gray else channels),
            dtype=velodrome.dtype(name.size, name.gray) if name.velodrome else np.uint8,
            ragged=height is None or width is None,
            num_classes=builder.info.features[label].num_classes,
        )


def _size_only(builder: Any, form: _Form) -> _Decoded:
    """Return arrays of the set's sizes that take no memory, to be measured."""
    splits = {}
    for ours, theirs in form.splits.items():
        count = builder.info.splits[theirs].num_examples
        if ours == "test" and _first_label(builder, theirs, form.label) < 0:
            continue  # It will be left out.
        splits[ours] = {
            "inputs": np.broadcast_to(form.dtype(0), (count, *form.shape)),
            "labels": np.broadcast_to(np.int32(0), (count,)),
        }
    unit = (0.0,) * form.shape[-1], (1.0,) * form.shape[-1]
    return _Decoded(splits, form.num_classes, unit)


def _first_label(builder: Any, split: str, label: str) -> int:
    return int(next(tfds_sets.read(builder, f"{split}[:1]", [label], 1))[label][0])


def _decode(
    builder: Any, form: _Form, name: names.DataName, where: array_cache.Place
) -> None:
    """Write every labelled split of a prepared set into a new cache folder."""
    folder = where.new_folder()
    convert = velodrome.convert if name.velodrome else images.convert
    written = {}
    _LOG.info("Decoding %s into %s, once.", where.name, folder)
    for ours, theirs in form.splits.items():
        count = builder.info.splits[theirs].num_examples
        labels: list[np.ndarray] = []
        with tqdm.tqdm(
            total=count, desc=f"{where.name} {ours}", unit="image", disable=None
        ) as bar:

            def converted(theirs=theirs, labels=labels, bar=bar):
                for pixels, chunk_labels in _chunks(builder, theirs, form):
                    labels.append(chunk_labels)
                    bar.update(len(chunk_labels))
                    yield convert(pixels, name.size, name.gray)

            path = folder / f"{ours}.inputs.npy"
            shape = (count, *form.shape)
            array_cache.write_array(path, shape, form.dtype, converted())
        if min(int(x.min()) for x in labels) < 0:  # tfds's mark of a missing label.
            if ours != "test":
                raise ValueError(f"split {theirs!r} of {name.source!r} has no labels.")
            path.unlink(missing_ok=True)
            continue
        path = folder / f"{ours}.labels.npy"
        array_cache.write_array(path, (count,), np.int32, labels)
        written[ours] = _ARRAYS
    mean = std = None
    if form.dtype == np.uint8:
        mapped = base.complete_splits(array_cache.open_arrays(folder, written))
        mean, std = images.mean_and_std(mapped["train"]["inputs"])
    facts = {"num_classes": form.num_classes, "mean": mean, "std": std}
    array_cache.write_meta(folder, where.name, written, facts)


def _feature_keys(builder: Any, name: names.DataName) -> tuple[str, str]:
    """Return the names of the image and of the label among a set's features."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    features = dict(features.items()) if hasattr(features, "items") else {}
    keys = builder.info.supervised_keys
    if keys is None or len(keys) != 2 or not all(isinstance(k, str) for k in keys):
        keys = ("image", "label")
    image, label = keys
    if not (
        isinstance(features.get(image), tfds.features.Image)
        and isinstance(features.get(label), tfds.features.ClassLabel)
    ):
        found = {k: type(v).__name__ for k, v in features.items()}
        raise ValueError(
            f"data set {name.source!r} must have an image and a class label, "
            f"got the features {found}."
        )
    if np.dtype(features[image].np_dtype) != np.uint8:
        raise ValueError(
            f"images of {name.source!r} must be uint8, got {features[image].np_dtype}."
        )
    return image, label


def _chunks(
    builder: Any, split: str, form: _Form
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (uint8 images (n, h, w, c), int32 labels (n,)) of a split, in order."""
    keys = [form.image, form.label]
    # Images that vary in size come one by one.
    count = 1 if form.ragged else _CHUNK_EXAMPLES
    for chunk in tfds_sets.read(builder, split, keys, count):
        yield chunk[form.image], chunk[form.label].astype(np.int32)
