"""Ingest: a source's rows, screened, stored once by content and catalogued; what is refused is kept with its reason."""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from dermanet.errors import BadInput, UnreadableImage
from dermanet.imagefile import MOST_BYTES
from dermanet.intake import quarantine
from dermanet.intake.admission import Arrival
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.conflicts import REASON as CONFLICT
from dermanet.intake.conflicts import statement
from dermanet.intake.metadata import strip
from dermanet.intake.rows import fingerprint
from dermanet.intake.screening import check_image, check_labels
from dermanet.intake.sources import Source
from dermanet.intake.stored import bare_digest, image_in, object_name, remove_unheld, restored, store, stripped
from dermanet.intake.tombstones import REASON as FORGOTTEN
from dermanet.intake.tombstones import forgotten, tombstones
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

    def __add__(self, other: "Outcome") -> "Outcome":
        counts = (self.accepted + other.accepted, self.known + other.known, self.corrected + other.corrected)
        return Outcome(*counts, self.quarantined + other.quarantined)


def ingest(
    source: Source,
    catalogue: Catalogue,
    objects: Place,
    taxonomy: Taxonomy,
    progress: Callable[[Outcome], None] = lambda outcome: None,
    batch: str = "",
) -> Outcome:
    """Takes a source in. May be killed and run again, and run twice at once: the end is the same.

    `batch`: the taking of a batch that this is part of; what it did before it was killed is counted again as it was then.

    Raises BadInput where the source as a whole is wrong; a wrong record is refused, kept with its reason, and the rest goes on.
    """
    outcome = Outcome()
    screen = _Screening(source, objects, taxonomy, catalogue)
    discard = partial(quarantine.discard, objects)
    refused: set[str] = set()
    for items in _batches(_ahead(screen, source.rows()), BATCH):
        checked = [screen.once(item) for item in items]
        arrivals = [item for item in checked if isinstance(item, Arrival)]
        refusals = [item for item in checked if isinstance(item, Refusal)]
        words = catalogue.take(source.name, arrivals, screen.stated.images, batch)
        for arrival, word in zip(arrivals, words, strict=True):
            if isinstance(word, Refusal):
                if word.reason == FORGOTTEN:
                    remove_unheld(arrival.record.digest, catalogue, objects)
                refusals.append(screen.keep(word))
            else:
                setattr(outcome, word, getattr(outcome, word) + 1)
        ruled = [refusal for refusal in refusals if refusal.ruling]
        refusals = [*ruled, *catalogue.refuse(source.name, [one for one in refusals if not one.ruling], discard)]
        refused.update(refusal.name for refusal in refusals)
        outcome.known += sum(refusal.ruling == "released" for refusal in refusals)
        outcome.quarantined.update(refusal.reason for refusal in refusals if refusal.ruling != "released")
        progress(outcome)
    if not outcome.total:
        raise BadInput(f"{source.name} has no rows; a label file needs at least one")
    catalogue.settle(source.name, screen.seen, refused, discard)
    restored(catalogue, objects)
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
        self.originals = catalogue.originals()
        self.md5s = catalogue.md5s()
        self.stated = statement(source.rows(), taxonomy)
        self.seen: Counter[str] = Counter()
        self.first: dict[str, Record] = {}

    def labels(self, row: Row) -> Labels | Refusal:
        """Checks a row's text, in the order of the rows."""
        self.seen[row.image_id] += 1
        if tombstones(row) & self.forgotten:
            return forgotten(row.image_id)
        times = self.seen[row.image_id]
        said = self.stated.images.get(row.image_id)
        if times == 1 and said:
            return self.stated.refusal(row) or said
        checked = check_labels(row, self.taxonomy)
        checked = replace(checked, row=row) if isinstance(checked, Refusal) else checked
        if times == 1:
            return checked
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
        stated = self.source.md5(row.image)
        # What was decided about a record was decided about its file, too, which is read for that.
        decided = bool(self.rulings) and refusal_id(self.source.name, row.image_id) in self.rulings
        unread = stated and not decided and _may_be_among(self.md5s, stated)
        known = self.catalogue.known_by_md5(stated) if unread else None
        if known and self.objects.exists(object_name(known[0])):
            return Arrival(Record(known[0], row.image_id, labels), known[1], row)
        data = self.read(row.image_id, row)
        if isinstance(data, Refusal):
            return self.ruled(data)
        original, md5 = hashlib.sha256(data).hexdigest(), _confirmed(stated, data)
        if original in self.forgotten:
            return forgotten(row.image_id)
        known = self.catalogue.known(original) if _may_be_among(self.originals, original) else None
        # Of a released record a person's corrections stand, until its row or file is another.
        kept = self.ruled(Refusal(row.image_id, "released", "", row, original)) if known and decided else None
        if kept and kept.ruling == "released":
            self.restore(original, data)
            return kept
        if known and self.objects.exists(object_name(known[0])):
            return Arrival(Record(known[0], row.image_id, labels), known[1], row, original if md5 else "", md5)
        checked = check_image(data, row.image_id)
        if isinstance(checked, Refusal):
            return self.keep(replace(checked, row=row), data)
        header, look = checked
        if bare_digest(data, header.format) in self.forgotten:
            return forgotten(row.image_id)
        return store(Arrival(Record("", row.image_id, labels), header, row, md5=md5, look=look), data, self.objects)

    def read(self, name: str, row: Row) -> bytes | Refusal:
        """The file of a row, or why it is refused unread."""
        try:
            return self.source.read(str(row.image))
        except UnreadableImage as error:
            return Refusal(name, error.reason, error.detail, row)
        except OSError as error:
            return Refusal(name, "unreadable file", f"{row.image}: {error.strerror or error}", row)
        except BadInput as error:
            return Refusal(name, "unreadable file", str(error), row)

    def keep(self, refusal: Refusal, data: bytes | Refusal | None = None) -> Refusal:
        """The refusal with its file put into quarantine, if it has one; called from several threads."""
        if data is None and refusal.row and refusal.row.image:
            data = self.read(refusal.name, refusal.row)
        if not isinstance(data, bytes) or len(data) > MOST_BYTES:
            return self.ruled(refusal)
        digest = hashlib.sha256(data).hexdigest()
        if self.forgotten and {digest, image_in(data)} & self.forgotten:
            return forgotten(refusal.name)
        found = self.ruled(replace(refusal, file=digest))
        if not found.ruling:
            quarantine.keep(self.objects, refusal_id(self.source.name, refusal.name), data)
        elif found.ruling == "released":
            self.restore(digest, data)
        return found

    def restore(self, original: str, data: bytes) -> None:
        """Stores the image of a released record anew where the store has it no more; its labels stay as they were set."""
        known = self.catalogue.known(original)
        if known and not self.objects.exists(object_name(known[0])):
            self.objects.write(object_name(known[0]), strip(data, known[1].format))
            # It may have been forgotten meanwhile.
            remove_unheld(known[0], self.catalogue, self.objects)

    def ruled(self, refusal: Refusal) -> Refusal:
        """The refusal with what was decided about this very row and file."""
        ruling, about = self.rulings.get(refusal_id(self.source.name, refusal.name), ("", ""))
        return replace(refusal, ruling=ruling) if ruling and about == fingerprint(refusal) else refusal


def _may_be_among(starts: NDArray[np.uint64], digest: str) -> bool:
    """Whether it is worth asking the catalogue for a file that was there, or looked so, when this ingest began."""
    start = int(digest[:16], 16)
    place = int(starts.searchsorted(np.uint64(start)))
    return place < len(starts) and int(starts[place]) == start


def _confirmed(stated: str, data: bytes) -> str:
    """The MD5 that was stated, if it is that of the bytes that came: the object may have been replaced since it was listed."""
    return stated if stated and hashlib.md5(data, usedforsecurity=False).hexdigest() == stated else ""


def _ahead(screen: _Screening, rows: Iterable[Row | Refusal]) -> Iterator[Arrival | Refusal]:
    """Screens rows on every core, in order, never more than a few ahead of whoever takes them."""
    threads = (os.cpu_count() or 1) * 2
    pool = ThreadPoolExecutor(threads)
    try:
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
    finally:
        # After a fault what stands in line is not begun: where the store or the database is away, each would wait for it.
        pool.shutdown(cancel_futures=True)


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
        raise BadInput(f"{refusal} was dropped; ingest its source again once the record is corrected")
    record = None
    if not held.ruling:
        arrival = quarantine.screened(refusal, held, changes, objects, taxonomy, force)
        data = objects.read(quarantine.file_name(refusal, str(held.file)))
        arrival = stripped(arrival, data)[0]
        if not _forgotten(arrival, catalogue):
            store(arrival, data, objects)
        try:
            catalogue.release(refusal, source, arrival, force)
        except BadInput:
            # It may have been forgotten just now. What else is refused may be what an ingest has stored, and is about to take in.
            if _forgotten(arrival, catalogue):
                remove_unheld(arrival.record.digest, catalogue, objects)
            raise
        record = arrival.record
    if held.file:
        quarantine.discard(objects, refusal, held.file)
        catalogue.emptied(refusal)
    return record


def _forgotten(arrival: Arrival, catalogue: Catalogue) -> bool:
    marks = {arrival.record.digest, arrival.original, *tombstones(arrival.record.labels)}
    return bool(marks & catalogue.forgotten())
