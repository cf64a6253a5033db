"""What every command of mulo does alike: bad input, full disks, Ctrl-C, exit statuses.

Exit status 2: bad input or a full disk, said in one line on standard error; 130:
stopped by Ctrl-C.
"""

import errno
import logging as python_logging
import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from mulo import _hints as hints
from tasks import overrides

_QUIET = frozenset({"orbax", "tensorflow_datasets"})
_FULL = (errno.ENOSPC, errno.EDQUOT)


def run(name: str, main: Callable[[], int], stopped: str = "") -> None:
    """Parse the command line, run ``main`` and leave with its exit status.

    Args:
      name: Of the command, for messages.
      main: Returns the exit status. ValueError, OSError and ImportError are bad input.
      stopped: What to say of a run that Ctrl-C ends.
    """

    def without_arguments(arguments: Sequence[str]) -> int:
        if arguments:
            raise ValueError(f"unknown arguments: {' '.join(arguments)}")
        return main()

    run_with_arguments(name, without_arguments, stopped)


def run_with_arguments(
    name: str, main: Callable[[Sequence[str]], int], stopped: str = ""
) -> None:
    """Likewise, for a command that takes arguments beside its flags."""

    def guarded(argv: list[str]) -> int:
        logging.set_verbosity(logging.WARNING)  # JAX is chatty about devices.
        logging.get_absl_handler().addFilter(shows)
        try:
            return main(argv[1:])
        except (ValueError, OSError, ImportError) as error:
            print(f"{name}: {_full_disk(error) or error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"\n{name}: stopped{stopped}.", file=sys.stderr)
            return 130

    def parse(argv: list[str]) -> list[str]:
        try:
            _check_config(argv)
            rest = flags.FLAGS(argv)
            if said := overrides.wrong(argv):
                raise ValueError(said)
            return rest
        except (flags.Error, ValueError, OSError, LookupError, AttributeError) as error:
            what = overrides.wrong(argv) or f"{_brief(error)} (--help lists the flags)"
            print(f"{name}: {what}", file=sys.stderr)
            sys.exit(2)

    app.run(guarded, flags_parser=parse)


def shows(record: python_logging.LogRecord) -> bool:
    """Whether a log line is let through: none of libraries whose errors are raised."""
    return _QUIET.isdisjoint(pathlib.Path(record.pathname).parts)


def _full_disk(error: BaseException) -> str:
    """Say that the disk is full and where; empty if that is not the trouble."""
    if not isinstance(error, OSError) or error.errno not in _FULL:
        return ""
    what = "disk is full" if error.errno == errno.ENOSPC else "disk quota is used up"
    where = f": cannot write {error.filename}" if error.filename else ""
    return f"the {what}{where}. Make room and give the same command again."


def _check_config(argv: Sequence[str]) -> None:
    """Name the suites there are when a configuration's file is missing."""
    given = overrides.config_of(argv)
    path = pathlib.Path(given.partition(":")[0])
    if not given or path.is_file():
        return
    known = sorted(p.stem for p in path.parent.glob("*.py") if p.stem != "base")
    hint = hints.question(path.stem, known)
    raise ValueError(
        f"there is no configuration {path}.{hint} "
        f"In {path.parent}: {', '.join(known) or 'nothing'}."
    )


def _brief(error: BaseException) -> str:
    """Reduce a message that holds a traceback to what follows it."""
    text = str(error).strip()
    if isinstance(error, LookupError | AttributeError):  # The repr of a text.
        return text.strip("\"'").replace("\\'", "'").replace("\\n", " ")
    if "Traceback (most recent call last)" not in text:
        return text
    last = next(x for x in reversed(text.splitlines()) if x and not x.startswith(" "))
    return last.partition("Error: ")[2] or last
