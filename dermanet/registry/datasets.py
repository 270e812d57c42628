"""What a run was trained or judged on, as MLflow's datasets: which records, how many, where their list lies."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.types import ColSpec, Schema
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

LONGEST_DIGEST = 36
"""Characters that MLflow's database keeps of a digest."""


@dataclass(frozen=True, slots=True)
class RecordSet:
    """A set of records that a run used. `digest` names its content, at most 36 characters; `context` what it was used for.

    `table` is the CSV file that lists it; `columns` are the types of its columns in MLflow's words; `profile` holds its counts.
    """

    name: str
    digest: str
    context: str
    table: Path
    columns: Mapping[str, str]
    profile: Mapping[str, Any]


def inputs(sets: Sequence[RecordSet]) -> list[DatasetInput]:
    """MLflow's form of `sets`. Raises ValueError for a digest that MLflow's database would cut."""
    return [DatasetInput(_dataset(one), [InputTag(MLFLOW_DATASET_CONTEXT, one.context)]) for one in sets]


def _dataset(one: RecordSet) -> Dataset:
    if len(one.digest) > LONGEST_DIGEST:
        raise ValueError(f"digest {one.digest!r} has {len(one.digest)} characters; MLflow keeps {LONGEST_DIGEST}")
    # A label that nobody stated is an empty cell.
    schema = Schema([ColSpec(kind, name, required=False) for name, kind in one.columns.items()])
    return Dataset(
        one.name, one.digest, "local", json.dumps({"uri": str(one.table)}),
        json.dumps({"mlflow_colspec": schema.to_dict()}), json.dumps(one.profile),
    )  # fmt: skip
