"""Admission: what an arriving image is against what the catalogue holds, decided in the transaction that takes it in."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import sqlalchemy as sa

from dermanet.database.schema import IMAGES, LABELS, ORIGINALS
from dermanet.imagefile import Header
from dermanet.intake.company import SYNTHETIC, Company
from dermanet.intake.conflicts import REASON as CONFLICT
from dermanet.intake.conflicts import disagreement
from dermanet.intake.likeness import SAME, Match
from dermanet.intake.look import Look
from dermanet.intake.rows import Held, Rows, held_images, look_row
from dermanet.intake.tombstones import NEAR_DUPLICATE
from dermanet.records import Labels, Record, Refusal, Row

NOTHING_STATED: Mapping[str, Labels | None] = {}


@dataclass(frozen=True, slots=True)
class Arrival:
    """One screened image on its way in."""

    record: Record
    header: Header
    row: Row | None = None
    original: str = ""
    """SHA-256 of the file as it came; empty where the catalogue has it already, and has nothing to add."""
    md5: str = ""
    """MD5 of the same bytes; empty where their server did not state it, or stated another."""
    look: Look | None = None
    """What it looks like; None where the catalogue has it already."""


@dataclass
class Admission:
    """One transaction's decisions on arrivals. What they bring is in `rows`, to be written at its end, and in what is `held`.

    `stated`: what this ingest says of all its images, by name. What the catalogue says of them is about to be replaced, and
    contradicts nothing. `batch`: this taking of a batch; what it brought before it was killed counts as it did then.
    """

    connection: sa.Connection
    source: str
    held: dict[str, Held]
    company: Company
    stated: Mapping[str, Labels | None] = field(default_factory=dict)
    batch: str = ""
    rows: Rows = field(default_factory=lambda: {IMAGES: [], LABELS: [], ORIGINALS: []})
    _siblings: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The digests of the images held of each lesion."""

    def __post_init__(self) -> None:
        for held in self.held.values():
            self._hold(held)

    def _hold(self, held: Held) -> Held:
        before = self.held.get(held.record.digest, held)
        self._siblings[before.record.labels.lesion_id].discard(held.record.digest)
        self._siblings[held.record.labels.lesion_id].add(held.record.digest)
        self.held[held.record.digest] = held
        return held

    def decide(self, arrival: Arrival, judge: bool = True) -> str | Refusal:
        """`accepted`, `known`, `corrected` (its labels had changed), or the refusal; `judge` False: a person insists on it."""
        record = arrival.record
        before = self.held.get(record.digest)
        against = self._contradicted(record, before) if judge else None
        if against:
            return _conflict(arrival, against)
        word = _brought(before, self.source, self.batch) or "known"
        if before is None or (before.source == self.source and before.record.labels != record.labels):
            found = self._bring(arrival, before, judge)
            if isinstance(found, Refusal):
                return found
            word = _brought(found, self.source, self.batch) or ("corrected" if before else "accepted")
        if arrival.original:
            known_as = {"original": arrival.original, "md5": arrival.md5 or None}
            self.rows[ORIGINALS].append({**known_as, "digest": record.digest})
        return word

    def _bring(self, arrival: Arrival, before: Held | None, judge: bool) -> Held | Refusal:
        """Adds an image, or another revision of its labels; or refuses a photograph that is there under another lesion."""
        record, batch, kin = arrival.record, self.batch, self._kin(arrival.record.labels.lesion_id)
        if before is None:
            look = arrival.look
            alike = self.company.like(look.phash, look.thumbnail, kin) if look else []
            same = self._same_photograph(record, alike) if judge else None
            if same:
                return _near_duplicate(arrival, *same)
            self.rows[IMAGES].append(_image_row(arrival, self.source))
            if look:
                self.company.join(record.digest, look, alike)
        elif before.record.labels.lesion_id != record.labels.lesion_id:
            self.company.meet_again(record.digest, kin)
        revision = before.revision + 1 if before else 1
        self.rows[LABELS].append({**record.as_row(), "revision": revision, "batch": batch})
        return self._hold(Held(record, self.source, revision, before.brought if before else batch, batch))

    def _kin(self, lesion_id: str) -> set[str]:
        """Images of the same lesion, and of which this ingest says nothing else: whether they look alike decides nothing."""
        held = (self.held[digest].record for digest in self._siblings[lesion_id])
        stated = ((record, self.stated.get(record.image_id)) for record in held)
        return {record.digest for record, said in stated if said is None or said.lesion_id == lesion_id}

    def _contradicted(self, record: Record, before: Held | None) -> Held | None:
        """What the catalogue holds that the record contradicts: of the image itself, or of its lesion."""
        if before and before.source != self.source:
            return before if _differs(before.record.labels, record.labels) else None
        if before and before.record.labels == record.labels:
            return None
        # In a fixed order, so that the one that is named is always the same.
        siblings = (self.held[digest] for digest in sorted(self._siblings[record.labels.lesion_id]))
        return next((other for other in siblings if self._contradicts(record, other)), None)

    def _contradicts(self, record: Record, other: Held) -> bool:
        """Whether another image of the record's lesion, of which this ingest says nothing itself, disagrees with the record."""
        ours = other.source == self.source
        if other.record.digest == record.digest or (ours and other.record.image_id in self.stated):
            return False
        # Each synthetic source is a world of its own: lesion 1 of one seed is not lesion 1 of another.
        if not ours and any(name.startswith(SYNTHETIC[:-1]) for name in (self.source, other.source)):
            return False
        return bool(disagreement(other.record.labels, record.labels))

    def _same_photograph(self, record: Record, alike: Sequence[Match]) -> tuple[Held, Match] | None:
        """The image most like the record's, if it is the same photograph and neither of its lesion nor of its patient."""
        same = {match.digest: match for match in alike if match.likeness >= SAME}
        for other, match in ((self._held(digest), match) for digest, match in same.items()):
            # What this ingest says of the other image counts, so that it comes to the same whichever of the two is read first.
            stated = self.stated.get(other.record.image_id) if other.source == self.source else None
            labels = stated or other.record.labels
            if not _one_person(labels, record.labels):
                return replace(other, record=replace(other.record, labels=labels)), match
        return None

    def _held(self, digest: str) -> Held:
        if digest not in self.held:
            found = held_images(self.connection, sa.select(IMAGES.c.digest).where(IMAGES.c.digest == digest))
            self._hold(found[digest])
        return self.held[digest]


def _differs(one: Labels, other: Labels) -> bool:
    return one.lesion_id != other.lesion_id or bool(disagreement(one, other))


def _brought(held: Held | None, source: str, batch: str) -> str:
    """What this taking of a batch made of an image, now or before it was killed; empty where it did nothing."""
    if held is None or not batch or held.source != source:
        return ""
    return "accepted" if held.brought == batch else "corrected" if held.batch == batch else ""


def _one_person(one: Labels, other: Labels) -> bool:
    return one.lesion_id == other.lesion_id or (one.patient_id != "" and one.patient_id == other.patient_id)


def _near_duplicate(arrival: Arrival, against: Held, match: Match) -> Refusal:
    other, name = against.record, arrival.record.image_id
    detail = (
        f"it is the same photograph as {other.image_id} of {against.source} (likeness {match.likeness:.2f}), which is of lesion "
        f"{other.labels.lesion_id} and not {arrival.record.labels.lesion_id}; find out which is right"
    )
    return Refusal(name, NEAR_DUPLICATE, detail, arrival.row)


def _conflict(arrival: Arrival, against: Held) -> Refusal:
    labels, other = arrival.record.labels, against.record.labels
    said = disagreement(other, labels) or f"lesion {other.lesion_id} and {labels.lesion_id}"
    what = "this image" if against.record.digest == arrival.record.digest else f"lesion {labels.lesion_id}"
    detail = (
        f"of {what}, {against.record.image_id} of {against.source} and this record say {said}; find out which is right"
    )
    return Refusal(arrival.record.image_id, CONFLICT, detail, arrival.row)


def _image_row(arrival: Arrival, source: str) -> dict[str, object]:
    seen = look_row(arrival.look) if arrival.look else {}
    return {"digest": arrival.record.digest, "source": source, **asdict(arrival.header), **seen}
