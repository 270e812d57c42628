"""Taking a batch: when it has come to rest, as a whole, once, and answered with a receipt beside its label file.

A batch has a digest, of its label file and the names and sizes of its files, in a bucket of their ETags, too. The catalogue keeps the
takings that were finished: with the digest of the last one a batch is answered by its receipt, with another it is taken again. What is
taken is marked with the taking, so that one which was killed is counted, when it is run again, as if it had not been.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dermanet import __version__
from dermanet.errors import BadInput, Changed, DermaNetError
from dermanet.imagefile import PICTURES
from dermanet.intake.catalogue import Catalogue, Taking
from dermanet.intake.inbox import LABELS
from dermanet.intake.ingest import Outcome, ingest
from dermanet.intake.sources import open_place
from dermanet.intake.tables import Table
from dermanet.records import Refusal
from dermanet.storage import Entry, Place, place
from dermanet.taxonomy import Taxonomy

RECEIPT = "receipt.json"

QUIET = 3.0
"""Seconds for which nothing of a batch may have changed before it is taken: somebody may still be copying it."""

LOOKS = 10
"""How often a batch that keeps changing is looked at before it is left for the next time."""

TRIES = 3
"""How often a batch that changes while it is taken is taken again at once."""

MOST_LISTED = 1000
"""Refused records that a receipt lists; it counts all of them."""

OF_FILES = frozenset({
    "ambiguous file", "blank", "blurred", "duplicate bytes", "duplicate row", "empty file", "forgotten", "image without a row",
    "missing image", "not an image", "not RGB-convertible", "too large", "too small", "truncated", "undecodable",
    "unreadable file",
})  # fmt: skip
"""Reasons whose details speak of files alone. Others quote a cell, or another source: who may see those asks `quarantine show`."""


class Arriving(DermaNetError):
    """The batch is still being written."""


@dataclass(frozen=True)
class Taken:
    """What became of a batch: the outcome of this call, and the taking that stands.

    `earlier`: that taking is not of this call. `unwritten`: why its receipt does not lie there, or empty.
    """

    batch: str
    outcome: Outcome
    taking: Taking
    earlier: bool
    unwritten: str = ""


def take(
    batch: str,
    catalogue: Catalogue,
    objects: Place,
    taxonomy: Taxonomy,
    progress: Callable[[Outcome], None] = lambda outcome: None,
    again: bool = False,
) -> Taken:
    """Takes a batch in, unless it was taken as it is now; `again`: even then, as where stored images of it are damaged or missing.

    Killed at any moment, it may be called again.

    Raises BadInput where the batch as a whole is wrong, Arriving and Changed where somebody is writing it.
    """
    there = place(batch)
    for _ in range(TRIES):
        seen = _at_rest(batch, there)
        source = _open(batch, there, seen)
        last = catalogue.last_taking(source.name)
        digest = digest_of(source, seen)
        if last and last.digest == digest and not again and not catalogue.lacks(source.name):
            return Taken(batch, _known(last, catalogue), last, True, _answer(there, last))
        taking = Taking(source.name, last.number + 1 if last else 1, digest)
        outcome = ingest(source, catalogue, objects, taxonomy, progress, taking.id)
        if _survey(there) != seen:
            continue
        finished = catalogue.finish(replace(taking, receipt=_receipt(batch, taking, outcome, catalogue)))
        if finished.digest == digest:
            return Taken(batch, outcome, finished, False, _answer(there, finished))
    raise Changed(
        f"{batch} changed each time while it was taken; no receipt was written, run this again when nothing writes there"
    )


def digest_of(source: Table, seen: Mapping[str, Entry]) -> str:
    """What a batch is known by: 16 hexadecimal digits of its label file's bytes and the names and sizes of its files, and of what a
    bucket calls their bytes."""
    files = ("\t".join(filter(None, (name, str(entry.size), entry.etag))) for name, entry in sorted(seen.items()))
    told = [source.labels.digest, *files]
    return hashlib.sha256("\n".join(told).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _survey(there: Place) -> dict[str, Entry]:
    # Its pictures and its label file: what else lies there, were it this installation's own home, is no part of the batch.
    return {name: entry for name, entry in there.survey().items() if name == LABELS or name.lower().endswith(PICTURES)}


def _at_rest(batch: str, there: Place) -> dict[str, Entry]:
    """The files of a batch in which nothing has just changed. Raises Arriving where something goes on changing."""
    seen = _survey(there)
    for _ in range(LOOKS):
        if not seen or time.time() - max(entry.changed for entry in seen.values()) > QUIET:
            return seen
        time.sleep(QUIET)
        # Of two looks alike nothing changed in between, whatever another machine's clock says of when it did.
        before, seen = seen, _survey(there)
        if before == seen:
            return seen
    raise Arriving(
        f"{batch} is still being written after {LOOKS * QUIET:.0f} seconds; run this again when it is complete"
    )


def _open(batch: str, there: Place, seen: Mapping[str, Entry]) -> Table:
    if LABELS not in seen:
        raise Changed(f"{batch} has lost its {LABELS}; run this again when it is back")
    source = open_place(batch, there, seen, LABELS)
    if not isinstance(source, Table):
        raise BadInput(
            f"{batch}/{LABELS} is the ground truth of ISIC 2018 Task 3, whose files have other names; rename it"
        )
    return source


def _known(taking: Taking, catalogue: Catalogue) -> Outcome:
    """What an earlier taking's records are now: known, or refused as they were and not released since."""
    receipt = json.loads(taking.receipt)
    known = sum(receipt[word] for word in ("accepted", "known", "corrected"))
    rulings = catalogue.rulings(taking.source)
    # Of those that the receipt lists. What was released before that taking was known to it, and is none of them.
    released = Counter(one["reason"] for one in receipt["refused"] if rulings.get(one["id"], ("",))[0] == "released")
    return Outcome(known=known + released.total(), quarantined=Counter(receipt["quarantined"]) - released)


def _answer(there: Place, taking: Taking) -> str:
    """Puts the receipt beside the label file, if it does not lie there; or says in one line why it cannot."""
    text = taking.receipt.encode()
    try:
        if not there.exists(RECEIPT) or there.start(RECEIPT, len(text) + 1) != text:
            there.write(RECEIPT, text)
    except OSError as error:
        return f"{there}/{RECEIPT} cannot be written: {error.strerror or error}; the catalogue remembers it"
    return ""


def _receipt(batch: str, taking: Taking, outcome: Outcome, catalogue: Catalogue) -> str:
    listed = catalogue.refusals_of(taking.source, MOST_LISTED)
    refused = outcome.quarantined.total()
    receipt = {
        "batch": batch, "digest": taking.digest, "taking": taking.number,
        "taken": datetime.now(UTC).isoformat(timespec="seconds"), "dermanet": __version__,
        "records": outcome.total, "accepted": outcome.accepted, "known": outcome.known, "corrected": outcome.corrected,
        "quarantined": dict(sorted(outcome.quarantined.items())),
        "refused": [_told(name, refusal) for name, refusal in listed],
        "refused_not_listed": max(0, refused - len(listed)),
    }  # fmt: skip
    return json.dumps(receipt, indent=1) + "\n"


def _told(name: str, refusal: Refusal) -> dict[str, str]:
    """What a receipt says of a refused record: of its file all, of its labels nothing."""
    hidden = f"it quotes labels; `dermanet quarantine show {name}`"
    detail = refusal.detail if refusal.reason in OF_FILES else hidden
    return {"id": name, "name": refusal.name, "reason": refusal.reason, "detail": detail}
