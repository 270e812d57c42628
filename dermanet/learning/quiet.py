"""Keras, which is imported here and nowhere else: its backend writes to standard error as it starts, before its own logging can be
told not to; and its threads must find the memory as it is set here.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _silent_start() -> Iterator[None]:
    """What fails still raises."""
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _keep_memory() -> None:
    """What a step has freed, the next one gets again, instead of the system's: half of a step's time on a processor.

    glibc gives every block above 32 MB back when it is freed, and blocks of any size in the arenas of threads that are not the
    first; the next step then has all of its memory mapped and cleared anew, page by page. (malloc's `mallopt(3)`.)
    """
    if not sys.platform.startswith("linux") or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    trim_threshold, mmap_max, arena_max = -1, -4, -8
    libc.mallopt(arena_max, 1)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)


_keep_memory()
with _silent_start():
    import keras
    from keras import layers, ops

__all__ = ["keras", "layers", "ops"]
