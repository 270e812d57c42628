"""Versions of the registered model and its aliases: `champion` is served, `previous` is what a rollback returns to."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from dermanet.errors import BadInput

CHAMPION, PREVIOUS = "champion", "previous"


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of one registered model."""

    client: MlflowClient
    name: str

    def register(self, run_id: str, model_uri: str, tags: Mapping[str, str]) -> str:
        """Registers a run's model and returns its version; a run has one, however often this is called."""
        self._ensure_model()
        found = self.client.search_model_versions(f"name = '{self.name}' and run_id = '{run_id}'")
        if found:
            return str(found[0].version)
        made = self.client.create_model_version(
            self.name, model_uri, run_id, dict(tags), model_id=model_uri.removeprefix("models:/")
        )
        return str(made.version)

    def promote(self, version: str) -> None:
        """Makes a version the champion; the champion before it becomes `previous`. A second call changes nothing.

        `previous` is saved first: killed between the two steps, the old champion still serves and the call can be repeated.
        """
        self.get(version)
        before = self.holder(CHAMPION)
        if before == version:
            return
        if before:
            self.client.set_registered_model_alias(self.name, PREVIOUS, before)
        self.client.set_registered_model_alias(self.name, CHAMPION, version)

    def roll_back(self) -> str:
        """Makes the previous champion the champion again and returns its version. Raises BadInput where there was none.

        `previous` stays where it is, so that a second call finds the work done instead of undoing it.
        """
        previous = self.holder(PREVIOUS)
        if previous is None:
            raise BadInput(f"{self.name} has no previous champion to go back to")
        if previous != self.holder(CHAMPION):
            self.client.set_registered_model_alias(self.name, CHAMPION, previous)
        return previous

    def holder(self, alias: str) -> str | None:
        """The version that holds an alias; None where none does. Raises MlflowException where the registry cannot be asked."""
        try:
            return str(self.client.get_model_version_by_alias(self.name, alias).version)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise

    def get(self, version: str) -> ModelVersion:
        """A version. Raises BadInput where there is none."""
        try:
            return self.client.get_model_version(self.name, version)
        except MlflowException:
            held = sorted(int(v.version) for v in self.client.search_model_versions(f"name = '{self.name}'"))
            raise BadInput(f"{self.name} has no version {version!r}; there are {held or 'none'}") from None

    def snapshots(self) -> dict[str, str]:
        """Every version and the snapshot that it was trained and judged on, oldest first."""
        found = self.client.search_model_versions(f"name = '{self.name}'")
        known = sorted((int(version.version), version.tags.get("dermanet.snapshot")) for version in found)
        return {str(version): snapshot for version, snapshot in known if snapshot}

    def _ensure_model(self) -> None:
        try:
            self.client.create_registered_model(
                self.name, description="Age, sex and diagnosis from a dermoscopic image. For research use."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
