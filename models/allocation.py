"""The memory of one pass is kept for the next.

glibc gives large blocks back to the system as soon as they are freed, and the system clears every page of them anew in
the next pass. For thousands of atoms that took more time than the arithmetic (docs/potential.md).
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
KEPT_BYTES = 2**31 - 1  # the most that mallopt can be told


@cache
def keep_memory() -> bool:
    """Let this process keep up to 2 GiB of freed memory; False where the C library is not glibc. Once is enough."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
