"""The stage that takes an inbox: every batch of it, each answered or named with its one-line fault."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dermanet import taxonomy
from dermanet.errors import BadInput, Changed
from dermanet.settings import Settings
from dermanet.storage import place

if TYPE_CHECKING:
    from dermanet.intake.batches import Taken
    from dermanet.intake.inbox import Inbox
    from dermanet.intake.ingest import Outcome

MOST_NAMED = 5
"""Wrong batches that one line names; it counts all of them."""


def take_inbox(
    inbox: "Inbox", here: Settings, progress: "Callable[[Outcome], None]", again: bool
) -> tuple["Outcome", dict[str, Any]]:
    """Takes every batch in the order of their names. Returns the counts in all; and each batch's story with who is waiting.

    A single batch that is wrong raises BadInput, and DermaNetError where somebody is writing it. Of an inbox it is named, and the
    others go on; what is no batch's own fault, as a store that is away, raises.
    """
    from dermanet.intake.batches import Arriving
    from dermanet.intake.ingest import Outcome

    total, stories, waiting = Outcome(), [], list(inbox.waiting)
    for batch in inbox.batches:
        try:
            taken = _take(batch, here, _on_top_of(total, progress), again)
        except (BadInput, Changed, Arriving) as error:
            if inbox.single:
                raise
            if isinstance(error, Arriving):
                waiting.append(batch.rpartition("/")[2])
            else:
                # What is wrong with a line is said of its label file, and every batch's is called the same.
                fault = str(error) if batch in str(error) else f"{batch}: {error}"
                stories.append(_story(batch, "wrong" if isinstance(error, BadInput) else "changed", fault))
        else:
            total += taken.outcome
            stories.append(_taken(taken))
    return total, {"batches": stories, "waiting": waiting}


def require_whole(done: Mapping[str, Any]) -> None:
    """Raises BadInput where a batch of an ingest was wrong, and Changed where one was only changed while it was taken."""
    faults = [story for story in done.get("batches", ()) if story["fault"]]
    if not faults:
        return
    named = "; ".join(story["fault"] for story in faults[:MOST_NAMED])
    more = f"; and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
    line = f"{len(faults)} of {len(done['batches'])} batches not taken, all others were: {named}{more}"
    raise BadInput(line) if any(story["state"] == "wrong" for story in faults) else Changed(line)


def _on_top_of(before: "Outcome", progress: "Callable[[Outcome], None]") -> "Callable[[Outcome], None]":
    return lambda outcome: progress(before + outcome)


def _take(batch: str, here: Settings, progress: "Callable[[Outcome], None]", again: bool) -> "Taken":
    from dermanet.intake import batches
    from dermanet.intake.catalogue import Catalogue

    known = taxonomy.load(here.taxonomy)
    return batches.take(batch, Catalogue(here.catalogue), place(here.objects), known, progress, again)


def _taken(taken: "Taken") -> dict[str, Any]:
    from dermanet.intake.batches import RECEIPT

    state = "taken before" if taken.earlier else "taken"
    outcome = taken.outcome
    counts = {
        "accepted": outcome.accepted, "known": outcome.known, "corrected": outcome.corrected,
        "quarantined": dict(outcome.quarantined.most_common()),
    }  # fmt: skip
    receipt = None if taken.unwritten else f"{taken.batch}/{RECEIPT}"
    digest = taken.taking.digest
    return {**_story(taken.batch, state), **counts, "digest": digest, "receipt": receipt, "unwritten": taken.unwritten}


def _story(batch: str, state: str, fault: str = "") -> dict[str, Any]:
    return {"batch": batch, "state": state, "fault": fault}
