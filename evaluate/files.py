"""Writes files so that a reader never sees half of one."""

import os
import pathlib
import tempfile


def write_bytes(path: str | os.PathLike[str], content: bytes) -> pathlib.Path:
    """Write ``content`` to ``path`` atomically, creating its folder.

    The bytes go to a temporary file in the same folder, which then takes the name: a
    full disk, a read-only folder or a killed process leaves the old file, or none.

    Args:
      path: The file to write or replace.
      content: All of it.

    Returns:
      The path written.

    Raises:
      OSError: If the folder cannot be made or written, or the disk is full. The
        message names the path.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".partial", dir=path.parent
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; results are for sharing.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            pathlib.Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # A full disk's names no file.
            error.filename = str(path)
        raise
    return path


def check_writable(folder: pathlib.Path) -> None:
    """Create a folder and raise OSError unless files can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_text(path: str | os.PathLike[str], content: str) -> pathlib.Path:
    """Write ``content`` as UTF-8; otherwise as :func:`write_bytes`."""
    return write_bytes(path, content.encode())
