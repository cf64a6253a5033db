"""Prepared sets of tensorflow-datasets, found and opened for reading.

TensorFlow is imported only where no sound cache exists (:mod:`tasks.data.array_cache`).
Nothing is downloaded here: a set that is not prepared is an error with the command.
"""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from mulo import _hints as hints
from tasks.data import names

_INSTALL = "pip install 'mulo[data]'"
_SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}


def directory(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Return the folder where tensorflow-datasets keeps its data.

    Args:
      data_dir: Default ``$TFDS_DATA_DIR``, else ``~/tensorflow_datasets``.
    """
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(given).expanduser().absolute()


class DataMissing(ValueError):
    """The data of a set are not on this machine, or nothing that could read them."""


def builder(source: str, folder: pathlib.Path, modality: names.Modality) -> Any:
    """Return the tfds builder of a prepared set.

    Args:
      source: Its name in tensorflow-datasets.
      folder: As :func:`directory` gives it.
      modality: Which embedded sets an error offers instead.

    Raises:
      DataMissing: If the set is not prepared or damaged, or tfds not installed.
      ValueError: If it is unknown.
    """
    embedded = names.EMBEDDED[modality]
    near = [name.split(":")[0] for name in embedded]
    # TensorFlow reports its CPU kernels on stderr otherwise; decoding needs none.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow as tf  # Only here: both take seconds to import,
        import tensorflow_datasets as tfds  # and belong to the extra `data`.
        from google.protobuf import json_format  # tfds's own dependency.
    except ImportError as error:
        hint = hints.question(source, near)
        kind = ValueError if hint else DataMissing
        raise kind(
            f"data set {source!r} is not one of the embedded {list(embedded)}"
            f"{hint or '.'} To read it "
            f"as a set of tensorflow-datasets, {_INSTALL} (missing: {error.name})."
        ) from error
    try:
        tf.config.set_visible_devices([], "GPU")  # Decoding must not reserve it.
    except RuntimeError:
        pass  # TensorFlow runs already; its user decided.
    if folder.exists() and not folder.is_dir():
        raise ValueError(
            f"TFDS_DATA_DIR or data_dir must name a folder, got the file {folder}."
        )
    try:
        found = tfds.builder(source, data_dir=folder)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        hint = hints.question(source, [*near, *known])
        raise ValueError(
            f"data set must be one of the embedded {list(embedded)} or a set of "
            f"tensorflow-datasets, got {source!r}.{hint}"
        ) from error
    except (ValueError, OSError, json_format.Error) as error:
        # A configuration ("name/config") it does not know, or damaged files.
        raise DataMissing(
            f"tensorflow-datasets cannot open {source!r} in {folder}: {error}"
        ) from error
    if not found.is_prepared():
        raise DataMissing(
            f"data set {source!r} must be prepared, found none in {folder}"
            f"{'' if folder.exists() else ', which does not exist'} "
            "(TFDS_DATA_DIR or data_dir set this folder). Prepare it with: python -c "
            f'"import tensorflow_datasets as tfds; tfds.load({source!r}, '
            f"data_dir='{folder}')\""
        )
    return found


def splits(found: Any, source: str) -> dict[str, str]:
    """Return the set's names of its splits by ours: train, valid, test.

    Raises:
      ValueError: If it has no train split.
    """
    named = {_SPLITS[s]: s for s in found.info.splits if s in _SPLITS}
    if "train" not in named:
        raise ValueError(
            f"data set {source!r} must have a split 'train', "
            f"got {sorted(found.info.splits)}."
        )
    return named


def read(
    found: Any, split: str, features: Sequence[str], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yield a split's features in batches, in order.

    Args:
      found: As :func:`builder` gives it.
      split: The set's own name of a split, or a part of one.
      features: Which to decode.
      batch_size: Examples at a time.

    Raises:
      ValueError: If the prepared files are damaged or missing.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    try:
        dataset = found.as_dataset(
            split=split,
            shuffle_files=False,
            # Shard after shard, so that the first 80 % are those tfds means by it.
            # Read once: TensorFlow's cache would only warn when reading ends early.
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            decoders=tfds.decode.PartialDecoding(dict.fromkeys(features, True)),
        )
        batches = iter(tfds.as_numpy(dataset.batch(batch_size)))
        while True:
            batch = next(batches, None)
            if batch is None:
                return
            yield batch
    except (tf.errors.OpError, OSError) as error:
        raise ValueError(
            f"the prepared data of {found.info.full_name!r} cannot be read: {error}. "
            f"Remove {found.data_path} and prepare it again."
        ) from error
