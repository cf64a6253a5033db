"""What a result was made with: the commit of this checkout, the processor."""

import platform
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT_SECS = 10


def git_commit(*, changes: bool = False) -> str | None:
    """The commit of mulo's checkout, 40 hexadecimal digits.

    Args:
      changes: Whether to end it in ``"+"`` if files differ from that commit.

    Returns:
      None outside of a checkout, such as a wheel inside somebody's repository.
    """
    if not (_ROOT / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        changed = changes and _git("status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+" if changed else commit


def processor() -> str:
    """The processor's name from the kernel, else what Python knows of it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # Not Linux.
        pass
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(_ROOT), *arguments],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECS,
        check=True,
    )
    return done.stdout.strip()
