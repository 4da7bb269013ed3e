"""The memory of one pass is kept for the next.

glibc gives large blocks back to the system as soon as they are freed, and the system clears every page of them anew in
the next pass. For thousands of atoms that took more time than the arithmetic (docs/potential.md).
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
WITHOUT_LIMIT = -1  # of what is kept, mallopt(3)


@cache
def keep_memory() -> bool:
    """Let this process keep freed memory for later; False where the C library is not glibc. Once is enough."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, WITHOUT_LIMIT))


def give_memory_back() -> None:
    """Return to the system what is kept and not in use."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


class _Mallinfo2(ctypes.Structure):
    """malloc.h, glibc 2.33 and later."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def kept_bytes() -> int:
    """How much is kept and not in use, in the main arena; 0 where nobody can tell."""
    if platform.libc_ver()[0] != "glibc":
        return 0
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    mallinfo2.restype = _Mallinfo2
    return int(mallinfo2().fordblks)
