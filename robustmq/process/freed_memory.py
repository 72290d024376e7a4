"""Large buffers that were freed are used again, where object storage is read.

Each answer of an object store is a fresh buffer of 8 MiB, of which the cache keeps some. glibc
gives such memory back to the kernel and gets it anew all the time, and each page costs a fault:
up to 120 a MiB that is read. With these settings there are none once the cache is full. There is
one arena, as what is freed in one serves no other: so the process is smaller, too (154 MB above
what it had before the first read, with 128 MiB for blocks; 180 MB without).
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
MIB = 1024 * 1024
SETTINGS = {
    # The most that it takes.
    M_MMAP_THRESHOLD: 32 * MIB,
    # So much may be free at the end of the heap.
    M_TRIM_THRESHOLD: 64 * MIB,
    M_ARENA_MAX: 1,
}


def reuse_freed_memory() -> bool:
    """Before threads begin. False with another C library than glibc: it does as it likes."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(name, value) for name, value in SETTINGS.items())
