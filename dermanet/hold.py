"""A file that one process holds at a time. The hold ends with the process, however that ends, and is not passed on to its children."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dermanet.errors import DermaNetError


@contextmanager
def held(file: Path, otherwise: DermaNetError) -> Iterator[None]:
    """Holds a file, which is made with its folder, for as long as a block lasts. Raises `otherwise` where another process has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise otherwise from None
        yield
