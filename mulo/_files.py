"""Files that are there whole or not at all: how every room of the project writes."""

import contextlib
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Generator[IO[bytes], None, None]:
    """Open a file to write that takes its name when all of it is on disk.

    Until then it is a hidden neighbour, and the folder is made: a full disk, a
    read-only folder or a killed process leaves the old file, or none. Permissions are
    those of any new file.

    Args:
      path: The file to write or replace.

    Raises:
      OSError: If the folder cannot be made or written, or the disk is full; names the
        file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix, temporary = f".{path.name}.", ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=prefix, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes them private.
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        # A full disk's names no file; without a number, its message would be lost.
        if isinstance(error, OSError) and error.errno:
            named = os.path.basename(str(error.filename or prefix))
            if named.startswith(prefix):
                error.filename = str(path)
        raise


def write(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write all of a file at once; text as UTF-8.

    Args:
      path: The file to write or replace.
      content: All of it.

    Returns:
      The path.

    Raises:
      OSError: As `replacing`.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


def check_writable(folder: Path) -> None:
    """Create a folder and raise OSError unless files can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
