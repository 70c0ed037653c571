"""What this machine, or the container that we are in, has."""

import os
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # cgroups 2 and 1


def memory() -> int:
    """Bytes of memory."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # "max": none
            found.append(int(Path(limit).read_text()))
    return min(found)


def processors() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def give_back() -> None:
    """Give memory that is free back to the system; takes some milliseconds."""
    pa.default_memory_pool().release_unused()
