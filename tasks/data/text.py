"""Text that needs no download: the standard library's sources, and a Markov chain."""

import functools
import hashlib
import pathlib
import sysconfig

import numpy as np

from tasks.data import tokenizers

# Not in every distribution of Python, or not of the standard library.
_LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "__pycache__",
}
_VALID_PERCENT, _TEST_PERCENT = 5, 5  # Of the files.
_SYNTHETIC_TOKENS = {"train": 8192, "valid": 2048, "test": 2048}
_SYNTHETIC_OTHER = 0.25  # Probability of the less likely of a token's two followers.

# What a model can reach on synthetic text at most, in nats per token.
SYNTHETIC_ENTROPY = float(
    -_SYNTHETIC_OTHER * np.log(_SYNTHETIC_OTHER)
    - (1 - _SYNTHETIC_OTHER) * np.log(1 - _SYNTHETIC_OTHER)
)


@functools.cache
def pystdlib(tokenizer: tokenizers.Tokenizer) -> dict[str, np.ndarray]:
    """Return the running Python's own standard library as tokens, by split.

    A document is a ``.py`` file, in the order of their paths, without tests. Which
    split a file is in depends on its path alone, so that it is the same in every
    version of Python: 90 % train, 5 % valid, 5 % test of the files.

    Args:
      tokenizer: Turns each file's bytes into tokens.

    Returns:
      Tokens (n,) of ``train``, ``valid`` and ``test``.

    Raises:
      ValueError: If this Python has no sources, or one of them cannot be read: left
        out, it would make other data of the same name.
    """
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    splits: dict[str, list[bytes]] = {"train": [], "valid": [], "test": []}
    for name, document in _sources(folder):
        splits[split_of(name)].append(document)
    missing = [split for split, documents in splits.items() if not documents]
    if missing:
        raise ValueError(
            f"pystdlib must find the sources of Python's standard library in {folder}, "
            f"found none for the splits {missing}. Use a Python that has them, or "
            "other text."
        )
    return {split: tokenizer.encode(documents) for split, documents in splits.items()}


def split_of(path: str) -> str:
    """Return the split of a file of the standard library.

    Args:
      path: Relative to the standard library's folder, with "/".
    """
    percent = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8]) % 100
    if percent < _TEST_PERCENT:
        return "test"
    return "valid" if percent < _TEST_PERCENT + _VALID_PERCENT else "train"


def _sources(folder: pathlib.Path) -> tuple[tuple[str, bytes], ...]:
    """Return (path within the folder, content) of every source, sorted by path."""
    found = []
    for path in folder.rglob("*.py"):
        relative = path.relative_to(folder)
        if not _LEFT_OUT.intersection(relative.parts):
            found.append((relative.as_posix(), path))
    try:
        return tuple((name, path.read_bytes()) for name, path in sorted(found))
    except OSError as error:
        raise ValueError(
            f"pystdlib must read every source in {folder}, got: {error}. Make the file "
            "readable, or use other text."
        ) from error


@functools.cache
def synthetic(vocabulary: int) -> dict[str, np.ndarray]:
    """Return a Markov chain's tokens by split, the same in every run.

    Every token has two followers, of probability 3/4 and 1/4, and all tokens are
    equally frequent in the long run: a model that knows nothing loses
    log(vocabulary) nats per token, one that knows all :data:`SYNTHETIC_ENTROPY`.

    Args:
      vocabulary: In [2, 65536].
    """
    rng = np.random.default_rng(0)
    follower = rng.permutation(vocabulary)
    splits = {}
    for split, count in _SYNTHETIC_TOKENS.items():
        # The followers of t are follower[t] and the number after it: each token follows
        # one as the likelier and another as the less likely, hence equal frequencies.
        others = (rng.random(count) < _SYNTHETIC_OTHER).astype(int)
        tokens = np.zeros(count, np.uint8 if vocabulary <= 256 else np.uint16)
        token = int(rng.integers(vocabulary))
        for i, other in enumerate(others):
            token = (int(follower[token]) + int(other)) % vocabulary
            tokens[i] = token
        splits[split] = tokens
    return splits
