"""What can go wrong, and the exit status each kind ends the command line with.

    DermaNetError            1  a fault: something broke that the user did not cause
    ├── BadInput             2  wrong use or bad input: one clear line says what was seen, what is allowed, what to do
    │   ├── Diverged         2  a training that ran away, its loss no number or its ages none: the same experiment would again
    │   └── UnreadableImage  2  bytes that are not a whole JPEG or PNG of an allowed size (`reason` is the quarantine word)
    ├── StoreFault           1  stored images that are damaged or missing; an ingest of their source stores them anew; or a snapshot
    ├── UnderWay             1  another process has this very work in hand, and its run in MLflow; wait for it
    ├── Changed              1  what was being read was replaced meanwhile; the same call once more reads what is there now
    ├── GateRefused          3  the gate said no; the verdict says why
    └── DataRefused          3  the validation of the data said no; its report says why

A single bad record never raises out of an ingest: it becomes a `records.Refusal`. A source that is wrong as a whole does.
"""

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = {errno.ENOSPC, errno.EDQUOT}
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
"""What HDF5 and SQLite say of a full disk, whose errors carry no number."""


class DermaNetError(Exception):
    """A fault. The command line prints its message and ends with `exit_status`."""

    exit_status = 1


class BadInput(DermaNetError):
    """Wrong use or bad input: the message gives the value seen, the values allowed and the remedy."""

    exit_status = 2


class Diverged(BadInput):
    """A training's weights ran away: its experiment is wrong for these data. Repeating it ends the same."""


class UnreadableImage(BadInput):
    """Bytes that cannot become pixels. `reason` is one short phrase, the same for every image with that fault."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class StoreFault(DermaNetError):
    """Stored images or a snapshot, damaged or missing: the message names them and the remedy. Repeating alone mends nothing."""


class UnderWay(DermaNetError):
    """Another process has this very work in hand."""


class Changed(DermaNetError):
    """What was being read is not what it was when the reading began."""


class GateRefused(DermaNetError):
    """The verdict was not a pass."""

    exit_status = 3


class DataRefused(DermaNetError):
    """A snapshot's data are beyond their limits, and nobody has accepted them. `record` is the whole answer of the stage."""

    exit_status = 3

    def __init__(self, line: str, record: dict[str, Any] | None = None) -> None:
        super().__init__(line)
        self.record = record or {}


def no_space_left(error: BaseException) -> bool:
    """Whether a full disk, or a quota that is used up, is behind an error."""
    return any(
        getattr(one, "errno", None) in FULL or any(words in str(one) for words in FULL_WORDS) for one in _chain(error)
    )


def no_room(error: BaseException, folder: Path, line: str, then: str) -> DermaNetError:
    """What to raise for a full disk: `line`, which is about that of `folder`, and `then`.

    Where the disk of temporary files is the full one it is named instead: making room in `folder` would mend nothing.
    """
    temporary = _full_temporary(error, folder)
    if temporary:
        line = f"no space left for temporary files in {temporary}; make room there, or set TMPDIR to a folder that has some,"
    return DermaNetError(f"{line} {then}")


@contextmanager
def with_room(folder: Path, line: str, then: str, first: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Says in the one line of `no_room` that a disk is full, whoever could not write. `first`: done before, to make some room."""
    try:
        yield
    except DermaNetError:
        # It has a line of its own, such as that of kept features, which lie elsewhere.
        raise
    except Exception as error:
        if not no_space_left(error):
            raise
        first()
        raise no_room(error, folder, line, then) from error


def _full_temporary(error: BaseException, folder: Path) -> Path | None:
    """The folder of temporary files, where its disk is the full one; None where that of `folder` is.

    By the file that the error names; most name none, and what could not be written is removed by then: by who has less room.
    """
    try:
        temporary = Path(tempfile.gettempdir())
        named = [Path(one.filename) for one in _chain(error) if isinstance(getattr(one, "filename", None), str)]  # type: ignore[attr-defined]
        if any(path.is_relative_to(folder) for path in named) or folder.stat().st_dev == temporary.stat().st_dev:
            return None
        inside = any(path.is_relative_to(temporary) for path in named)
        less = shutil.disk_usage(temporary).free < shutil.disk_usage(folder).free
    except OSError:
        return None
    return temporary if inside or less else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what was behind it."""
    chain: BaseException | None = error
    while chain:
        yield chain
        chain = chain.__cause__ or chain.__context__
