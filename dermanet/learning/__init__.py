"""Learning: backbones, the three-headed model, its input pipeline and its training."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _silent_start() -> Iterator[None]:
    """TensorFlow's start writes to standard error before its own logging can be told not to; what fails still raises."""
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
    import keras  # noqa: F401
