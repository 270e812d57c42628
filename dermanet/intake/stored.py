"""Stored images: named by the digest of their bytes, and proved by it each time they are read.

A damaged one is set aside: its bytes go to quarantine, where they can be looked at, and leave the store, so that the next ingest of
its source finds it missing and stores it anew. Nobody but the source has the right bytes.
"""

import hashlib
import shlex
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from dermanet.errors import BadInput, DermaNetError, StoreFault, UnreadableImage
from dermanet.imagefile import read_header
from dermanet.intake import quarantine
from dermanet.intake.admission import Arrival
from dermanet.intake.catalogue import DAMAGED, MISSING, Catalogue
from dermanet.intake.metadata import strip
from dermanet.intake.rows import Held
from dermanet.records import Record, Refusal, Row, refusal_id
from dermanet.storage import Place

READERS = 8
"""Images read at a time: a bucket answers each after milliseconds, in which the processor has nothing to do."""

NAMED = 20
"""Images that one message names."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A stored image that cannot be used. `held` is what the catalogue says of it; None: nothing any more."""

    digest: str
    reason: str
    held: Held | None

    def __str__(self) -> str:
        if self.held is None:
            return f"image {self.digest[:12]}… ({self.reason})"
        record = self.held.record
        return f"{record.image_id} of lesion {record.labels.lesion_id} ({self.reason}; from {self.held.source})"


def object_name(digest: str) -> str:
    """Where the object store keeps the image of a digest."""
    return f"{digest[:2]}/{digest}"


def bare_digest(data: bytes, kind: str) -> str:
    """What a file is called once it is in: the digest of its bytes without metadata."""
    return hashlib.sha256(strip(data, kind)).hexdigest()


def image_of(refusal: str, file: str, objects: Place) -> str | None:
    """The digest under which the image of a file in quarantine would be stored; None where it is no image, or gone."""
    try:
        return image_in(objects.read(quarantine.file_name(refusal, file)))
    except FileNotFoundError:
        return None


def image_in(data: bytes) -> str | None:
    """The digest under which a file would be stored; None where it is no image."""
    try:
        return bare_digest(data, read_header(data).format)
    except UnreadableImage:
        return None


def remove_copy(refusal: str, catalogue: Catalogue, objects: Place) -> None:
    """Removes the stored copy of a refused record's image, which one that was refused late has, unless the catalogue has the image."""
    file = catalogue.refusal(refusal)[1].file
    digest = image_of(refusal, file, objects) if file else None
    if digest:
        remove_unheld(digest, catalogue, objects)


def remove_unheld(digest: str, catalogue: Catalogue, objects: Place) -> None:
    """Removes a stored image, unless the catalogue has it."""
    if not catalogue.held([digest]):
        objects.remove(object_name(digest))


def stripped(arrival: Arrival, data: bytes) -> tuple[Arrival, bytes]:
    """The arrival under the digest that its image has once it is stored, and what is stored: the image without metadata."""
    bare = strip(data, arrival.header.format)
    record = replace(arrival.record, digest=hashlib.sha256(bare).hexdigest())
    return replace(arrival, record=record, original=hashlib.sha256(data).hexdigest()), bare


def store(arrival: Arrival, data: bytes, objects: Place) -> Arrival:
    """The arrival with its image in the object store: without metadata, under the digest of what is stored."""
    arrival, bare = stripped(arrival, data)
    # Whether it is there or not: what is there may be damaged, or an orphan that is old enough to be pruned.
    objects.write(object_name(arrival.record.digest), bare)
    return arrival


def read(objects: Place, digest: str) -> bytes:
    """The bytes of a stored image. Raises StoreFault where it is missing or holds other bytes."""
    data = _bytes(objects, digest)
    if data is None or _wrong(data, digest):
        raise StoreFault(f"image {digest[:12]}… is {_wrong(data, digest)}; `dermanet objects --check` names its source")
    return data


def faults(
    digests: Collection[str], catalogue: Catalogue, objects: Place, progress: Callable[[int], None] = lambda done: None
) -> list[Fault]:
    """Reads every image named, sets the damaged ones aside, and returns what is wrong, in the order given."""
    found = {}
    with ThreadPoolExecutor(READERS) as pool:
        looked_at = pool.map(lambda digest: _wrong(_bytes(objects, digest), digest), digests)
        for done, (digest, wrong) in enumerate(zip(digests, looked_at, strict=True), 1):
            if wrong:
                found[digest] = wrong
            progress(done)
    held = catalogue.held(list(found))
    named = [Fault(digest, reason, held.get(digest)) for digest, reason in found.items()]
    _set_aside(named, catalogue, objects)
    return named


def trouble(found: Collection[Fault]) -> DermaNetError:
    """What to say, in one line, of images that were needed and cannot be used."""
    ours = [fault for fault in found if fault.held]
    if not found:
        return StoreFault("a stored image could not be read, and is sound now; run this again")
    if not ours:
        return BadInput(
            f"the catalogue no longer has {len(found)} images of the snapshot, {next(iter(found)).digest[:12]}… among them "
            "(a forgotten lesion's?); make a new snapshot and use that"
        )
    named = ", ".join(str(fault) for fault in ours[:NAMED])
    more = f" and {len(ours) - NAMED} more, which `dermanet quarantine list` names" if len(ours) > NAMED else ""
    remedy = " and ".join(
        sorted({f"`dermanet ingest {shlex.quote(fault.held.source)}`" for fault in ours if fault.held})
    )
    return StoreFault(f"{len(ours)} stored images cannot be used: {named}{more}; run {remedy}, then this again")


def restored(catalogue: Catalogue, objects: Place) -> None:
    """Takes out of quarantine what was noted of images that are in the store again."""
    for name, _, refusal in catalogue.quarantined((DAMAGED, MISSING)):
        digest = refusal.name.rpartition("(")[2].removesuffix(")")
        if objects.exists(object_name(digest)):
            catalogue.unrefuse(name, refusal.file, partial(quarantine.discard, objects))


def _set_aside(found: Iterable[Fault], catalogue: Catalogue, objects: Place) -> None:
    """Notes the faults in quarantine, with the bytes that there are, and takes these out of the store.

    Killed at any moment, it may be called again. What the catalogue does not name, and what has been stored anew, is left alone.
    """
    noted = {(source, refusal.name) for source, refusal in catalogue.refusals((DAMAGED, MISSING))}
    for fault in found:
        data = _bytes(objects, fault.digest)
        wrong = _wrong(data, fault.digest)
        name = _noted_as(fault.held.record) if fault.held else ""
        # What was set aside before is missing now, and its note is to keep its bytes.
        if fault.held is None or not wrong or (data is None and (fault.held.source, name) in noted):
            continue
        source = fault.held.source
        detail = f"its stored copy is {wrong.split()[0]}; `dermanet ingest {shlex.quote(source)}` stores it anew"
        refusal = Refusal(name, wrong, detail, _row(fault.held.record))
        if data is not None:
            refusal = replace(refusal, file=hashlib.sha256(data).hexdigest())
            quarantine.keep(objects, refusal_id(source, name), data)
        catalogue.refuse(source, [refusal], partial(quarantine.discard, objects))
        if data is not None:
            objects.remove(object_name(fault.digest))


def _noted_as(record: Record) -> str:
    """The name of the note. Not the image's alone: by that its source may have a refused record, which is another matter."""
    return f"{record.image_id} ({record.digest})"


def _row(record: Record) -> Row:
    labels = record.labels
    return Row(
        record.image_id, labels.lesion_id, "" if labels.age is None else f"{labels.age:g}", labels.sex, labels.diagnosis,
        labels.localization, labels.confirmation, labels.clinic, patient_id=labels.patient_id,
    )  # fmt: skip


def _bytes(objects: Place, digest: str) -> bytes | None:
    try:
        return objects.read(object_name(digest))
    except FileNotFoundError:
        return None


def _wrong(data: bytes | None, digest: str) -> str:
    if data is None:
        return MISSING
    return "" if hashlib.sha256(data).hexdigest() == digest else DAMAGED
