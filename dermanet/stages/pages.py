"""The page of an evaluation, with pictures of the images it is about: made, found, and cleared of those that are forgotten."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.errors import BadInput
from dermanet.settings import Settings
from dermanet.stages.lateness import forgotten_among
from dermanet.stages.rooms import looked_at, tracking_of
from dermanet.storage import place

if TYPE_CHECKING:
    from dermanet.judging.evaluation import Evaluation
    from dermanet.judging.flips import Flip, Totals
    from dermanet.judging.page import Card
    from dermanet.judging.plots import Picture
    from dermanet.judging.verdict import Verdict
    from dermanet.records import Answers, Record, Snapshot
    from dermanet.registry.tracking import Tracking

EVALUATION, PAGE, DOSSIER = "evaluation.json", "evaluation.html", "dossier"
EVALUATED = "dermanet.evaluated"
"""The tag of a run that has such a page, or is about to: the digest of the holdout."""

FLIPPED, MISTAKES = 36, 24
"""Pictures on a page, so that it stays below two megabytes."""


def draw(
    here: Settings, record: Mapping[str, Any], card: Mapping[str, Any], frozen: "Snapshot", candidate: "Answers",
    found: "Evaluation", changed: "Sequence[Flip]", told: "Totals | None", pictures: "Mapping[str, Picture]",
) -> str:  # fmt: skip
    """The page of the evaluation that `record` keeps, its verdict not in it yet. `changed`, `told`: the flips and their totals."""
    from dermanet.judging import mistakes, page

    flipped = [
        (frozen.holdout[one.place], f"{one.truth}: {one.before} becomes {one.after}",
         f"champion {one.probability_before:.0%} sure, candidate {one.probability_after:.0%}", one.turn)
        for one in changed[:FLIPPED]
    ]  # fmt: skip
    wrong = [
        (frozen.holdout[one.place], f"{one.truth}, called {one.said}", f"{one.sure:.0%} sure, {one.truth} {one.truth_sure:.0%}", "")
        for one in mistakes.worst(frozen.holdout, candidate, frozen.taxonomy, MISTAKES)
    ]  # fmt: skip
    about = page.Page(
        card["experiment"]["name"], record["run_id"], frozen.id, frozen.holdout_digest, record["champion_version"] if told else "",
        code_of(card), card["experiment"]["seed"], datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), frozen.taxonomy.diagnoses,
        pictures, list(_cards(here, flipped)), list(_cards(here, wrong)),
    )  # fmt: skip
    return page.html(about, found, told)


def keep_page(here: Settings, tracking: "Tracking", run_id: str, text: str, name: str = PAGE) -> None:
    """Writes a page of a run, without the pictures of images that are forgotten by then. The run has the tag EVALUATED already."""
    from dermanet.judging.page import shown_on, without

    tracking.log_text(run_id, text, name)
    gone = forgotten_among(here, shown_on(text))
    if gone:
        tracking.log_text(run_id, without(text, gone), name)


def keep_evaluation(here: Settings, tracking: "Tracking", run_id: str, record: Mapping[str, Any]) -> None:
    """Writes the figures of a run's evaluation, without the flips of images that are forgotten by then."""
    tracking.log_json(run_id, record, EVALUATION)
    flipped = [one["digest"] for one in (record["flips"] or {"flipped": ()})["flipped"]]
    gone = forgotten_among(here, flipped)
    if gone:
        _clear_flips(tracking, run_id, gone)


def keep_verdict(here: Settings, tracking: "Tracking", run_id: str, verdict: "Verdict") -> None:
    """Puts a verdict into the page of a run."""
    from dermanet.judging.page import with_verdict

    text = tracking.read_text(run_id, PAGE)
    keep_page(here, tracking, run_id, with_verdict(text, verdict))


def clear_pages(here: Settings, digests: Collection[str]) -> int:
    """Takes images that are forgotten out of every page and every list of flips. Returns how many pages had some."""
    from dermanet.judging.page import without

    tracking, cleared = tracking_of(here), 0
    for run_id in tracking.tagged(EVALUATED):
        for name in (PAGE, f"{DOSSIER}/{PAGE}"):
            try:
                text = tracking.read_text(run_id, name)
            except BadInput:
                continue
            left = without(text, digests)
            if left != text:
                tracking.log_text(run_id, left, name)
                cleared += name == PAGE
        _clear_flips(tracking, run_id, digests)
    return cleared


def _clear_flips(tracking: "Tracking", run_id: str, digests: Collection[str]) -> None:
    try:
        record = tracking.read_json(run_id, EVALUATION)
    except BadInput:
        # An evaluation that was killed before it had kept its figures.
        return
    flips = record.get("flips") or {"flipped": []}
    left = [one for one in flips["flipped"] if one["digest"] not in digests]
    if len(left) < len(flips["flipped"]):
        tracking.log_json(run_id, {**record, "flips": {**flips, "flipped": left}}, EVALUATION)


def evaluation_page(run_id: str) -> str:
    """The path of a copy of the page of a run's evaluation, for people to look at. Raises BadInput where there is none."""
    here = settings.read()
    return str(tracking_of(here).fetch(run_id, PAGE, looked_at(here, run_id)))


def code_of(card: Mapping[str, Any]) -> str:
    """Which code has trained a model, by its card."""
    return ", revision ".join(filter(None, (card["dermanet"], card.get("revision"))))


def _cards(here: Settings, told: "Sequence[tuple[Record, str, str, str]]") -> "Iterator[Card]":
    """A card for each record, title, caption and turn whose image is still stored."""
    from dermanet.contactsheet import tile
    from dermanet.intake.stored import object_name
    from dermanet.judging.page import Card

    objects = place(here.objects)
    for record, title, caption, turn in told:
        try:
            data = objects.read(object_name(record.digest))
        except FileNotFoundError:
            continue
        yield Card(record.digest, tile(data, "").address, title, f"{record.image_id}; {caption}", turn)
