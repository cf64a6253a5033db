"""Text sets of tensorflow-datasets, tokenized once.

A set without a validation split gives the last 10 % of its train split's documents; a
single document gives the last 10 % of its tokens. One cache serves all names of the
same set and tokenizer. How many tokens a set has turns out while they are written, in
pieces, to the cache; the memory budget is asked afterwards, and asking for fewer with
``:first`` then reads the same cache. No more of a split is written than can be indexed.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tqdm

from tasks import base
from tasks.data import array_cache, names, text_dataset, tfds_sets, tokenizers

_CHUNK_DOCUMENTS = 1024  # Tokenized at a time.
_LOG = logging.getLogger(__name__)


def load(
    name: names.DataName,
    data_dir: str | os.PathLike[str] | None,
    tokenizer: tokenizers.Tokenizer,
) -> array_cache.Splits:
    """Open a set's tokens from their cache, after writing it where there is none.

    Args:
      name: Its name in tensorflow-datasets.
      data_dir: Default ``$TFDS_DATA_DIR``, else ``~/tensorflow_datasets``.
      tokenizer: Turns documents into tokens.

    Returns:
      ``train``, ``valid`` and ``test``, each with ``tokens`` (n,), memory-mapped. At
      most one token more than :data:`tasks.data.text_dataset.MAX_TOKENS` of each.

    Raises:
      ValueError: If the set is unknown, not prepared, damaged, or not one of text.
    """
    directory = tfds_sets.directory(data_dir)
    cache_name = f"{name.source}:{tokenizer.identity}"
    where = array_cache.place(cache_name, name.source, directory)
    cached = array_cache.read(where, _parse)
    if cached is None:
        builder = tfds_sets.builder(name.source, directory, "text")
        _tokenize(builder, name.source, tokenizer, where)
        cached = array_cache.read(where, _parse)
    if cached is None:
        raise OSError(f"the cache of {cache_name!r} was damaged while it was written.")
    return base.complete_splits(cached)


def _parse(splits: array_cache.Splits, facts: Mapping[str, Any]) -> array_cache.Splits:
    del facts
    return splits


def _tokenize(
    builder: Any,
    source: str,
    tokenizer: tokenizers.Tokenizer,
    where: array_cache.Place,
) -> None:
    """Write the tokens of every split of a prepared set into a new cache folder."""
    feature = _text_feature(builder, source)
    parts = {
        ours: (theirs, 0, builder.info.splits[theirs].num_examples)
        for ours, theirs in tfds_sets.splits(builder, source).items()
    }
    theirs, _, count = parts["train"]
    if "valid" not in parts and count > 1:
        kept = count - max(1, round(base.VALID_FRAC * count))
        parts |= {"train": (theirs, 0, kept), "valid": (theirs, kept, count)}
    folder = where.new_folder()
    _LOG.info("Tokenizing %s into %s, once.", where.name, folder)
    for ours, (theirs, start, stop) in parts.items():
        split = f"{theirs}[{start}:{stop}]"
        with tqdm.tqdm(
            total=stop - start,
            desc=f"{where.name} {ours}",
            unit="document",
            disable=None,
        ) as bar:
            path = folder / f"{ours}.tokens.npy"
            dtype = text_dataset.token_dtype(tokenizer.vocabulary)
            chunks = _chunks(builder, split, feature, tokenizer, bar)
            array_cache.write_array(path, (None,), dtype, chunks)
    facts = {"vocabulary": tokenizer.vocabulary}
    array_cache.write_meta(folder, where.name, dict.fromkeys(parts, ("tokens",)), facts)


def _chunks(
    builder: Any,
    split: str,
    feature: str,
    tokenizer: tokenizers.Tokenizer,
    bar: tqdm.tqdm,
) -> Iterator[np.ndarray]:
    """Yield a split's tokens, up to one more than can be indexed."""
    left = text_dataset.MAX_TOKENS + 1
    for batch in tfds_sets.read(builder, split, [feature], _CHUNK_DOCUMENTS):
        documents = batch[feature]
        tokens = tokenizer.encode(documents)[:left]
        bar.update(len(documents))
        yield tokens
        left -= tokens.size
        if not left:
            return


def _text_feature(builder: Any, source: str) -> str:
    """Return the name of a set's text: ``text``, its input, or its only text.

    The only text beside images or sounds does not count: it names their files.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    features = dict(features.items()) if hasattr(features, "items") else {}
    texts = [k for k, v in features.items() if isinstance(v, tfds.features.Text)]
    supervised = builder.info.supervised_keys or ()
    for key in ("text", *supervised[:1]):
        if key in texts:
            return key
    media = (tfds.features.Image, tfds.features.Video, tfds.features.Audio)
    if len(texts) == 1 and not any(isinstance(v, media) for v in features.values()):
        return texts[0]
    found = {k: type(v).__name__ for k, v in features.items()}
    raise ValueError(
        f"data set {source!r} must have a text named 'text', or only one and no "
        f"images, got the features {found}."
    )
