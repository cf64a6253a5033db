"""What to suggest where a name is not known."""

import difflib
from collections.abc import Iterable
from typing import Any

_ALIKE = 0.5  # From 0 to 1: difflib's measure from which on a name is near.


def nearest(name: Any, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` to end a sentence with, or a full stop."""
    close = near(name, known)
    return f"; did you mean {close!r}?" if close else "."


def near(name: Any, known: Iterable[str], alike: float = _ALIKE) -> str:
    """The known name that is most like this one, or ``""``."""
    if not isinstance(name, str):
        return ""
    return next(iter(difflib.get_close_matches(name, list(known), 1, alike)), "")


def question(name: Any, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` after a sentence, or nothing."""
    close = near(name, known)
    return f" Did you mean {close!r}?" if close else ""
