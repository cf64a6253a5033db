"""Which CPU cores this process may use."""

import os


def usable() -> list[int]:
    """Cores that ``taskset`` or a batch system leaves us."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
