"""Keras, which is imported here and nowhere else: its backend writes to standard error as it starts, before its own logging can be
told not to.
"""

import os
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


with _silent_start():
    import keras
    from keras import layers, ops

__all__ = ["keras", "layers", "ops"]
