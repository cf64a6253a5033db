"""What every command of this folder does alike: bad input, Ctrl-C, exit statuses.

Exit status 2: bad input, said on standard error; 130: stopped by Ctrl-C.
"""

import sys
from collections.abc import Callable

from absl import app, flags, logging


def run(name: str, main: Callable[[], int], stopped: str = "") -> None:
    """Parse the command line, run ``main`` and leave with its exit status.

    Args:
      name: Of the command, for messages.
      main: Returns the exit status. ValueError, OSError and ImportError are bad input.
      stopped: What to say of a run that Ctrl-C ends.
    """

    def guarded(argv: list[str]) -> int:
        logging.set_verbosity(logging.WARNING)  # JAX is chatty about devices.
        try:
            if argv[1:]:
                raise ValueError(f"unknown arguments: {' '.join(argv[1:])}")
            return main()
        except (ValueError, OSError, ImportError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"\n{name}: stopped{stopped}.", file=sys.stderr)
            return 130

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except (flags.Error, ValueError, OSError) as error:
            print(f"{name}: {error} (--help lists the flags)", file=sys.stderr)
            sys.exit(2)

    app.run(guarded, flags_parser=parse)
