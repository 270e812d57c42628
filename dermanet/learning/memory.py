"""How this process has its memory from the system: once, and not anew for every step of a training."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
"""The numbers of glibc's words for `mallopt(3)`."""


def keep() -> None:
    """What a step frees, the next one gets again: half of a step's processor time, where clearing a page is dear.

    glibc gives every block above 32 MB back when it is freed, and much of what lies in the arenas of threads; the next step then has
    its memory mapped and cleared anew, page by page. Needed before the threads begin that are to keep to it. Nothing where there is
    no `mallopt`, as on macOS.
    """
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if libc is None or not hasattr(libc, "mallopt"):
        return
    libc.mallopt(ARENA_MAX, 1)
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
