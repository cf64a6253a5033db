"""Image-classification sets of tensorflow-datasets, decoded once.

TensorFlow is imported only where no sound cache exists (:mod:`tasks.image_cache`).
Nothing is downloaded here: a set that is not prepared is an error with the command.
"""

import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm

from tasks import base, image_cache, images, names

_CHUNK_EXAMPLES = 1024  # Decoded at a time.
_SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}
_INSTALL = "pip install 'mulo[data]'"
_LOG = logging.getLogger(__name__)


def load(
    name: names.DataName, data_dir: str | os.PathLike[str] | None = None
) -> base.Dataset:
    """Open a set from its cache, after decoding it into one where there is none.

    Args:
      name: Its name in tensorflow-datasets, and options.
      data_dir: Default ``$TFDS_DATA_DIR``, else ``~/tensorflow_datasets``.

    Returns:
      The data set, memory-mapped.

    Raises:
      ValueError: If the set is unknown, not prepared, not of labelled uint8 images, or
        its images vary in size and the name gives none.
    """
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    directory = pathlib.Path(given).expanduser().absolute()
    where = image_cache.place(str(name), name.source, directory)
    cached = image_cache.read(where)
    if cached is None:
        builder = _builder(name, directory)
        _decode(builder, name, where)
        cached = image_cache.read(where)
    if cached is None:
        raise OSError(f"the cache of {str(name)!r} was damaged while it was written.")
    return cached


def _builder(name: names.DataName, directory: pathlib.Path) -> Any:
    """Return the tfds builder of a prepared set."""
    # TensorFlow reports its CPU kernels on stderr otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    source = name.source
    try:
        import tensorflow as tf  # Only here: both take seconds to import,
        import tensorflow_datasets as tfds  # and belong to the extra `data`.
    except ImportError as error:
        raise ValueError(
            f"data set {source!r} is not one of the embedded {list(names.EMBEDDED)}"
            f"{names.nearest(source, ['digits', 'synthetic']) or '.'} To read it as a "
            f"set of tensorflow-datasets, {_INSTALL} (missing: {error.name})."
        ) from error
    try:
        tf.config.set_visible_devices([], "GPU")  # Decoding must not reserve it.
    except RuntimeError:
        pass  # TensorFlow runs already; its user decided.
    try:
        builder = tfds.builder(source, data_dir=directory)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        hint = names.nearest(source, ["digits", "synthetic", *known])
        raise ValueError(
            f"data set must be one of the embedded {list(names.EMBEDDED)} or a set of "
            f"tensorflow-datasets, got {source!r}.{hint}"
        ) from error
    except ValueError as error:  # A configuration ("name/config") it does not know.
        raise ValueError(
            f"tensorflow-datasets cannot open {source!r}: {error}"
        ) from error
    if not builder.is_prepared():
        raise ValueError(
            f"data set {source!r} must be prepared, found none in {directory} "
            "(TFDS_DATA_DIR or data_dir set this folder). Prepare it with: python -c "
            f'"import tensorflow_datasets as tfds; tfds.load({source!r}, '
            f"data_dir='{directory}')\""
        )
    return builder


def _decode(builder: Any, name: names.DataName, where: image_cache.Place) -> None:
    """Write every labelled split of a prepared set into a new cache folder."""
    image, label = _feature_keys(builder, name)
    height, width, channels = builder.info.features[image].shape
    num_classes = builder.info.features[label].num_classes
    size = name.size or (height, width)
    if None in size:
        raise ValueError(
            f"images of {name.source!r} vary in size: give one, as in "
            f"'{name.source}:32x32'."
        )
    shape = (*size, 1 if name.gray else channels)
    splits = {_SPLITS[s]: s for s in builder.info.splits if s in _SPLITS}
    if "train" not in splits:
        raise ValueError(
            f"data set {name.source!r} must have a split 'train', "
            f"got {sorted(builder.info.splits)}."
        )
    folder = where.new_folder()
    written = []
    _LOG.info("Decoding %s into %s, once.", name, folder)
    for ours, theirs in splits.items():
        count = builder.info.splits[theirs].num_examples
        labels: list[np.ndarray] = []
        chunks = _chunks(builder, theirs, image, label, height is None or width is None)
        with tqdm.tqdm(
            total=count, desc=f"{name} {ours}", unit="image", disable=None
        ) as bar:

            def converted(chunks=chunks, labels=labels, bar=bar):
                for pixels, chunk_labels in chunks:
                    labels.append(chunk_labels)
                    bar.update(len(chunk_labels))
                    yield images.convert(pixels, name.size, name.gray)

            path = folder / f"{ours}.inputs.npy"
            image_cache.write_array(path, (count, *shape), np.uint8, converted())
        if min(int(x.min()) for x in labels) < 0:  # tfds's mark of a missing label.
            if ours != "test":
                raise ValueError(f"split {theirs!r} of {name.source!r} has no labels.")
            path.unlink(missing_ok=True)
            continue
        path = folder / f"{ours}.labels.npy"
        image_cache.write_array(path, (count,), np.int32, labels)
        written.append(ours)
    image_cache.write_meta(folder, str(name), written, num_classes)


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
    builder: Any, split: str, image: str, label: str, ragged: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (uint8 images (n, h, w, c), int32 labels (n,)) of a split, in order."""
    import tensorflow_datasets as tfds

    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding({image: True, label: True}),
    )
    # Images that vary in size come one by one.
    dataset = dataset.batch(1 if ragged else _CHUNK_EXAMPLES)
    for chunk in tfds.as_numpy(dataset):
        yield chunk[image], chunk[label].astype(np.int32)
