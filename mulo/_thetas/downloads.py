"""Downloading public thetas: ``python -m mulo.fetch NAME`` does it.

A theta is downloaded once. Where the sha256 of its files is known beforehand, others
are refused. Size and sha256 of what came are recorded beside it, and every later use of
the file is checked against the record.
"""

import datetime
import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from mulo import _files
from mulo._thetas import fetched, files

_TIMEOUT_SECS = 60
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def fetch(
    name: str,
    directory: str | os.PathLike[str] | None = None,
    *,
    url: str | None = None,
) -> Path:
    """Fetch a theta, unless it is there, and check it.

    Args:
      name: One of `fetched.SOURCES`.
      directory: Where to put it; None for `fetched.folder`.
      url: Another address of the same file, ``https://`` or ``file://``; ``http://``
        of this machine only.

    Returns:
      The path of the theta's file.

    Raises:
      ValueError: If what came is not a whole theta of this optimizer, or what is there
        is not what was fetched.
      OSError: If the address cannot be read.
    """
    fetched.known(name)
    where = fetched.folder(name) if directory is None else Path(directory)
    if (where / fetched.RECORD_NAME).is_file():
        record = fetched.record_of(name, where)
        source = record["files"].get(record["theta"], {}).get("url")
        if url not in (None, source):
            raise ValueError(
                f"{where} holds what came from {source}, not from {url}; delete it or "
                "give another directory."
            )
        return where / record["theta"]
    contents = _contents(name, url or fetched.SOURCES[name].url)
    where.mkdir(parents=True, exist_ok=True)
    for each, (_, content) in contents.items():
        _files.write(where / each, content)
    record = {
        "name": name,
        "theta": fetched.SOURCES[name].file_name,
        "fetched": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "files": {
            each: {"url": source, **fetched.described(content)}
            for each, (source, content) in contents.items()
        },
    }
    # Last: a file without a record was not fetched whole.
    described = (json.dumps(record, indent=2) + "\n").encode()
    _files.write(where / fetched.RECORD_NAME, described)
    return where / fetched.SOURCES[name].file_name


def _contents(name: str, address: str) -> dict[str, tuple[str, bytes]]:
    """Download a theta's files and check them: (address, content) by file name."""
    source = fetched.SOURCES[name]
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
        got = fetched.described(content)
        if got["sha256"] != want:
            raise ValueError(
                f"{whence} has sha256 {got['sha256']} ({got['size']} bytes), and "
                f"{file_name} of {name!r} is known to have {want}: it is truncated, "
                "damaged or another file; nothing was kept."
            )
    given = {each: content for each, (_, content) in contents.items()}
    theta = given.pop(source.file_name)
    rule = files.read(source.format, theta, given, address).rule
    if type(rule).__name__ != source.architecture:
        raise ValueError(
            f"{address} holds a theta of {type(rule).__name__}, not of "
            f"{source.architecture}; nothing was kept."
        )
    if source.rule is not None:  # Of its sizes, too.
        files.read(source.format, theta, given, address, source.rule)
    return contents


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
