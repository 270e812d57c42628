"""The stages of the data: sources into the catalogue, the catalogue into a snapshot, a snapshot into pixels."""

import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermanet import settings, taxonomy
from dermanet.errors import BadInput, with_room
from dermanet.settings import Settings
from dermanet.stages.groups import refuse_torn
from dermanet.stages.inbox import take_inbox
from dermanet.stages.parts import parts_of, records_in
from dermanet.stages.rooms import chosen_experiment, fill_pixels, frozen_snapshot, prepared_root, snapshot_place
from dermanet.storage import place

if TYPE_CHECKING:
    from dermanet.intake.ingest import Outcome

PIXELS_COST = 300
"""Images that a core prepares while a task begins: half a second to a second, most of it imports."""


def ingest(
    source: str, progress: "Callable[[Outcome], None]" = lambda outcome: None, again: bool = False
) -> dict[str, Any]:
    """Takes a source in. Returns the counts: accepted, known, corrected, quarantined by reason. Raises BadInput.

    Of a batch or an inbox also `batches`, what became of each, and `waiting`, folders of images without labels; `require_whole` raises
    for those that were wrong. `again`: batches are taken even if they were taken as they are.
    """
    from dermanet.intake.inbox import inbox

    here = settings.read()
    found = inbox(source)
    stories: dict[str, Any] = {}
    line = f"no space left while {source} was taken in; make room where images ({here.objects}) and the catalogue lie"
    with with_room(here.home, line, "and run this again: what was taken in stays"):
        if found is None:
            name, outcome = _take_source(source, here, progress)
        else:
            name = found.name
            outcome, stories = take_inbox(found, here, progress, again)
    return {
        "source": name, "accepted": outcome.accepted, "known": outcome.known, "corrected": outcome.corrected,
        "quarantined": dict(outcome.quarantined.most_common()), **stories,
    }  # fmt: skip


def counted(counts: Mapping[str, Any]) -> str:
    """What became of a source's records, as a line for people."""
    refused = "".join(f"; quarantined {count}: {reason}" for reason, count in counts["quarantined"].items())
    return f"accepted {counts['accepted']}, known {counts['known']}, corrected {counts['corrected']}{refused}"


def _take_source(source: str, here: Settings, progress: "Callable[[Outcome], None]") -> "tuple[str, Outcome]":
    from dermanet.intake.catalogue import Catalogue
    from dermanet.intake.ingest import ingest as take
    from dermanet.intake.sources import open_source

    opened, objects = open_source(source), place(here.objects)
    return opened.name, take(opened, Catalogue(here.catalogue), objects, taxonomy.load(here.taxonomy), progress)


def ingest_configured(text: str) -> dict[str, Any]:
    """Takes in the sources that `text` names, or those of `DERMANET_SOURCE` where it is empty; returns the counts in all.

    Several are written side by side, a name with a space in quotes. Raises BadInput where neither names one.
    """
    chosen = sources_in(text or settings.read().source)
    if not chosen:
        raise BadInput(
            "no source: set DERMANET_SOURCE, or give the parameter source a folder, a CSV, s3://…, inbox:… or synthetic:"
        )
    total: dict[str, Any] = {
        "accepted": 0,
        "known": 0,
        "corrected": 0,
        "quarantined": {},
        "batches": [],
        "waiting": [],
    }
    for source in chosen:
        counts = ingest(source, _IngestReport())
        print(f"{counts['source']}: {counted(counts)}", flush=True)
        for word in ("accepted", "known", "corrected"):
            total[word] += counts[word]
        for reason, count in counts["quarantined"].items():
            total["quarantined"][reason] = total["quarantined"].get(reason, 0) + count
        # Those of other weeks would only make the record of a run longer every week.
        total["batches"] += [story for story in counts.get("batches", ()) if story["state"] != "taken before"]
        total["waiting"] += [f"{counts['source']}: {folder}" for folder in counts.get("waiting", ())]
    return total


def check_sources(text: str) -> str:
    """The sources in `text` with absolute paths, each one opened. Raises BadInput with one line for the first that is wrong."""
    from dermanet.intake.inbox import absolute, inbox
    from dermanet.intake.sources import open_source

    named = sources_in(text)
    for source in named:
        if inbox(source) is None:
            open_source(source)
    return shlex.join(absolute(source) for source in named)


def sources_in(text: str) -> list[str]:
    """The sources that a setting names: one path as it stands, or several words as a shell would read them."""
    return [text] if text and Path(text.removeprefix("inbox:")).exists() else shlex.split(text)


def snapshot() -> dict[str, Any]:
    """Freezes the catalogue as it stands. Returns the snapshot's id, its holdout's identity and the images of each side.

    `warnings`: a line for each diagnosis without a lesion on some side. Raises BadInput where lesions that belong together lie on
    different sides.
    """
    from dermanet.intake import measuring, placing, snapshots
    from dermanet.intake.catalogue import Catalogue

    here = settings.read()
    catalogue = Catalogue(here.catalogue)
    measuring.measure(catalogue, place(here.objects))
    placed = placing.place(catalogue)
    refuse_torn(here, placed)
    several, kept = len(placed.several), snapshot_place(here)
    frozen = snapshots.freeze(placed.records, taxonomy.load(here.taxonomy), kept, placed.sides, several)
    snapshots.mark_used(frozen.id, kept)
    sides = {side: len(getattr(frozen, side)) for side in ("train", "validation", "holdout")}
    return {
        "snapshot": frozen.id, "holdout_digest": frozen.holdout_digest, "images": len(frozen.records), **sides,
        "groups": several, "warnings": snapshots.one_sided(frozen),
    }  # fmt: skip


def prepare(
    snapshot_id: str, experiment_text: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Prepares the pixels of a snapshot for an experiment's recipe; only what is new is computed. Returns the counts.

    `damaged` names the shards that were found so, with what was wrong; their images are among the computed.
    """
    return prepare_part(snapshot_id, experiment_text, {"part": 0, "parts": 1}, progress)


def preparation_parts(snapshot_id: str, experiment_text: str) -> list[dict[str, int]]:
    """The parts in which `prepare_part` prepares a snapshot side by side: the more the more is new, and one where little is."""
    from dermanet.pixels.prepared import PreparedPixels
    from dermanet.pixels.preprocess import recipe

    here = settings.read()
    pixels = PreparedPixels(prepared_root(here), recipe(chosen_experiment(here, experiment_text).recipe))
    new = sum(record.digest not in pixels for record in frozen_snapshot(here, snapshot_id).records)
    return parts_of(new, PIXELS_COST)


def prepare_part(
    snapshot_id: str, experiment_text: str, part: Mapping[str, int],
    progress: Callable[[int, int], None] = lambda done, total: print(f"{done} of {total} images", flush=True),
) -> dict[str, Any]:  # fmt: skip
    """One of `preparation_parts`, whatever has been prepared meanwhile; one that was prepared is found so."""
    here = settings.read()
    chosen = chosen_experiment(here, experiment_text)
    records = records_in(part, frozen_snapshot(here, snapshot_id).records)
    start, total = time.monotonic(), len(records)
    done = fill_pixels(here, chosen.recipe, records, lambda count: progress(count, total))[1]
    return {
        "snapshot": snapshot_id, "images": total, "computed": done.computed, "reused": done.reused,
        "damaged": list(done.damaged), "seconds": round(time.monotonic() - start, 2),
    }  # fmt: skip


class _IngestReport:
    """A line in the task's log every two thousand records."""

    def __init__(self) -> None:
        self.due = 2000

    def __call__(self, outcome: "Outcome") -> None:
        if outcome.total >= self.due:
            print(
                f"{outcome.total} records: accepted {outcome.accepted}, known {outcome.known}, refused {outcome.quarantined.total()}"
            )
            self.due = outcome.total + 2000
