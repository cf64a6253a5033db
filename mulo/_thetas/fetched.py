"""Public thetas by name: where they come from, and where what was fetched is kept.

``python -m mulo.fetch NAME`` fetches one (:mod:`mulo._thetas.downloads`).
"""

import dataclasses
import hashlib
import json
import os
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mulo import _hints as hints
from mulo._learned.celo2 import Celo2
from mulo._learned.rule import Rule
from mulo._thetas import pylo
from mulo._thetas.tensor_files import MODEL_NAME

RECORD_NAME = "record.json"
_VELO = "aug12_continue_on_bigger_2xbs_200kstep_bigproblem_v2_5620"
_CELO = (
    "https://raw.githubusercontent.com/amoudgl/celo/"
    "66d976116f39da286951f0c5e0a18eee8d1fd66b/algoperf/submissions"
)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a public theta lies.

    Attributes:
      url: Its address.
      beside: Names of files in the same folder that belong to it; fetched if they
        exist, and those in ``sha256`` always.
      about: One line on it.
      architecture: Class of the rule it belongs to.
      rule: The rule itself, where the file does not tell all of it.
      sha256: By file name, for files of which it is known.
    """

    url: str
    beside: tuple[str, ...]
    about: str
    architecture: str
    rule: Rule | None = None
    sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """Name of theta's file."""
        return Path(urllib.parse.urlparse(self.url).path).name

    @property
    def format(self) -> str:
        """Of theta's file, one of those that `mulo.load` reads."""
        own = self.file_name == MODEL_NAME
        return "PyLO" if own else "flax msgpack"


SOURCES = {
    "velo": Source(
        "https://storage.googleapis.com/gresearch/learned_optimization/"
        f"pretrained_lopts/{_VELO}/params",
        ("config.gin",),
        "VeLO, 4000 TPU-months; 9.3 MB",
        "VeLO",
    ),
    "celo": Source(f"{_CELO}/celo/theta.state", (), "Celo; 0.15 MB", "Celo"),
    "celo_adam": Source(
        f"{_CELO}/celo_adam/theta.state", (), "CeloAdam; 0.15 MB", "CeloAdam"
    ),
    # The two of Celo2 were trained apart, and their files do not say which they are.
    "celo2": Source(
        "https://huggingface.co/amoudgl/celo2/resolve/main/theta.state",
        (),
        "Celo2, orthogonalized; 347 weights",
        "Celo2",
        rule=Celo2(),
    ),
    "celo2_base": Source(
        "https://huggingface.co/amoudgl/celo2-base/resolve/main/theta.state",
        (),
        "Celo2-base; 347 weights",
        "Celo2",
        rule=Celo2(orthogonalize=False),
    ),
    "mulo_public": Source(
        "https://huggingface.co/btherien/mulo/resolve/main/model.safetensors",
        ("config.json",),
        "the μLO authors' μLO; 10 kB",
        "SmallFC",
        sha256=pylo.PUBLIC_MULO_SHA256,
    ),
}


def folder(name: str) -> Path:
    """Where a theta is kept: ``$MULO_CACHE``, else the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = os.environ.get("MULO_CACHE") or Path(cache) / "mulo"
    return Path(root) / known(name)


def fetched(name: str) -> Path:
    """Return the file of a theta that was fetched before, checked.

    Args:
      name: One of `SOURCES`.

    Returns:
      The path of the theta's file, in `folder`.

    Raises:
      ValueError: If it was not fetched, or a file is not what the record says.
    """
    where = folder(name)
    return where / record_of(name, where)["theta"]


def record_of(name: str, where: Path) -> dict[str, Any]:
    """What is known of the files in a folder, which were compared with it."""
    record_path = where / RECORD_NAME
    if not record_path.is_file():
        raise ValueError(
            f"{name!r} was not fetched: there is no {record_path}. Run: python -m "
            f"mulo.fetch {name}, or give the path of a file you have."
        )
    try:
        record = json.loads(record_path.read_text())
        files, _ = dict(record["files"]), where / record["theta"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{record_path} is damaged ({type(error).__name__}: {error}). Delete "
            f"{where} and fetch it again."
        ) from error
    if record.get("name", name) != name:
        raise ValueError(
            f"{where} holds {record['name']!r}, not {name!r}; give another directory."
        )
    for file_name, want in files.items():
        path = where / file_name
        got = described(path.read_bytes()) if path.is_file() else None
        if got != {key: want[key] for key in ("size", "sha256")}:
            raise ValueError(
                f"{path} is {'missing' if got is None else 'not what was fetched'}: "
                f"{record_path} says {want['size']} bytes, sha256 {want['sha256']}, "
                f"got {got}. Delete {where} and fetch it again."
            )
    return record


def known(name: str) -> str:
    if not isinstance(name, str) or name not in SOURCES:
        raise ValueError(
            f"No public theta called {name!r} to fetch"
            f"{hints.nearest(name, SOURCES)} Known: {', '.join(SOURCES)}."
        )
    return name


def described(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
