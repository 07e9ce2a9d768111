"""Where arrays come from: pages that a process gets anew cost more than the arithmetic on them."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed for the next array; says whether it does. For processes that are ours to set up.

    Without it an array of megabytes is mapped, zeroed and unmapped again for every temporary of a round.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
