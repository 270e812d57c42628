"""How the champion and what feeds it stand: its age, what came since, the holdout's wear, the growth of quarantine."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dermanet.errors import BadInput
from dermanet.settings import Settings
from dermanet.stages.holdout import holdout
from dermanet.stages.rooms import frozen_snapshot, ledger_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from dermanet.monitoring.drift import Check
    from dermanet.monitoring.limits import Limits


def condition(
    here: Settings, champion: "ModelVersion | None", now: datetime, before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """How things stand at a moment (aware). `before`: the same of the last report, for growth."""
    from dermanet.intake.catalogue import Catalogue

    catalogue = Catalogue(here.catalogue)
    records = catalogue.records()
    reasons = Counter(refusal.reason for _, refusal in catalogue.refusals())
    return {
        "at": now.isoformat(timespec="seconds"), "images": len(records), "holdout": holdout(),
        "champion": _age(here, champion, now, {record.digest for record in records}) if champion else None,
        "quarantine": _growth(reasons, len(records), before),
    }  # fmt: skip


def checks(found: Mapping[str, Any], limits: "Limits") -> "list[Check]":
    """What the limits say of it."""
    from dermanet.monitoring.drift import stands_alone
    from dermanet.monitoring.limits import bound

    told, champion, quarantine, worn = [], found["champion"], found["quarantine"], found["holdout"]
    if champion:
        days, since = champion["days"], champion["since"][:10]
        told.append(
            stands_alone("champion_days", days, bound(limits.warning, "champion_days"), f"{days} days, since {since}")
        )
        if champion["newer_images"] is not None:
            newer = champion["newer_images"]
            told.append(stands_alone("newer_images", newer, bound(limits.warning, "newer_images"), f"{newer:,}"))
    if quarantine["share"] is not None:
        said = f"{quarantine['share']:.0%} of {quarantine['came']:,} since {quarantine['since'][:10]}"
        told.append(stands_alone("refused", quarantine["share"], bound(limits.warning, "refused"), said))
    wear = f"{worn['verdicts']:g} verdicts, refused after {worn['refuse_after']}"
    told.append(stands_alone("holdout_wear", worn["verdicts"], float(worn["warn_after"]), wear))
    return told


def _age(here: Settings, champion: "ModelVersion", now: datetime, images: set[str]) -> dict[str, Any]:
    made = datetime.fromtimestamp(champion.creation_timestamp / 1000, UTC)
    move = ledger_of(here).last_move_of(str(champion.version))
    since = datetime.fromisoformat(move.at) if move else made
    try:
        known = {one.digest for one in frozen_snapshot(here, champion.tags.get("dermanet.snapshot", "")).records}
        newer: int | None = len(images - known)
    except BadInput:
        newer = None
    return {
        "version": str(champion.version), "made": made.isoformat(timespec="seconds"), "since": since.isoformat(timespec="seconds"),
        "days": (now - since).days, "newer_images": newer,
    }  # fmt: skip


def _growth(reasons: Counter[str], images: int, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Records in quarantine by reason, and how many more than before; the share that was refused of what came, if something did."""
    earlier = Counter(before["quarantine"]["reasons"]) if before else Counter()
    grown = {name: count - earlier[name] for name, count in sorted(reasons.items())} if before else {}
    more = sum(max(0, count) for count in grown.values())
    came = more + max(0, images - before["images"]) if before else 0
    return {
        "reasons": dict(sorted(reasons.items())), "grown": grown, "since": before["at"] if before else "", "came": came,
        "share": more / came if came else None,
    }  # fmt: skip
