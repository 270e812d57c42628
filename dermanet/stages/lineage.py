"""From which network a training begins that asks for the champion's, and why from ImageNet where it cannot."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermanet.errors import BadInput
from dermanet.experiment import KIND, PLAIN, Experiment
from dermanet.settings import Settings
from dermanet.stages.rooms import Progress, frozen_snapshot, versions_of

if TYPE_CHECKING:
    from dermanet.records import Snapshot
    from dermanet.registry.tracking import Tracking

CHAMPION, IMAGENET = "champion", "imagenet"
STARTED_FROM = "dermanet.started_from"
"""The tag of a run, and of its version: the version whose weights it began with, or `imagenet`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a training begins: a version of the registered model, or `imagenet`; and why, for people."""

    name: str
    why: str


def begin(
    here: Settings, tracking: "Tracking", run_id: str, chosen: Experiment, frozen: "Snapshot", folder: Path,
    progress: Progress,
) -> None:  # fmt: skip
    """Puts the network that a training begins with into its folder, if its experiment begins with the champion.

    Which one that is, is decided once and kept in the run: a training that is resumed goes on from where it began, whoever is
    champion by then.
    """
    from dermanet.learning.inheritance import START

    if chosen.start != CHAMPION or (folder / START).exists():
        return
    name = tracking.run(run_id).data.tags.get(STARTED_FROM)
    if name is None:
        found = origin(here, tracking, chosen, frozen)
        name = found.name
        tracking.tag(run_id, started_from=name, started_from_why=found.why)
        progress(f"begins with {'ImageNet' if name == IMAGENET else f'version {name}'}: {found.why}")
    if name != IMAGENET:
        with _file(here, name, "model.keras") as weights:
            _copy(weights, folder / START)


def origin(here: Settings, tracking: "Tracking", chosen: Experiment, frozen: "Snapshot") -> Origin:
    """The champion, where it is a network of the same kind that never learned from what it must not know."""
    version = versions_of(here, tracking).holder(CHAMPION)
    if version is None:
        return Origin(IMAGENET, "there is no champion yet")
    card = card_of(here, version)
    tried = PLAIN.as_dict() | card["experiment"]
    other = next((field for field in KIND if tried[field] != getattr(chosen, field)), "")
    if other:
        told, wanted = (value or "nothing" for value in (tried[other], getattr(chosen, other)))
        return Origin(IMAGENET, f"the champion, version {version}, has {other} {told}, and this experiment {wanted}")
    if tried["adjustment"]:
        # What was taken off its logits stands in its weights: each generation would take it off once more.
        return Origin(
            IMAGENET, f"the champion, version {version}, has adjustment {tried['adjustment']:g} in its weights"
        )
    if [diagnosis["code"] for diagnosis in card["taxonomy"]] != list(frozen.taxonomy.codes):
        return Origin(IMAGENET, f"the champion, version {version}, answers another list of diagnoses")
    for ancestor in _ancestors(here, tracking, version):
        trouble = _trouble(here, tracking, ancestor, frozen)
        if trouble:
            return Origin(IMAGENET, f"the champion, version {version}, cannot be gone on from: {trouble}")
    return Origin(version, "the champion")


def learned_from(
    here: Settings, tracking: "Tracking", card: dict[str, Any], frozen: "Snapshot"
) -> "Iterator[Snapshot]":
    """Every snapshot that a network has learned from, by its card: its own, and those of the versions that it began with.

    `frozen`: the snapshot that it is judged on, which is read already. Raises BadInput where one of them is not in this home.
    """
    yield frozen if card["snapshot"] == frozen.id else frozen_snapshot(here, card["snapshot"])
    start = tracking.run(card["run_id"]).data.tags.get(STARTED_FROM, IMAGENET)
    for version in _ancestors(here, tracking, "" if start == IMAGENET else start):
        yield frozen_snapshot(here, versions_of(here, tracking).get(version).tags["dermanet.snapshot"])


def _ancestors(here: Settings, tracking: "Tracking", version: str) -> Iterator[str]:
    """A version, and every version before it from which it began, straight or by others."""
    versions = versions_of(here, tracking)
    while version and version != IMAGENET:
        yield version
        version = versions.get(version).tags.get(STARTED_FROM, "")


def _trouble(here: Settings, tracking: "Tracking", version: str, frozen: "Snapshot") -> str:
    """What a version has learned from that must not go into another network, or into one that is judged on this snapshot."""
    from dermanet.intake.catalogue import Catalogue
    from dermanet.judging.integrity import known_again

    snapshot = versions_of(here, tracking).get(version).tags.get("dermanet.snapshot", "")
    try:
        learned = frozen_snapshot(here, snapshot)
    except BadInput:
        return (
            f"the snapshot of version {version} is not in this home, so that nobody can tell what it has learned from"
        )
    seen = (*learned.train, *learned.validation)
    if Catalogue(here.catalogue).forgotten() & {record.digest for record in seen}:
        return f"version {version} has learned from a lesion that was forgotten since"
    if known_again((*frozen.validation, *frozen.holdout), learned.train):
        return f"version {version} has learned from images, lesions or patients that this snapshot judges by"
    return ""


def card_of(here: Settings, version: str) -> dict[str, Any]:
    """What a version says of itself."""
    from dermanet.serving.network import CARD

    with _file(here, version, CARD) as card:
        return dict(json.loads(card.read_text()))


def _file(here: Settings, version: str, name: str) -> AbstractContextManager[Path]:
    from dermanet.registry.tracking import model_at_hand

    return model_at_hand(f"models:/{here.model}/{version}", name)


def _copy(source: Path, target: Path) -> None:
    """Whole, by a rename: what lies there is what a training begins with."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
