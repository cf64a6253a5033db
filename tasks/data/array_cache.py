"""Decoded data sets on disk: memory-mapped .npy files, checked when opened.

One folder per data set, way of decoding and state of the prepared data, ::

    <root>/<name>/<fingerprint>/{train,valid,test}.<array>.npy
    <root>/<name>/<fingerprint>/meta.json

``meta.json`` is written last, so that a folder with one is complete. Several processes
may build the same folder at once: they write the same bytes and rename them into place.
The root is ``$MULO_CACHE_DIR``; without it ``<data dir>/mulo_cache``, or
``~/.cache/mulo`` where that cannot be written.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from mulo import _files as files

FORMAT = 2  # Raised when the files' meaning changes: older folders are rebuilt.
_META = "meta.json"
_BLOCK_BYTES = 1 << 20  # Of a checksum; at most _MAX_BLOCKS blocks of a file are read,
_MAX_BLOCKS = 64  # so files up to 64 MiB are covered wholly, larger ones in samples.
_LOG = logging.getLogger(__name__)

Splits = Mapping[str, Mapping[str, np.ndarray]]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the cache of one data set may lie."""

    roots: tuple[pathlib.Path, ...]  # Read in this order; written to the first able.
    name: str  # Of the set, with all that changes what is written.
    fingerprint: str  # Of the prepared data; "" where there is none.

    def folders(self) -> Iterator[pathlib.Path]:
        """Yield the folders to look into, best first.

        Where the prepared data are gone, any cache of the set is taken.
        """
        for root in self.roots:
            parent = root / folder_name(self.name)
            if self.fingerprint:
                yield parent / self.fingerprint
            elif parent.is_dir():
                yield from sorted(p for p in parent.iterdir() if p.is_dir())

    def new_folder(self) -> pathlib.Path:
        """Create the folder to build in.

        Raises:
          OSError: If none of the roots can be written.
        """
        for root in self.roots:
            if _writable(root):
                folder = root / folder_name(self.name) / self.fingerprint
                folder.mkdir(parents=True, exist_ok=True)
                for blocked in filter(pathlib.Path.is_dir, folder.glob("*.npy")):
                    shutil.rmtree(blocked)  # A file belongs there.
                return folder
        raise PermissionError(
            f"none of {[str(r) for r in self.roots]} can be written to cache "
            f"{self.name!r}. Set MULO_CACHE_DIR to a folder that can."
        )


def place(name: str, source: str, data_dir: pathlib.Path) -> Place:
    """Return where to look for a data set's cache.

    Args:
      name: Of the set, with all that changes what is written.
      source: The name in tensorflow-datasets, a folder of ``data_dir`` if prepared.
      data_dir: Where tensorflow-datasets keeps its data.

    Raises:
      ValueError: If the prepared data cannot be read.
    """
    given = os.environ.get("MULO_CACHE_DIR")
    if given:
        roots = (pathlib.Path(given).expanduser(),)
    else:
        roots = (data_dir / "mulo_cache", pathlib.Path.home() / ".cache" / "mulo")
    return Place(roots, name, _fingerprint(data_dir / source))


def folder_name(name: str) -> str:
    """Return a data set's name as one folder name, safe on any file system."""
    return name.replace("/", "__").replace(":", "-")


def read(where: Place, parse: Callable[[Splits, Mapping[str, Any]], T]) -> T | None:
    """Open a cached data set, or return None where there is none that is sound.

    Damaged folders are reported through ``logging`` and passed over.

    Args:
      where: Where it may lie.
      parse: Takes the arrays by split and name, memory-mapped, and the facts that
        :func:`write_meta` was given. What it raises counts as damage.

    Returns:
      What ``parse`` returns.
    """
    for folder in where.folders():
        if not (folder / _META).is_file():
            continue
        try:
            return parse(*_open(folder, where.name))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _LOG.warning("Cache %s is damaged (%s): not used.", folder, error)
    return None


def write_array(
    path: pathlib.Path,
    shape: tuple[int | None, ...],
    dtype: np.typing.DTypeLike,
    chunks: Iterable[np.ndarray],
) -> None:
    """Write an .npy file piece by piece, atomically.

    Args:
      path: File to create or replace.
      shape: Of the whole array; None in the first place if that turns out at the end.
      dtype: Of the whole array.
      chunks: Arrays that give ``shape`` when concatenated along axis 0.

    Raises:
      ValueError: If the chunks give another shape.
    """

    def header(count: int) -> dict[str, Any]:
        return {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": (count, *shape[1:]),
        }

    with files.replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header(shape[0] or 0))
        start, count = file.tell(), 0
        for chunk in chunks:
            if chunk.shape[1:] != shape[1:]:
                raise ValueError(
                    f"examples of {path.name} must have shape {shape[1:]}, "
                    f"got {chunk.shape[1:]}."
                )
            file.write(np.ascontiguousarray(chunk, dtype).tobytes())
            count += chunk.shape[0]
        if shape[0] is None:
            # numpy leaves room in the header for any number of digits.
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, header(count))
            if file.tell() != start:
                raise ValueError(f"the header of {path.name} does not fit its place.")
        elif count != shape[0]:
            raise ValueError(
                f"{path.name} must hold {shape[0]} examples, got {count}: the prepared "
                "data are incomplete."
            )


def open_arrays(folder: pathlib.Path, splits: Mapping[str, Iterable[str]]) -> Splits:
    """Memory-map arrays that are written.

    Args:
      folder: Holds ``<split>.<array>.npy``.
      splits: Names of the arrays of each split.
    """
    return _map_splits(
        folder / f"{s}.{k}.npy" for s, keys in splits.items() for k in keys
    )


def write_meta(
    folder: pathlib.Path,
    name: str,
    splits: Mapping[str, Iterable[str]],
    facts: Mapping[str, Any],
) -> None:
    """Complete a folder whose arrays are written: checksum and describe them.

    Args:
      folder: Holds ``<split>.<array>.npy``.
      name: As in :class:`Place`.
      splits: Names of the arrays of each split that is written.
      facts: What else is to be known of the set; goes into JSON.
    """
    arrays = [folder / f"{s}.{k}.npy" for s, keys in splits.items() for k in keys]
    meta = {
        "format": FORMAT,
        "name": name,
        "facts": facts,
        "files": {
            f.name: {"bytes": f.stat().st_size, "crc32": _checksum(f)} for f in arrays
        },
    }
    with files.replacing(folder / _META) as file:
        file.write(json.dumps(meta, indent=1).encode())


def _open(folder: pathlib.Path, name: str) -> tuple[Splits, Mapping[str, Any]]:
    meta: Mapping[str, Any] = json.loads((folder / _META).read_text())
    if meta["format"] != FORMAT or meta["name"] != name:
        raise ValueError(
            f"meta.json must be of format {FORMAT} and set {name!r}, "
            f"got {meta['format']} and {meta['name']!r}"
        )
    for file, expected in meta["files"].items():
        size = (folder / file).stat().st_size
        if size != expected["bytes"]:
            raise ValueError(f"{file} must have {expected['bytes']} bytes, got {size}")
        if _checksum(folder / file) != expected["crc32"]:
            raise ValueError(f"{file} does not match its checksum")
    splits = _map_splits(folder / f for f in meta["files"])
    if "train" not in splits:
        raise ValueError("meta.json names no train split")
    return splits, meta["facts"]


def _map_splits(files: Iterable[pathlib.Path]) -> Splits:
    splits: dict[str, dict[str, np.ndarray]] = {}
    for file in files:
        split, kind, _ = file.name.split(".")
        # A plain view: np.memmap as a class is not known to jax.
        array = np.asarray(np.load(file, mmap_mode="r"))
        splits.setdefault(split, {})[kind] = array
    return splits


def _fingerprint(folder: pathlib.Path) -> str:
    """Return 12 hex digits of what tensorflow-datasets says it prepared there."""
    infos = [
        *folder.glob("*/dataset_info.json"),
        *folder.glob("*/*/dataset_info.json"),
        *folder.glob("dataset_info.json"),
    ]
    if not infos:
        return ""
    digest = hashlib.sha256()
    for info in sorted(infos):
        digest.update(str(info.relative_to(folder)).encode())
        try:
            digest.update(info.read_bytes())
        except OSError as error:
            raise ValueError(
                f"prepared data must be readable, got: {error}. Mend its permissions, "
                "or name another folder with TFDS_DATA_DIR or data_dir."
            ) from error
    return digest.hexdigest()[:12]


def _checksum(path: pathlib.Path) -> int:
    """CRC-32 of the file, or of evenly spaced blocks of a large one."""
    size = path.stat().st_size
    blocks = -(-size // _BLOCK_BYTES)
    picked = np.unique(np.linspace(0, blocks - 1, min(blocks, _MAX_BLOCKS)).astype(int))
    crc = 0
    with path.open("rb") as file:
        for block in picked:
            file.seek(int(block) * _BLOCK_BYTES)
            crc = zlib.crc32(file.read(_BLOCK_BYTES), crc)
    return crc


def _writable(root: pathlib.Path) -> bool:
    """Whether files may be created under a folder that need not exist yet."""
    existing = root
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        return False
    # A folder without any write bit is meant to stay as it is, even for root.
    return bool(existing.stat().st_mode & 0o222) and os.access(existing, os.W_OK)
