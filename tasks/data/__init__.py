"""Data sets by name: embedded ones, and those of tensorflow-datasets.

Splits: ``train``; ``valid`` is the set's own validation split, else the last 10 % of
its train split (which then leaves ``train``); ``test`` is the set's own test split,
else the same as ``valid``. The splits of ``:velodrome`` are described in
:mod:`tasks.data.velodrome`, those of text in :mod:`tasks.data.text_dataset`.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks import base
from tasks.data import (
    budget,
    image_dataset,
    images,
    names,
    text,
    text_dataset,
    tokenizers,
    velodrome,
)

DATA_BUDGET_BYTES = 8 << 30  # Of all splits of a set, unless told otherwise.
_SYNTHETIC_EXAMPLES = {"train": 512, "valid": 128, "test": 128}
_SYNTHETIC_NOISE = 0.5  # Std of the pixels around their class centre, whose std is 1.

Split = Mapping[str, np.ndarray]  # "inputs": uint8 (n, h, w, c), "labels": int32 (n,).


def load(
    name: str | names.DataName,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    modality: names.Modality = "images",
    data_budget_bytes: int = DATA_BUDGET_BYTES,
) -> base.Dataset:
    """Open a data set.

    Args:
      name: As :mod:`tasks.data.names` describes.
      data_dir: Where tensorflow-datasets keeps its data; default ``$TFDS_DATA_DIR``,
        else ``~/tensorflow_datasets``. Embedded sets do not look at it.
      modality: What a name of tensorflow-datasets is to be read as.
      data_budget_bytes: Size of all splits that is refused if exceeded: they lie in
        device memory whole. See :mod:`tasks.data.budget`.

    Returns:
      The data set. Arrays of tensorflow-datasets are memory-mapped from a cache.

    Raises:
      ValueError: If no such set is known or prepared, it is of another modality, an
        option does not fit, or it is larger than the budget.
    """
    parsed = names.parse(name) if isinstance(name, str) else name
    _check_modality(parsed, modality)
    if modality == "text":
        return _text(parsed, data_dir, data_budget_bytes)
    if parsed.source == "digits":
        return _embedded(parsed, _digits(), 10, data_budget_bytes)
    if parsed.synthetic is not None:
        made, num_classes = _synthetic(parsed.synthetic), parsed.synthetic[3]
        return _embedded(parsed, made, num_classes, data_budget_bytes)
    from tasks.data import tfds_images  # Only here: it needs files and tqdm.

    return tfds_images.load(parsed, data_dir, data_budget_bytes)


def _check_modality(name: names.DataName, modality: names.Modality) -> None:
    """Refuse a set or an option of the other modality."""
    other: names.Modality = "images" if modality == "text" else "text"
    known = ", ".join(names.EMBEDDED[modality])
    if name.source in [x.split(":")[0] for x in names.EMBEDDED[other]]:
        raise ValueError(
            f"{str(name)!r} holds {other}, this task needs {modality}: {known}, or a "
            f"set of {modality} of tensorflow-datasets."
        )
    given = name.image_options
    if modality == "images":
        given = () if name.pieces is None else (f"sp{name.pieces[0]}k=…",)
    if given:
        raise ValueError(
            f"options {[f':{x}' for x in given]} are for {other}, got them for "
            f"{modality} in {str(name)!r}: leave them out."
        )


def _text(
    name: names.DataName,
    data_dir: str | os.PathLike[str] | None,
    budget_bytes: int,
) -> base.Dataset:
    if name.vocabulary is not None:
        if name.pieces is not None:
            raise ValueError(
                f"synthetic text is made of tokens, not of pieces, got {str(name)!r}."
            )
        vocabulary = name.vocabulary
        splits = _as_splits(text.synthetic(vocabulary))
    else:
        tokenizer = tokenizers.get(name)
        vocabulary = tokenizer.vocabulary
        if name.source == "pystdlib":
            splits = _as_splits(text.pystdlib(tokenizer))
        else:
            from tasks.data import tfds_text  # Only here: it needs files and tqdm.

            splits = tfds_text.load(name, data_dir, tokenizer)
    splits = budget.fit(name, splits, budget_bytes)
    return text_dataset.from_arrays(str(name), splits, vocabulary)


def _as_splits(tokens: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    return {split: {"tokens": row} for split, row in tokens.items()}


def _embedded(
    name: names.DataName,
    splits: Mapping[str, Split],
    num_classes: int,
    budget_bytes: int,
) -> base.Dataset:
    _check_budget(name, splits, num_classes, budget_bytes)
    convert = velodrome.convert if name.velodrome else images.convert
    converted = {
        split: {
            "inputs": convert(arrays["inputs"], name.size, name.gray),
            "labels": arrays["labels"],
        }
        for split, arrays in splits.items()
    }
    dataset = image_dataset.make(name, converted, num_classes)
    kept = budget.fit(name, dataset.splits, budget_bytes)
    return dataclasses.replace(dataset, splits=kept)


def _check_budget(
    name: names.DataName,
    splits: Mapping[str, Split],
    num_classes: int,
    budget_bytes: int,
) -> None:
    """Refuse a set that would be too large, before it is made."""
    h, w, c = splits["train"]["inputs"].shape[1:]
    shape = (*(name.size or (h, w)), 1 if name.gray else c)
    dtype = velodrome.dtype(name.size, name.gray) if name.velodrome else np.uint8
    sizes = {
        split: {
            "inputs": np.broadcast_to(dtype(0), (len(arrays["labels"]), *shape)),
            "labels": arrays["labels"],
        }
        for split, arrays in splits.items()
    }
    unit = (0.0,) * shape[-1], (1.0,) * shape[-1]
    made = image_dataset.make(name, sizes, num_classes, unit)
    budget.fit(name, made.splits, budget_bytes)


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
