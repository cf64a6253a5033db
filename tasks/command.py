"""What every command of mulo does alike: bad input, Ctrl-C, exit statuses.

Exit status 2: bad input, said on standard error; 130: stopped by Ctrl-C.
"""

import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from tasks import data_names


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
        try:
            return main(argv[1:])
        except (ValueError, OSError, ImportError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"\n{name}: stopped{stopped}.", file=sys.stderr)
            return 130

    def parse(argv: list[str]) -> list[str]:
        try:
            _check_config(argv)
            return flags.FLAGS(argv)
        except (flags.Error, ValueError, OSError, AttributeError) as error:
            print(f"{name}: {_brief(error)} (--help lists the flags)", file=sys.stderr)
            sys.exit(2)

    app.run(guarded, flags_parser=parse)


def _check_config(argv: Sequence[str]) -> None:
    """Name the suites there are when a configuration's file is missing."""
    for argument in argv:
        if argument.startswith(("--config=", "-config=")):
            path = pathlib.Path(argument.partition("=")[2].partition(":")[0])
            if path.is_file():
                continue
            known = sorted(p.stem for p in path.parent.glob("*.py") if p.stem != "base")
            hint = data_names.nearest(path.stem, known)
            raise ValueError(
                f"there is no configuration {path}.{hint} "
                f"In {path.parent}: {', '.join(known) or 'nothing'}."
            )


def _brief(error: BaseException) -> str:
    """Reduce a message that holds a traceback to what follows it."""
    text = str(error).strip()
    if isinstance(error, AttributeError):  # Of ml_collections: the repr of a text.
        return text.strip("\"'").replace("\\'", "'").replace("\\n", " ")
    if "Traceback (most recent call last)" not in text:
        return text
    last = next(x for x in reversed(text.splitlines()) if x and not x.startswith(" "))
    return last.partition("Error: ")[2] or last
