"""A snapshot's sides as the datasets that MLflow shows beside a run."""

from typing import TYPE_CHECKING, Any

from dermanet.settings import Settings
from dermanet.stages.rooms import snapshot_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dermanet.records import Record, Snapshot
    from dermanet.registry.datasets import RecordSet

CONTEXTS = {"train": "training", "validation": "validation", "holdout": "holdout"}


def trained_on(here: Settings, frozen: "Snapshot") -> "list[RecordSet]":
    """The three sides of a snapshot, each under the snapshot's id: what a training saw, and what it did not."""
    return [_side(here, frozen, side, frozen.id, context) for side, context in CONTEXTS.items()]


def judged_on(here: Settings, frozen: "Snapshot") -> "RecordSet":
    """The holdout under its own digest, by which evaluations on the very same images and labels are found."""
    return _side(here, frozen, "holdout", frozen.holdout_digest, "evaluation")


def _side(here: Settings, frozen: "Snapshot", side: str, digest: str, context: str) -> "RecordSet":
    from dermanet.intake.snapshots import COLUMNS
    from dermanet.registry.datasets import RecordSet

    table = snapshot_place(here).root / frozen.id / "records.csv"
    columns = {name: "double" if name == "age" else "string" for name in COLUMNS}
    return RecordSet(f"dermanet-{side}", digest, context, table, columns, _profile(getattr(frozen, side)))


def _profile(records: "Sequence[Record]") -> dict[str, Any]:
    """Counts of images (`num_rows`, the word that MLflow's pages know), lesions, known ages, and lesions of each diagnosis."""
    diagnoses = {record.labels.lesion_id: record.labels.diagnosis for record in records}
    counted = sorted(diagnoses.values())
    return {
        "num_rows": len(records),
        "lesions": len(diagnoses),
        "ages": sum(record.labels.age is not None for record in records),
        "lesions_by_diagnosis": {code: counted.count(code) for code in sorted(set(counted))},
    }
