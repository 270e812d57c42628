"""Ingest: a source's rows, screened, stored once by content and catalogued; what is refused is kept with its reason."""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

from dermanet.errors import BadInput
from dermanet.intake.catalogue import Arrival, Catalogue
from dermanet.intake.screening import check_image, check_labels
from dermanet.intake.sources import Source
from dermanet.records import Labels, Record, Refusal, Row
from dermanet.storage import Place
from dermanet.taxonomy import Taxonomy

BATCH = 200
"""Records in one transaction: a killed ingest repeats at most these."""


@dataclass
class Outcome:
    """What an ingest came to, in records. `corrected`: known images whose labels had changed; a new revision was kept."""

    accepted: int = 0
    known: int = 0
    corrected: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """All records seen."""
        return self.accepted + self.known + self.corrected + self.quarantined.total()


def object_name(digest: str) -> str:
    """Where the object store keeps the image of a digest."""
    return f"{digest[:2]}/{digest}"


def ingest(
    source: Source,
    catalogue: Catalogue,
    objects: Place,
    taxonomy: Taxonomy,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Takes a source in. May be killed and run again, and run twice at once: the end is the same.

    Raises BadInput where the source as a whole is wrong; a wrong record is refused, kept with its reason, and the rest goes on.
    """
    outcome = Outcome()
    screen = _Screening(source, objects, taxonomy)
    refused: set[str] = set()
    for batch in _batches(_ahead(screen, source.rows()), BATCH):
        checked = [screen.once(item) for item in batch]
        arrivals = [item for item in checked if isinstance(item, Arrival)]
        refusals = [item for item in checked if isinstance(item, Refusal)]
        for word in catalogue.take(source.name, arrivals).values():
            setattr(outcome, word, getattr(outcome, word) + 1)
        catalogue.refuse(source.name, refusals)
        refused.update(refusal.name for refusal in refusals)
        outcome.quarantined.update(refusal.reason for refusal in refusals)
        progress(outcome)
    if not outcome.total:
        raise BadInput(f"{source.name} has no rows; a label file needs at least one")
    catalogue.forget_refusals(source.name, but=refused)
    return outcome


class _Screening:
    """One row in, an arrival or a refusal out; the image is stored before its arrival is handed on."""

    def __init__(self, source: Source, objects: Place, taxonomy: Taxonomy) -> None:
        self.source = source
        self.objects = objects
        self.taxonomy = taxonomy
        self.seen: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def labels(self, row: Row) -> Labels | Refusal:
        """Checks a row's text, in the order of the rows."""
        self.seen[row.image_id] += 1
        checked = check_labels(row, self.taxonomy)
        times = self.seen[row.image_id]
        if times == 1:
            return checked
        # Each row gets a name of its own, so that the catalogue keeps as many refusals as were counted.
        name = f"{row.image_id} (row {times} of this name)"
        if not row.image_id and isinstance(checked, Refusal):
            return replace(checked, name=name)
        return Refusal(name, "duplicate row", "the label file names this image more than once; keep one row")

    def once(self, item: "Arrival | Refusal") -> "Arrival | Refusal":
        """Lets the first image of given bytes pass, in the order of the rows, and refuses the same bytes under another name."""
        if isinstance(item, Refusal):
            return item
        name = item.record.image_id
        first = self.first.setdefault(item.record.digest, name)
        return (
            item
            if first == name
            else Refusal(name, "duplicate bytes", f"the file is the same as {first}'s; keep one of them")
        )

    def image(self, row: Row, labels: Labels) -> Arrival | Refusal:
        """Reads, checks and stores a row's image; called from several threads."""
        if row.image is None:
            return Refusal(row.image_id, "missing image", "the source has no such file; add it and ingest again")
        try:
            data = self.source.read(row.image)
        except OSError as error:
            return Refusal(row.image_id, "unreadable file", f"{row.image}: {error.strerror or error}")
        except BadInput as error:
            return Refusal(row.image_id, "unreadable file", str(error))
        header = check_image(data, row.image_id)
        if isinstance(header, Refusal):
            return header
        digest = hashlib.sha256(data).hexdigest()
        if not self.objects.exists(object_name(digest)):
            self.objects.write(object_name(digest), data)
        return Arrival(Record(digest, row.image_id, labels), header)


def _ahead(screen: _Screening, rows: Iterable[Row | Refusal]) -> Iterator[Arrival | Refusal]:
    """Screens rows on every core, in order, never more than a few ahead of whoever takes them."""
    threads = (os.cpu_count() or 1) * 2
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Arrival | Refusal | Future[Arrival | Refusal]] = deque()
        for row in rows:
            labels = row if isinstance(row, Refusal) else screen.labels(row)
            waiting.append(labels if isinstance(labels, Refusal) else pool.submit(screen.image, row, labels))  # type: ignore[arg-type]
            if len(waiting) > 4 * threads:
                yield _ready(waiting.popleft())
        while waiting:
            yield _ready(waiting.popleft())


def _ready(item: "Arrival | Refusal | Future[Arrival | Refusal]") -> Arrival | Refusal:
    return item.result() if isinstance(item, Future) else item


def _batches(items: Iterator[Arrival | Refusal], size: int) -> Iterator[list[Arrival | Refusal]]:
    while batch := list(islice(items, size)):
        yield batch
