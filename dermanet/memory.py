"""How this process has its memory from the system: once, and not anew for every step of a training; and how it gives it back.

Only with the C library glibc; elsewhere both do nothing.
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
"""The numbers of glibc's words for `mallopt(3)`."""


def keep() -> None:
    """What a step frees, the next one gets again: half of a step's processor time, where clearing a page is dear.

    glibc gives every block above 32 MB back when it is freed, and much of what lies in the arenas of threads; the next step then has
    its memory mapped and cleared anew, page by page. Needed before the threads begin that are to keep to it.
    """
    libc = _glibc()
    if libc is None:
        return
    libc.mallopt(ARENA_MAX, 1)
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)


def give_back() -> None:
    """What is free goes back to the system: after an uncommonly large piece of work, or between two whose memory would add up."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return libc if libc is not None and hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
