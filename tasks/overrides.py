"""Says what is wrong with ``--config.<key>=<value>`` arguments of a command.

The parser's own messages name neither the key nor what it takes, and it lets items of
tuples pass whatever they are.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections

from mulo import _hints as hints

_OVERRIDE = re.compile(r"--?config\.([^=]+)(?:=(.*))?", re.DOTALL)
_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}
_ITEMS = {int: "whole numbers", float: "numbers", str: "texts"}


def config_of(argv: Sequence[str]) -> str:
    """Return what ``--config`` is, ``<file>`` or ``<file>:<variant>``; empty without.

    Args:
      argv: The command's name and its arguments.
    """
    given = ""
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            following = argv[i + 1] if i + 1 < len(argv) else ""
            given = value if equals else following
    return given


def wrong(argv: Sequence[str]) -> str:
    """Return a line on the first override that does not fit; empty if all do.

    Args:
      argv: The command's name and its arguments.
    """
    given = any(_OVERRIDE.fullmatch(argument) for argument in argv)
    config = _load(config_of(argv)) if given else None
    if config is None:
        return ""
    for i, argument in enumerate(argv):
        match = _OVERRIDE.fullmatch(argument)
        if match is None:
            continue
        key, value = match[1], match[2]
        if value is None and i + 1 < len(argv):
            value = argv[i + 1]
        if said := _wrong_key(config, key) or _wrong_value(config, key, value):
            return said
    return ""


def _load(given: str) -> ml_collections.ConfigDict | None:
    path, colon, variant = given.partition(":")
    try:
        spec = importlib.util.spec_from_file_location("_config", path)
        if spec is None or spec.loader is None:
            return None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.get_config(*[variant] * bool(colon))
    except Exception:  # What is wrong with it has been said already.
        return None


def _wrong_key(config: ml_collections.ConfigDict, key: str) -> str:
    node: Any = config
    done: list[str] = []
    for part in key.split("."):
        name = part.partition("[")[0]
        if not isinstance(node, ml_collections.ConfigDict):
            return f"config.{'.'.join(done)} has no keys; got --config.{key}."
        if name not in node:
            return _unknown(config, node, done, name, key)
        node = node[name]
        done.append(name)
    return ""


def _unknown(
    config: ml_collections.ConfigDict,
    node: ml_collections.ConfigDict,
    done: Sequence[str],
    unknown: str,
    key: str,
) -> str:
    rest = key.split(".")[len(done) + 1 :]
    name = hints.near(unknown, node, alike=0.6)
    near = [".".join((*done, name, *rest))] if name else []
    near = [full for full in near if not _wrong_key(config, full)]
    if not near:  # One that was left out of its section.
        last = key.rpartition(".")[2]
        known = {full: full.rpartition(".")[2] for full in _leaves(config)}
        close = hints.near(last, known.values(), alike=0.8)
        near = [full for full, name in known.items() if name == close]
    if near:
        return f"there is no config.{key}; did you mean config.{near[0]}?"
    where = ".".join(("config", *done))
    return f"there is no config.{key}; {where} has {', '.join(sorted(node))}."


def _leaves(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[str]:
    for name in config:
        value = config[name]
        if isinstance(value, ml_collections.ConfigDict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _wrong_value(config: ml_collections.ConfigDict, key: str, value: str | None) -> str:
    if "[" in key or value is None:
        return ""
    *path, name = key.split(".")
    section = config
    for part in path:
        section = section[part]
    default = section[name]
    if isinstance(default, ml_collections.ConfigDict):
        names = ", ".join(f"config.{key}.{x}" for x in sorted(default))
        return f"config.{key} is a section; set one of its keys: {names}."
    kind = section.get_type(name)
    if kind is tuple:
        rule = _rule_of_items(default, value)
    else:
        rule = "" if kind not in _KINDS or _is(kind, value) else _KINDS[kind]
    like = "" if default is None else f", like {default!r}"
    return f"config.{key} must be {rule}{like}; got {value!r}." * bool(rule)


def _is(kind: type, text: str) -> bool:
    if kind is bool:
        return text.lower() in ("true", "t", "1", "false", "f", "0")
    try:
        kind(text)
        return True
    except ValueError:
        return False


def _rule_of_items(default: tuple[Any, ...], text: str) -> str:
    """Return what a tuple's items must be if they are not."""
    kinds = {type(item) for item in default}
    kind = kinds.pop() if len(kinds) == 1 else None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    items = value if isinstance(value, tuple | list) else (value,)
    fitting = (int, float) if kind is float else (kind,)
    if kind not in _ITEMS or all(type(item) in fitting for item in items):
        return ""
    return _ITEMS[kind]
