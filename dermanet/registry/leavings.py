"""What lies in MLflow for upkeep to look at: every version, and the runs and logged models of ours; and how those go, files and all.

Files go by MLflow's own way, in a folder, a bucket or through the server that hands them out; they go first and what names them last,
so that whoever is killed in between leaves something that is found again. What was deleted in MLflow is only hidden there: it goes
for good where the server's database may be opened.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path

from dermanet.registry.tracking import MODEL, USED, WORK

MODEL_ID = re.compile(r"\bm-[0-9a-f]{32}\b")
"""A logged model's name in the address of a version's files, whichever way that is written."""

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Registered:
    """A version of a registered model. What is not known of it is empty."""

    run_id: str
    model_id: str
    snapshot: str


@dataclass(frozen=True, slots=True)
class SeenRun:
    """A run of ours. `last`: when it was begun, ended or used last, in seconds since 1970. `location`: where its files lie."""

    run_id: str
    work: str
    snapshot: str
    parent: str
    last: float
    location: str


@dataclass(frozen=True, slots=True)
class SeenModel:
    """A logged model of one of our runs. `last` as of a run."""

    model_id: str
    run_id: str
    last: float
    location: str


def registered(client: MlflowClient) -> list[Registered]:
    """Every version of every registered model: others than ours may be made of our runs."""
    found = _pages(lambda token: client.search_model_versions("", max_results=PAGE, page_token=token))
    return [_registered(version) for version in found]


def runs(client: MlflowClient, experiments: list[str]) -> list[SeenRun]:
    """The runs of experiments, by name, that nobody has deleted; none of an experiment that is not there."""
    ids = _ids(client, experiments)
    if not ids:
        return []
    found = _pages(lambda token: client.search_runs(ids, "", ViewType.ACTIVE_ONLY, PAGE, page_token=token))
    return [_seen(run) for run in found]


def models(client: MlflowClient, experiments: list[str]) -> list[SeenModel]:
    """The logged models of experiments, by name, that nobody has deleted."""
    ids = _ids(client, experiments)
    if not ids:
        return []
    found = _pages(lambda token: client.search_logged_models(ids, max_results=PAGE, page_token=token))
    return [_model(model) for model in found]


def size(location: str) -> int:
    """The bytes of the files at an artifact's address; 0 where they cannot be listed, which their removal will say."""
    try:
        return _size(get_artifact_repository(location), None)
    except (MlflowException, OSError):
        return 0


def drop_run(client: MlflowClient, run: SeenRun) -> None:
    """Removes a run's files, then the run. Raises MlflowException or OSError where they cannot be removed."""
    _remove_files(run.location)
    client.delete_run(run.run_id)


def drop_model(client: MlflowClient, model: SeenModel) -> None:
    """Removes a logged model: first its run says that it has none any more, so that nobody registers it; then files and model."""
    with suppress(MlflowException):
        if client.get_run(model.run_id).data.tags.get(MODEL) == f"models:/{model.model_id}":
            client.delete_tag(model.run_id, MODEL)
    _remove_files(model.location)
    client.delete_logged_model(model.model_id)


class Hidden:
    """What was deleted in MLflow and is still there, hidden; by the server's database, which may be opened beside the server."""

    def __init__(self, database: str, artifacts: str) -> None:
        """`database`: its SQLAlchemy URL. `artifacts`: where it keeps files by default."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self._store = SqlAlchemyStore(database, artifacts)

    def found(self, before: float) -> dict[str, str]:
        """Runs and logged models that were deleted before a moment (seconds since 1970): where the files of each lie, by its id."""
        older = max(int((time.time() - before) * 1000), 0)
        runs = {
            run_id: self._store.get_run(run_id).info.artifact_uri for run_id in self._store._get_deleted_runs(older)
        }
        models = self._store._get_deleted_logged_models(older)
        kept = {one: self._store.get_logged_model(one, allow_deleted=True).artifact_location for one in models}
        return {**runs, **kept}

    def drop(self, name: str, location: str) -> None:
        """Removes a run or a logged model for good, as `mlflow gc` does."""
        _remove_files(location)
        if MODEL_ID.fullmatch(name):
            self._store._hard_delete_logged_model(name)
        else:
            self._store._hard_delete_run(name)


def _pages(page: Callable[[str | None], Any]) -> Iterator[Any]:
    token = None
    while True:
        found = page(token)
        yield from found
        token = found.token
        if not token:
            return


def _ids(client: MlflowClient, experiments: list[str]) -> list[str]:
    found = [client.get_experiment_by_name(name) for name in experiments]
    return [experiment.experiment_id for experiment in found if experiment]


def _registered(version: Any) -> Registered:
    named = version.model_id or next(iter(MODEL_ID.findall(version.source or "")), "")
    return Registered(version.run_id or "", named, version.tags.get("dermanet.snapshot", ""))


def _seen(run: Run) -> SeenRun:
    tags, info = run.data.tags, run.info
    used = datetime.fromisoformat(tags[USED]).timestamp() if USED in tags else 0.0
    last = max((info.end_time or 0) / 1000, (info.start_time or 0) / 1000, used)
    return SeenRun(
        info.run_id, tags.get(WORK, ""), tags.get("dermanet.snapshot", ""),
        tags.get("mlflow.parentRunId", ""), last, info.artifact_uri,
    )  # fmt: skip


def _model(model: LoggedModel) -> SeenModel:
    last = model.last_updated_timestamp or model.creation_timestamp
    return SeenModel(model.model_id, model.source_run_id or "", last / 1000, model.artifact_location)


def _size(repository: Any, path: str | None) -> int:
    return sum(
        _size(repository, entry.path) if entry.is_dir else entry.file_size or 0
        for entry in repository.list_artifacts(path)
    )


def _remove_files(location: str) -> None:
    get_artifact_repository(location).delete_artifacts()
    # In a folder the one of the run's, or of the model's, own name is left empty.
    if location.startswith(("/", "file:")):
        with suppress(OSError):
            Path(local_file_uri_to_path(location)).parent.rmdir()
