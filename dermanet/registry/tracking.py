"""Runs in MLflow, each found again by what it works on: whatever is called twice continues the one run and writes nothing twice."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Map
from mlflow.utils.time import get_current_time_millis

from dermanet.errors import BadInput
from dermanet.registry import machine
from dermanet.registry.datasets import RecordSet, inputs
from dermanet.settings import make_private

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENT = "dermanet"
WORK = "dermanet.work"
"""The tag that names what a run works on; a stage that is run again finds its run by it."""

MODEL = "dermanet.model"
"""The tag that holds the `models:/…` address of the run's logged model, once it is whole."""

USED = "dermanet.used"
"""The tag that says when somebody last worked with a finished run; upkeep leaves alone what was used of late."""

ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""What MLflow says of what is not there, or can be nowhere. By any other word it could not be asked, and asked again it may know."""

SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "image")]),
    outputs=Schema(
        [
            ColSpec("double", "age", required=False),
            ColSpec("double", "age_low", required=False),
            ColSpec("double", "age_high", required=False),
            ColSpec("string", "sex", required=False),
            ColSpec("string", "diagnosis", required=False),
            ColSpec(Map(DataType.double), "sex_probabilities", required=False),
            ColSpec(Map(DataType.double), "diagnosis_probabilities", required=False),
            ColSpec(Array(DataType.string), "differentials", required=False),
            ColSpec("string", "quality", required=False),
            ColSpec("double", "novelty", required=False),
            ColSpec("string", "refer", required=False),
            ColSpec("string", "error", required=False),
        ]
    ),
)
"""What a logged scorer takes and returns; a row has an error or the rest."""


class Tracking:
    """The runs of one MLflow server or database."""

    def __init__(self, uri: str, artifacts: Path, experiment: str = EXPERIMENT, pages: str = "") -> None:
        """`artifacts`: where a new experiment keeps its files if no server decides that. `experiment`: MLflow's, by name.

        `pages`: where people find the server, where that is another address.
        """
        # What MLflow's database cannot do is raised, too; its page of traceback would bury the line that says what to do.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        if uri.startswith("sqlite:///"):
            # Before MLflow makes it, for everybody to read.
            make_private(Path(uri.removeprefix("sqlite:///")).parent)
        mlflow.set_tracking_uri(uri)
        self.uri = uri
        self.pages = pages or uri
        self.client = MlflowClient(uri)
        self._name, self._artifacts = experiment, artifacts
        if not uri.startswith("http"):
            # Opened while one process has it to itself: several at once cannot make its tables.
            _ = self.experiment

    @cached_property
    def experiment(self) -> str:
        """The id of the experiment; made where there is none. Whoever only reads versions, and may do no more, does not ask for it."""
        found = self.client.get_experiment_by_name(self._name)
        if found:
            return str(found.experiment_id)
        try:
            artifacts = None if self.uri.startswith("http") else self._artifacts.as_uri()
            return str(self.client.create_experiment(self._name, artifacts))
        except MlflowException:
            # Another process made it between the two calls.
            return str(self.client.get_experiment_by_name(self._name).experiment_id)

    def run_for(self, work: str, name: str, tags: Mapping[str, str]) -> Run:
        """The run that works on `work`; made at the first call, set running again at later ones."""
        return self.found(work) or self.client.create_run(self.experiment, run_name=name, tags={**tags, WORK: work})

    def found(self, work: str) -> Run | None:
        """The run that works on `work`, where there is one."""
        runs = self.client.search_runs([self.experiment], f"tags.`{WORK}` = '{work}'", max_results=1)
        return runs[0] if runs else None

    def tagged(self, tag: str) -> list[str]:
        """The ids of all runs that have a tag, those that somebody deleted in MLflow too: their files are still there."""
        found, token = [], None
        while True:
            page = self.client.search_runs([self.experiment], f"tags.`{tag}` LIKE '%'", ViewType.ALL, page_token=token)
            found += [run.info.run_id for run in page]
            token = page.token
            if not token:
                return found

    @contextmanager
    def writable(self, run_id: str) -> Iterator[None]:
        """Brings a run that was deleted in MLflow back while a block writes to it: MLflow takes files for it, but no tags."""
        deleted = self.run(run_id).info.lifecycle_stage == LifecycleStage.DELETED
        if deleted:
            self.client.restore_run(run_id)
        try:
            yield
        finally:
            if deleted:
                self.client.delete_run(run_id)

    def run(self, run_id: str) -> Run:
        """A run by its id. Raises BadInput where there is none."""
        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            require_absent(error)
            raise BadInput(
                f"no run {run_id!r} in MLflow at {mlflow.get_tracking_uri()}; `dermanet train` prints a run's id"
            ) from None

    def model_of(self, run_id: str) -> str:
        """The `models:/…` address of a run's logged model. Raises BadInput where it has none, or has it no more."""
        found = self.run(run_id).data.tags.get(MODEL)
        if not found:
            raise BadInput(
                f"run {run_id} has no model, or upkeep has removed it; train its snapshot and experiment again"
            )
        return str(found)

    def tag(self, run_id: str, **tags: str) -> None:
        """Sets tags `dermanet.<name>`."""
        for name, value in tags.items():
            self.client.set_tag(run_id, f"dermanet.{name}", value)

    def describe(self, run_id: str, text: str) -> None:
        """Sets what MLflow's page of a run shows first, in Markdown."""
        self.client.set_tag(run_id, "mlflow.note.content", text)

    def address(self, run_id: str, name: str) -> str:
        """Where a person finds an artifact: its page at the MLflow server, or which run has it."""
        if self.pages.startswith("http"):
            return f"{self.pages}/#/experiments/{self.experiment}/runs/{run_id}/artifacts/{name}"
        return f"{name} of MLflow run {run_id}"

    def fetch(self, run_id: str, name: str, into: Path) -> Path:
        """The path of a copy of an artifact in a folder, made where there is none. Raises BadInput where there is no such artifact."""
        self.run(run_id)
        into.mkdir(parents=True, exist_ok=True)
        try:
            return Path(self.client.download_artifacts(run_id, name, str(into)))
        except (MlflowException, FileNotFoundError) as error:
            require_absent(error)
            raise BadInput(f"run {run_id} has no {name} yet; run the stage that writes it first") from None

    def read_text(self, run_id: str, name: str) -> str:
        """An artifact's text. Raises BadInput where it is not there yet, or the run is not. No copy of it stays on this machine."""
        with TemporaryDirectory() as folder:
            return self.fetch(run_id, name, Path(folder)).read_text(encoding="utf-8")

    def end(self, run_id: str, status: str) -> None:
        """Sets a run's status: RUNNING, FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status) if status != "RUNNING" else self.client.update_run(run_id, status)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Keeps parameters; the same ones may be kept again."""
        self.client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])

    def log_history(self, run_id: str, history: Sequence[Mapping[str, float]]) -> None:
        """Keeps one point a metric and epoch, from epoch 1: `val_…`, and `train_…`; those that are kept already are left alone."""
        if not history:
            return
        kept = {metric.step for metric in self.client.get_metric_history(run_id, "val_loss")}
        now = get_current_time_millis()
        for step, epoch in enumerate(history, start=1):
            if step not in kept:
                # A name of their own: of one that the holdout's figures have, too, MLflow would show the last epoch's.
                named = {name if name.startswith("val_") else f"train_{name}": value for name, value in epoch.items()}
                self.client.log_batch(run_id, metrics=[Metric(name, value, now, step) for name, value in named.items()])

    def log_figures(self, run_id: str, figures: Mapping[str, float]) -> None:
        """Keeps holdout figures; the latest value counts."""
        now = get_current_time_millis()
        before = self.run(run_id).data.metrics
        changed = {name: value for name, value in figures.items() if before.get(name) != value}
        self.client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in changed.items()])

    def log_datasets(self, run_id: str, sets: Sequence[RecordSet]) -> None:
        """Keeps what a run was trained or judged on; the same sets may be kept again."""
        self.client.log_inputs(run_id, inputs(sets))

    def machine_watched(self, run_id: str) -> AbstractContextManager[None]:
        """Measures the machine while a block runs, as `system/…` metrics of the run."""
        return machine.watched(run_id, self.uri)

    def log_json(self, run_id: str, record: Any, name: str) -> None:
        """Keeps a JSON artifact."""
        self.client.log_dict(run_id, record, name)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Keeps a text artifact."""
        self.client.log_text(run_id, text, name)

    def log_bytes(self, run_id: str, data: bytes, name: str) -> None:
        """Keeps a file as it is."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            self.client.log_artifact(run_id, str(path))

    def log_picture(self, run_id: str, figure: "Figure", name: str) -> None:
        """Keeps a drawing as PNG."""
        self.client.log_figure(run_id, figure, name)

    def read_json(self, run_id: str, name: str) -> Any:
        """A JSON artifact of a run. Raises BadInput where it is not there yet, or the run is not."""
        return json.loads(self.read_text(run_id, name))

    def log_model(
        self, run_id: str, scorer: Path, artifacts: Mapping[str, Path], package: Path, requirements: Sequence[str]
    ) -> str:
        """Logs the scorer with its files and returns its `models:/…` address; a whole one from before is returned as it is."""
        kept = self.run(run_id).data.tags.get(MODEL)
        if kept:
            return kept
        for half in self.client.search_logged_models([self.experiment], f"source_run_id = '{run_id}'"):
            self.client.delete_logged_model(half.model_id)
        with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            # MLflow would like an input example, which would be a patient's image, and the version of a pip that uv does not install.
            warnings.simplefilter("ignore", UserWarning)
            logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(scorer),
                artifacts={name: str(path) for name, path in artifacts.items()},
                code_paths=[str(package)],
                pip_requirements=list(requirements),
                signature=SIGNATURE,
            )
        self.client.set_tag(run_id, MODEL, logged.model_uri)
        return str(logged.model_uri)


@contextmanager
def model_at_hand(uri: str, part: str = "") -> Iterator[Path]:
    """The folder with the artifacts of a logged or registered model, or one file of them, for as long as it is looked at.

    What had to travel for it leaves no copy behind, also where a task's process ends without a word. Raises BadInput.
    """
    with TemporaryDirectory() as folder:
        yield model_files(uri, folder, part)


def model_files(uri: str, into: str | None = None, part: str = "") -> Path:
    """The same, copied into a folder; without one where they lie, or in a folder of MLflow's own where they had to travel."""
    folder, wanted = (f"{uri}/artifacts", part) if part else (uri, "artifacts")
    try:
        # Of a folder that is gone MLflow makes an empty copy, without a word.
        if wanted in [PurePosixPath(one.path).name for one in mlflow.artifacts.list_artifacts(folder)]:
            if part:
                return Path(mlflow.artifacts.download_artifacts(f"{folder}/{part}", dst_path=into))
            return Path(mlflow.artifacts.download_artifacts(uri, dst_path=into)) / wanted
        if not uri.startswith("models:"):
            raise FileNotFoundError(f"there is no {wanted}")
    except (MlflowException, FileNotFoundError) as error:
        require_absent(error)
        raise BadInput(
            f"model {uri!r} cannot be read: {error}; allowed are models:/NAME@ALIAS, models:/NAME/VERSION"
        ) from None
    raise BadInput(f"the files of {uri} are not there ({wanted}); put them back from a backup, or take another version")


def require_absent(error: Exception) -> None:
    """Raises an error of MLflow's again that does not say that something is not there: it is no fault of whoever asked."""
    if isinstance(error, MlflowException) and error.error_code not in ABSENT:
        raise error
