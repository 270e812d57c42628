"""The stages of upkeep: a list of what nobody needs any more, and its removal.

What goes is listed first, with sizes and reasons. What is removed is what was listed and is still unneeded at that moment: each thing
is looked at again, in the turn of whoever could come for it. Nothing that is younger than a day ever goes, as a stage may be at work
with it.

    snapshots     that no version, verdict or study stands on, unused for DERMANET_KEEP_DAYS
    cache         pixels and features of images that no snapshot which stays has, or that were forgotten
    trainings     that were killed, and not gone on with for DERMANET_KEEP_DAYS
    studies       of searches, idle for as long
    models        logged in MLflow that never became a version, of runs unused for as long
    runs          of trainings and searches that no version, dossier or decision names, unused for as long
    deleted       runs and models that were deleted in MLflow as long ago, for good
    copies        of versions that travelled here, unused for as long, but champion and previous
    objects       files in the store that neither catalogue nor quarantine names
    predictions   older than DERMANET_PREDICTION_DAYS
    task logs     Airflow's, older than DERMANET_LOG_DAYS; and
    task rows     Airflow's runs and tasks in its database
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import time as now
from typing import Any

from dermanet import settings
from dermanet.errors import BadInput, DermaNetError
from dermanet.settings import Settings
from dermanet.stages.kinds import KINDS
from dermanet.stages.leaving import Ages, Leaving
from dermanet.stages.rooms import removing
from dermanet.storage import Folder

DAY = 86400.0


def unneeded() -> dict[str, Any]:
    """What nobody needs any more: each thing with its kind, bytes and reason; and the totals by kind. Removes nothing."""
    here = settings.read()
    ages = _ages(here, now())
    return _told(here, ages, _listed(here, ages))


def list_unneeded() -> dict[str, Any]:
    """The same, kept in the home for `remove_listed`: the list's id and its totals."""
    record = unneeded()
    text = json.dumps(record, indent=1)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    _lists(settings.read()).write(f"{name}.json", text.encode())
    return {"list": name, "bytes": record["bytes"], "totals": record["totals"], "left_out": record["left_out"]}


def remove_listed(name: str) -> dict[str, Any]:
    """Removes what a list names and is still unneeded. Returns totals by kind, and how many are needed by now or have gone.

    May be killed and run again. Raises BadInput where there is no such list, and DermaNetError where another process removes, or
    where something could not be removed, which is named; all else has been.
    """
    here = settings.read()
    try:
        record = json.loads(_lists(here).read(f"{name}.json"))
    except FileNotFoundError:
        raise BadInput(f"no list {name!r} in {_lists(here)}; `dermanet upkeep` makes one") from None
    return _removed(here, record["at"], [Leaving(**one) for one in record["leaving"]])


def upkeep(apply: bool = False) -> dict[str, Any]:
    """The list, as `unneeded`; or, to `apply` it, what `remove_listed` returns, done at once."""
    if not apply:
        return unneeded()
    record = unneeded()
    return _removed(settings.read(), record["at"], [Leaving(**one) for one in record["leaving"]])


def _ages(here: Settings, now: float) -> Ages:
    """What is old at a moment, by the settings; never less than a day."""
    from dermanet.stages.taskhistory import oldest

    return Ages(now, now - DAY, now - here.keep_days * DAY, oldest(here, now))


def _listed(here: Settings, ages: Ages) -> list[Leaving]:
    return [one for kind in KINDS for one in kind(here, ages).find()]


def _removed(here: Settings, at: float, listed: Collection[Leaving]) -> dict[str, Any]:
    """Removes, kind by kind, and says what came of it."""
    removed: list[Leaving] = []
    trouble: list[str] = []
    with removing(here):
        for kind in KINDS:
            ours = {one.name: one for one in listed if one.kind == kind.name}
            if ours:
                # By the list's own moment: what has grown old since was not shown to anybody.
                gone, wrong = kind(here, _ages(here, at)).remove(list(ours))
                removed += [ours[name] for name in gone]
                trouble += [f"{kind.name} {name}: {why}" for name, why in wrong.items()]
    _forget_lists(here)
    if trouble:
        raise DermaNetError(
            f"{len(removed)} of {len(listed)} are removed; {len(trouble)} could not be: {'; '.join(trouble[:5])}"
        )
    return {
        "removed": len(removed), "bytes": sum(one.bytes for one in removed), "totals": _totals(removed),
        "kept": len(listed) - len(removed),
    }  # fmt: skip


def _told(here: Settings, ages: Ages, leaving: list[Leaving]) -> dict[str, Any]:
    left_out = [] if here.backend_store else ["deleted: set MLFLOW_BACKEND_STORE_URI, or run `mlflow gc` at the server"]
    return {
        "at": ages.now, "listed": datetime.fromtimestamp(ages.now, UTC).isoformat(timespec="seconds"),
        "leaving": [asdict(one) for one in leaving], "bytes": sum(one.bytes for one in leaving),
        "totals": _totals(leaving), "left_out": left_out,
    }  # fmt: skip


def _totals(leaving: Collection[Leaving]) -> dict[str, dict[str, int]]:
    """How many, and how many bytes, of each kind that there is."""
    totals: dict[str, dict[str, int]] = {}
    for one in leaving:
        told = totals.setdefault(one.kind, {"count": 0, "bytes": 0})
        told["count"] += one.count
        told["bytes"] += one.bytes
    return totals


def _lists(here: Settings) -> Folder:
    return Folder(here.home / "upkeep")


def _forget_lists(here: Settings) -> None:
    """Removes lists that are as old as what they name had to be."""
    root: Path = _lists(here).root
    for path in root.glob("*.json"):
        if path.stat().st_mtime < now() - here.keep_days * DAY:
            path.unlink(missing_ok=True)
