"""Answers by hand: image files into rows, for the eye or, any number of them, into a file."""

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.errors import BadInput

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dermanet.serving.reader import Reader

AHEAD = 4
"""Images a core that are read before their turn to be written has come."""

OnRow = Callable[[dict[str, Any], int, int], None]
"""Takes a row, how many are done and how many there are."""


def predict(images: Sequence[str], model: str | None = None) -> list[dict[str, Any]]:
    """Age, sex and diagnosis of image files, and of those in folders, a row each; what is no image gets `error` instead.

    Raises BadInput.
    """
    return list(predict_each(images, model))


def predict_each(images: Sequence[str], model: str | None = None) -> Iterator[dict[str, Any]]:
    """The same rows, each as soon as it is there. Raises BadInput."""
    from dermanet.stages.imagelist import ImageList, written

    _, reader = _opened(model)
    found = ImageList(images)
    if not found.count:
        raise _nothing(images)
    for image, row in _side_by_side(found, reader):
        kept = {"error": row["error"]} if row["error"] else {name: row[name] for name in row if name != "error"}
        yield {"image": written(image), **kept}


def predict_into(
    out: str, images: Sequence[str], model: str | None = None, again: bool = False, on_row: OnRow | None = None
) -> dict[str, Any]:
    """Rows for any number of images into a file, `.csv` or `.jsonl`, in order; one that was broken off is gone on with.

    In a row `image` is the path from the root, so that it says the same wherever the next call comes from.
    `again`: begin the file anew. Returns how many images there are, of which `before` were there already, and how many got `error`.
    Raises BadInput, also where the file holds the answers of another version, and DermaNetError where a row cannot be written.
    """
    from dermanet.stages.imagelist import ImageList, place
    from dermanet.stages.results import Results, form_of

    start = time.monotonic()
    form_of(Path(out))
    version, reader = _opened(model)
    same = {"version": version, "model_digest": reader.digest}
    # Before the file is touched: what is refused leaves it as it is, and a mistyped name is no reason to empty it.
    found = ImageList(images)
    if not found.count or (again and not any(map(os.path.lexists, images))):
        raise _nothing(images)
    with closing(Results(Path(out), {"image": "", **_example(reader), **same}, again)) as results:
        found.pass_over(results.done)
        before = len(results.done)
        total = before + found.left
        for number, (image, row) in enumerate(_side_by_side(found, reader), start=before + 1):
            row = {"image": place(image), **row, **same}
            results.add(row)
            if on_row:
                on_row(row, number, total)
    counts = {"images": total, "before": before, "answered": total - results.errors, "errors": results.errors}
    return {"out": out, **same, **counts, "seconds": round(time.monotonic() - start, 1)}


def _opened(model: str | None) -> "tuple[str, Reader]":
    """What answers, and its version; a model that is no version is named by its digest."""
    from dermanet.registry.copies import model as found_model
    from dermanet.serving.reader import Reader

    here = settings.read()
    found = found_model(model or f"models:/{here.model}@champion", here.tracking_uri, here.home / "models")
    reader = Reader.open(found.files)
    return found.version or reader.digest, reader


def _side_by_side(images: Iterable[str], reader: "Reader") -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows in the order of the images, which are read on all cores; never many at once, however many there are."""
    from dermanet.serving.reader import cores

    waiting: deque[tuple[str, Future[dict[str, Any]]]] = deque()
    try:
        for image in images:
            waiting.append((image, reader.pool.submit(_row, image, reader)))
            if len(waiting) >= AHEAD * cores():
                done, row = waiting.popleft()
                yield done, row.result()
        while waiting:
            done, row = waiting.popleft()
            yield done, row.result()
    finally:
        for _, row in waiting:
            row.cancel()


def _row(image: str, reader: "Reader") -> dict[str, Any]:
    from dermanet.imagefile import MOST_BYTES
    from dermanet.serving.reader import refused

    try:
        status = os.stat(image)
        if stat.S_ISDIR(status.st_mode):
            os.scandir(image).close()
        if not stat.S_ISREG(status.st_mode):
            # A pipe would be waited for.
            return refused("not a file: name JPEG or PNG files, and folders of them")
        if status.st_size > MOST_BYTES:
            return refused(f"too large: {status.st_size:,} bytes; at most {MOST_BYTES:,} are read")
        return reader.read(Path(image).read_bytes()).row
    except OSError as error:
        return refused(f"not readable: {error.strerror}")


def _example(reader: "Reader") -> dict[str, Any]:
    """A row with every name that this version's rows have."""
    from dermanet.records import SEXES
    from dermanet.serving.reader import refused

    named = {"sex_probabilities": SEXES, "diagnosis_probabilities": reader.network.diagnoses}
    return refused("") | {head: dict.fromkeys(names) for head, names in named.items()}


def _nothing(images: Sequence[str]) -> BadInput:
    return BadInput(
        f"no JPEG or PNG in {', '.join(images)}; name files that end in .jpg, .jpeg or .png, or folders with some"
    )
