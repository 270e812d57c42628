"""Ingest: a source's rows, screened, stored once by content and catalogued; what is refused is kept with its reason."""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

from dermanet.errors import BadInput
from dermanet.imagefile import MOST_BYTES
from dermanet.intake import quarantine
from dermanet.intake.catalogue import Arrival, Catalogue, fingerprint, forgotten, tombstones
from dermanet.intake.conflicts import REASON as CONFLICT
from dermanet.intake.conflicts import statement
from dermanet.intake.metadata import strip
from dermanet.intake.screening import check_image, check_labels
from dermanet.intake.sources import Source
from dermanet.records import Labels, Record, Refusal, Row, refusal_id
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


def bare_digest(data: bytes, kind: str) -> str:
    """What a file is called once it is in: the digest of its bytes without metadata."""
    return hashlib.sha256(strip(data, kind)).hexdigest()


def store(arrival: Arrival, data: bytes, objects: Place) -> Arrival:
    """The arrival with its image in the object store: without metadata, under the digest of what is stored."""
    bare = strip(data, arrival.header.format)
    digest = hashlib.sha256(bare).hexdigest()
    if not objects.exists(object_name(digest)):
        objects.write(object_name(digest), bare)
    original = hashlib.sha256(data).hexdigest()
    return replace(arrival, record=replace(arrival.record, digest=digest), original=original)


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
    screen = _Screening(source, objects, taxonomy, catalogue)
    discard = partial(quarantine.discard, objects)
    refused: set[str] = set()
    for batch in _batches(_ahead(screen, source.rows()), BATCH):
        checked = [screen.once(item) for item in batch]
        arrivals = [item for item in checked if isinstance(item, Arrival)]
        refusals = [item for item in checked if isinstance(item, Refusal)]
        for word in catalogue.take(source.name, arrivals, screen.stated.images):
            if isinstance(word, Refusal):
                refusals.append(screen.keep(word))
            else:
                setattr(outcome, word, getattr(outcome, word) + 1)
        catalogue.refuse(source.name, [refusal for refusal in refusals if not refusal.ruling], discard)
        refused.update(refusal.name for refusal in refusals)
        outcome.known += sum(refusal.ruling == "released" for refusal in refusals)
        outcome.quarantined.update(refusal.reason for refusal in refusals if refusal.ruling != "released")
        progress(outcome)
    if not outcome.total:
        raise BadInput(f"{source.name} has no rows; a label file needs at least one")
    catalogue.forget_refusals(source.name, refused, discard)
    return outcome


class _Screening:
    """One row in, an arrival or a refusal out; the image is stored before its arrival is handed on."""

    def __init__(self, source: Source, objects: Place, taxonomy: Taxonomy, catalogue: Catalogue) -> None:
        self.source = source
        self.objects = objects
        self.taxonomy = taxonomy
        self.catalogue = catalogue
        self.rulings = catalogue.rulings(source.name)
        self.forgotten = catalogue.forgotten()
        self.stated = statement(source.rows(), taxonomy)
        self.seen: Counter[str] = Counter()
        self.first: dict[str, Record] = {}

    def labels(self, row: Row) -> Labels | Refusal:
        """Checks a row's text, in the order of the rows."""
        self.seen[row.image_id] += 1
        if tombstones(row) & self.forgotten:
            return forgotten(row.image_id)
        checked = check_labels(row, self.taxonomy)
        checked = replace(checked, row=row) if isinstance(checked, Refusal) else checked
        times = self.seen[row.image_id]
        if times == 1:
            return checked if isinstance(checked, Refusal) else self.stated.refusal(row) or checked
        # Each row gets a name of its own, so that the catalogue keeps as many refusals as were counted.
        name = f"{row.image_id} (row {times} of this name)"
        if not row.image_id and isinstance(checked, Refusal):
            return replace(checked, name=name)
        return Refusal(name, "duplicate row", "the label file names this image more than once; keep one row", row)

    def once(self, item: "Arrival | Refusal") -> "Arrival | Refusal":
        """Lets the first image of given bytes pass, in the order of the rows, and refuses the same bytes under another name."""
        if isinstance(item, Refusal):
            return item
        name = item.record.image_id
        first = self.first.setdefault(item.record.digest, item.record)
        if first.image_id == name:
            return item
        codes = first.labels.diagnosis, item.record.labels.diagnosis
        if codes[0] != codes[1]:
            detail = f"the image is the same as {first.image_id}'s, whose diagnosis is {codes[0]} and not {codes[1]}"
            return self.keep(Refusal(name, CONFLICT, f"{detail}; find out which is right", item.row))
        detail = f"the image is the same as {first.image_id}'s; keep one of them"
        return self.keep(Refusal(name, "duplicate bytes", detail, item.row))

    def image(self, row: Row, labels: Labels) -> Arrival | Refusal:
        """Reads, checks and stores a row's image; called from several threads."""
        if row.image is None:
            missing = Refusal(
                row.image_id, "missing image", "the source has no such file; add it and ingest again", row
            )
            return self.ruled(missing)
        data = self.read(row.image)
        if isinstance(data, str):
            return self.ruled(Refusal(row.image_id, "unreadable file", data, row))
        original = hashlib.sha256(data).hexdigest()
        if original in self.forgotten:
            return forgotten(row.image_id)
        known = self.catalogue.known(original)
        if known and self.objects.exists(object_name(known[0])):
            return Arrival(Record(known[0], row.image_id, labels), known[1], row)
        checked = check_image(data, row.image_id)
        if isinstance(checked, Refusal):
            return self.keep(replace(checked, row=row), data)
        header, look = checked
        if bare_digest(data, header.format) in self.forgotten:
            return forgotten(row.image_id)
        return store(Arrival(Record("", row.image_id, labels), header, row, look=look), data, self.objects)

    def read(self, image: str) -> bytes | str:
        """A file of the source, or in one line why it cannot be read."""
        try:
            return self.source.read(image)
        except OSError as error:
            return f"{image}: {error.strerror or error}"
        except BadInput as error:
            return str(error)

    def keep(self, refusal: Refusal, data: bytes | str = "") -> Refusal:
        """The refusal with its file put into quarantine, if it has one; called from several threads."""
        if not data and refusal.row and refusal.row.image:
            data = self.read(refusal.row.image)
        if isinstance(data, str) or len(data) > MOST_BYTES:
            return self.ruled(refusal)
        digest = hashlib.sha256(data).hexdigest()
        if digest in self.forgotten:
            return forgotten(refusal.name)
        found = self.ruled(replace(refusal, file=digest))
        if not found.ruling:
            quarantine.keep(self.objects, refusal_id(self.source.name, refusal.name), data)
        return found

    def ruled(self, refusal: Refusal) -> Refusal:
        """The refusal with what was decided about this very row and file."""
        ruling, about = self.rulings.get(refusal_id(self.source.name, refusal.name), ("", ""))
        return replace(refusal, ruling=ruling) if about == fingerprint(refusal) else refusal


def _ahead(screen: _Screening, rows: Iterable[Row | Refusal]) -> Iterator[Arrival | Refusal]:
    """Screens rows on every core, in order, never more than a few ahead of whoever takes them."""
    threads = (os.cpu_count() or 1) * 2
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Arrival | Refusal] | Future[Refusal]] = deque()
        for row in rows:
            checked = row if isinstance(row, Refusal) else screen.labels(row)
            if isinstance(checked, Refusal):
                waiting.append(pool.submit(screen.keep, checked))
            elif isinstance(row, Row):
                waiting.append(pool.submit(screen.image, row, checked))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batches(items: Iterator[Arrival | Refusal], size: int) -> Iterator[list[Arrival | Refusal]]:
    while batch := list(islice(items, size)):
        yield batch


def release(
    refusal: str,
    changes: Mapping[str, str],
    catalogue: Catalogue,
    objects: Place,
    taxonomy: Taxonomy,
    force: bool = False,
) -> Record | None:
    """Takes a record in quarantine in after all, corrected by `changes`, if it then passes; None where that was done before.

    `force` insists where it is a matter of judgement: a blurred or blank image, a conflict with another record of the lesion, a
    near-duplicate of another lesion's image.
    Raises BadInput where it does not pass. The same row and file of the same source are known from now on. Killed at any moment,
    it may be called again.
    """
    source, held = catalogue.refusal(refusal)
    if held.ruling == "dropped":
        raise BadInput(f"{refusal} was dropped; ingest its source again once the record is mended")
    record = None
    if not held.ruling:
        arrival = quarantine.screened(refusal, held, changes, objects, taxonomy, force)
        data = objects.read(quarantine.file_name(refusal, str(held.file)))
        arrival = store(arrival, data, objects)
        catalogue.release(refusal, source, arrival, force)
        record = arrival.record
    if held.file:
        quarantine.discard(objects, refusal, held.file)
        catalogue.emptied(refusal)
    return record
