"""Fetch public thetas: ``python -m mulo.fetch velo``.

A theta is downloaded once. Where the sha256 of its files is known beforehand, others
are refused. Size and sha256 of what came are recorded beside it, and every later use of
the file is checked against the record. What was fetched is loaded by its name,
``mulo.load("velo")``; it is not part of mulo: its license is its authors'.
"""

import argparse
import dataclasses
import datetime
import http.client
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from mulo import _files as files
from mulo._learned.rule import Rule
from mulo._thetas import fetched as fetched_lib
from mulo._thetas import files as theta_files
from mulo._thetas.fetched import RECORD_NAME as RECORD_NAME
from mulo._thetas.fetched import SOURCES as SOURCES
from mulo._thetas.fetched import fetched as fetched
from mulo._thetas.fetched import folder as folder

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
    fetched_lib.known(name)
    where = folder(name) if directory is None else Path(directory)
    if (where / RECORD_NAME).is_file():
        record = fetched_lib.record_of(name, where)
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
            each: {"url": source, **fetched_lib.described(content)}
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
        got = fetched_lib.described(content)
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
        fetched_lib.known(given.name)
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


if __name__ == "__main__":
    sys.exit(main())
