"""Fetch public thetas: ``python -m mulo.fetch velo``.

A theta is downloaded once and checked (:mod:`mulo._thetas.downloads`), and loaded by
its name, ``mulo.load("velo")``. It is not part of mulo: its license is its authors'.
"""

import argparse
import dataclasses
import json
import sys

from mulo._learned.rule import Rule
from mulo._thetas import downloads, fetched


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mulo.fetch",
        description="Fetch a public theta, for mulo.load(NAME).",
        epilog="; ".join(f"{name}: {s.about}" for name, s in fetched.SOURCES.items()),
    )
    parser.add_argument("name", help=", ".join(fetched.SOURCES))
    parser.add_argument("--directory", help="where to put it (default: user's cache)")
    parser.add_argument("--url", help="another address of the same file")
    given = parser.parse_args(arguments)
    try:
        fetched.known(given.name)
    except ValueError as error:
        print(f"mulo.fetch: {error}", file=sys.stderr)
        return 2
    try:
        path = downloads.fetch(given.name, given.directory, url=given.url)
    except (ValueError, OSError) as error:
        print(f"mulo.fetch: {error}", file=sys.stderr)
        return 1
    record = json.loads((path.parent / fetched.RECORD_NAME).read_text())
    for name, described in record["files"].items():
        print(f"{path.parent / name}  {described['size']} bytes")
        print(f"  sha256 {described['sha256']}  from {described['url']}")
    argument = repr(given.name)
    if given.directory is not None:
        argument = repr(str(path)) + _rule_argument(fetched.SOURCES[given.name].rule)
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


if __name__ == "__main__":
    sys.exit(main())
