"""Fetch public thetas: ``python -m mulo.fetch velo``.

A theta is downloaded once. Where the sha256 of its files is known beforehand, others
are refused. Size and sha256 of what came are recorded beside it, and every later use of
the file is checked against the record. What was fetched is loaded by its name,
``mulo.load("velo")``; it is not part of mulo: its license is its authors'.
"""

import argparse
import dataclasses
import datetime
import hashlib
import http.client
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mulo import _files as files
from mulo import _hints as hints
from mulo._learned.celo2 import Celo2
from mulo._learned.rule import Rule
from mulo._thetas import files as theta_files
from mulo._thetas import pylo

RECORD_NAME = "record.json"
_TIMEOUT_SECS = 60
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
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
        own = self.file_name == theta_files.MODEL_NAME
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
    return Path(root) / _known(name)


def fetched(name: str, directory: str | os.PathLike[str] | None = None) -> Path:
    """Return the file of a theta that was fetched before, checked.

    Args:
      name: One of `SOURCES`.
      directory: Where it was put; None for `folder`.

    Returns:
      The path of the theta's file.

    Raises:
      ValueError: If it was not fetched, or a file is not what the record says.
    """
    where = folder(name) if directory is None else Path(directory)
    return where / _record(name, where)["theta"]


def _record(name: str, where: Path) -> dict[str, Any]:
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
        got = _described(path.read_bytes()) if path.is_file() else None
        if got != {key: want[key] for key in ("size", "sha256")}:
            raise ValueError(
                f"{path} is {'missing' if got is None else 'not what was fetched'}: "
                f"{record_path} says {want['size']} bytes, sha256 {want['sha256']}, "
                f"got {got}. Delete {where} and fetch it again."
            )
    return record


def fetch(
    name: str,
    directory: str | os.PathLike[str] | None = None,
    *,
    url: str | None = None,
) -> Path:
    """Fetch a theta, unless it is there, and check it.

    Args:
      name: One of `SOURCES`.
      directory: Where to put it; None for `folder`.
      url: Another address of the same file, ``https://`` or ``file://``; ``http://``
        of this machine only.

    Returns:
      The path of the theta's file.

    Raises:
      ValueError: If what came is not a whole theta of this optimizer, or what is there
        is not what was fetched.
      OSError: If the address cannot be read.
    """
    _known(name)
    where = folder(name) if directory is None else Path(directory)
    if (where / RECORD_NAME).is_file():
        record = _record(name, where)
        source = record["files"].get(record["theta"], {}).get("url")
        if url not in (None, source):
            raise ValueError(
                f"{where} holds what came from {source}, not from {url}; delete it or "
                "give another directory."
            )
        return where / record["theta"]
    contents = _contents(name, url or SOURCES[name].url)
    where.mkdir(parents=True, exist_ok=True)
    for each, (_, content) in contents.items():
        files.write(where / each, content)
    record = {
        "name": name,
        "theta": SOURCES[name].file_name,
        "fetched": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "files": {
            each: {"url": source, **_described(content)}
            for each, (source, content) in contents.items()
        },
    }
    # Last: a file without a record was not fetched whole.
    described = (json.dumps(record, indent=2) + "\n").encode()
    files.write(where / RECORD_NAME, described)
    return where / SOURCES[name].file_name


def _contents(name: str, address: str) -> dict[str, tuple[str, bytes]]:
    """Download a theta's files and check them: (address, content) by file name."""
    source = SOURCES[name]
    contents = {source.file_name: (address, _download(address, name))}
    for other in source.beside:
        beside = urllib.parse.urljoin(address, other)
        try:
            contents[other] = (beside, _download(beside, name))
        except FileNotFoundError:
            if other in source.sha256:
                raise
            continue  # The published settings are used.
    for file_name, want in source.sha256.items():
        whence, content = contents[file_name]
        got = _described(content)
        if got["sha256"] != want:
            raise ValueError(
                f"{whence} has sha256 {got['sha256']} ({got['size']} bytes), and "
                f"{file_name} of {name!r} is known to have {want}: it is truncated, "
                "damaged or another file; nothing was kept."
            )
    given = {each: content for each, (_, content) in contents.items()}
    theta = given.pop(source.file_name)
    rule = theta_files.read(source.format, theta, given, address).rule
    if type(rule).__name__ != source.architecture:
        raise ValueError(
            f"{address} holds a theta of {type(rule).__name__}, not of "
            f"{source.architecture}; nothing was kept."
        )
    if source.rule is not None:  # Of its sizes, too.
        theta_files.read(source.format, theta, given, address, source.rule)
    return contents


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mulo.fetch",
        description="Fetch a public theta, for mulo.load(NAME).",
        epilog="; ".join(f"{name}: {s.about}" for name, s in SOURCES.items()),
    )
    parser.add_argument("name", help=", ".join(SOURCES))
    parser.add_argument("--directory", help="where to put it (default: user's cache)")
    parser.add_argument("--url", help="another address of the same file")
    given = parser.parse_args(arguments)
    try:
        _known(given.name)
    except ValueError as error:
        print(f"mulo.fetch: {error}", file=sys.stderr)
        return 2
    try:
        path = fetch(given.name, given.directory, url=given.url)
    except (ValueError, OSError) as error:
        print(f"mulo.fetch: {error}", file=sys.stderr)
        return 1
    record = json.loads((path.parent / RECORD_NAME).read_text())
    for name, described in record["files"].items():
        print(f"{path.parent / name}  {described['size']} bytes")
        print(f"  sha256 {described['sha256']}  from {described['url']}")
    argument = repr(given.name)
    if given.directory is not None:
        argument = repr(str(path)) + _rule_argument(SOURCES[given.name].rule)
    print(f"Load it with mulo.load({argument}).")
    return 0


def _known(name: str) -> str:
    if not isinstance(name, str) or name not in SOURCES:
        raise ValueError(
            f"No public theta called {name!r} to fetch"
            f"{hints.nearest(name, SOURCES)} Known: {', '.join(SOURCES)}."
        )
    return name


def _rule_argument(rule: Rule | None) -> str:
    """What to give to `mulo.load` besides a path, where the file does not tell."""
    if rule is None:
        return ""
    settings = [
        f"{field.name}={getattr(rule, field.name)!r}"
        for field in dataclasses.fields(rule)
        if getattr(rule, field.name) != field.default
    ]
    return f", rule=mulo.{type(rule).__name__}({', '.join(settings)})"


def _download(url: str, name: str) -> bytes:
    """Read an address; FileNotFoundError if nothing is there, OSError otherwise."""
    _check_address(url)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECS) as response:
            _check_address(response.url)  # Where redirections have led.
            return response.read()
    except http.client.IncompleteRead as error:
        raise ConnectionError(f"{url} broke off ({error}); fetch it again.") from error
    except http.client.HTTPException as error:
        raise ConnectionError(
            f"Could not read {url} ({type(error).__name__}: {error})."
        ) from error
    except OSError as error:  # URLError and time-outs are ones.
        reason = getattr(error, "reason", None) or error
        missing = isinstance(reason, FileNotFoundError) or (
            isinstance(error, urllib.error.HTTPError) and error.code == 404
        )
        raise (FileNotFoundError if missing else ConnectionError)(
            f"Could not read {url} ({reason}). Fetching needs the network once; on a "
            "machine without it, copy the file from elsewhere and give its path to "
            f"mulo.load, or its address: python -m mulo.fetch {name} --url=file:///…"
        ) from error


def _check_address(url: str) -> None:
    """Raise ValueError if what comes from there could be changed on its way."""
    parts = urllib.parse.urlparse(url)
    here = parts.scheme == "http" and parts.hostname in _THIS_MACHINE
    if parts.scheme not in ("https", "file") and not here:
        raise ValueError(
            "url must start with https:// or file:// (http:// for this machine's own "
            f"servers only), got {url!r}."
        )


def _described(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


if __name__ == "__main__":
    sys.exit(main())
