"""Keras, which is imported here and nowhere else: its backend writes to standard error as it starts, before its own logging can be
told not to, and its threads keep to what memory is like when they begin.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dermanet import memory


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


memory.keep()
with _silent_start():
    import keras
    from keras import layers, ops

__all__ = ["keras", "layers", "ops"]
