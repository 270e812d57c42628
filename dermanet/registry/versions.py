"""Versions of the registered model and its aliases: `champion` is served, `previous` is what a rollback returns to."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from dermanet.errors import BadInput
from dermanet.registry.shelf import LEFT_OUT
from dermanet.registry.tracking import ABSENT, require_absent

CHAMPION, PREVIOUS = "champion", "previous"
NUMBER = re.compile(r"[1-9][0-9]*")
"""How a version is named."""

ASKED_BY = re.compile(r"//[^/]*@")
"""The user and the password in an address."""


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of one registered model."""

    client: MlflowClient
    name: str

    @property
    def registry(self) -> str:
        """Tells these versions from those of another registry or name, whoever asks by whatever password. 16 hexadecimal digits."""
        address = ASKED_BY.sub("//", self.client.tracking_uri)
        return sha256(f"{address} {self.name}".encode()).hexdigest()[:16]

    def register(self, run_id: str, model_uri: str, tags: Mapping[str, str]) -> str:
        """Registers a run's model and returns its version, of which a run has one; called again, it has the tags of the last call."""
        self._ensure_model()
        found = self.client.search_model_versions(f"name = '{self.name}' and run_id = '{run_id}'")
        if found:
            changed = {name: value for name, value in tags.items() if found[0].tags.get(name) != value}
            for name, value in changed.items():
                self.client.set_model_version_tag(self.name, found[0].version, name, value)
            return str(found[0].version)
        made = self.client.create_model_version(
            self.name, model_uri, run_id, dict(tags), model_id=model_uri.removeprefix("models:/")
        )
        return str(made.version)

    def move(self, alias: str, version: str | None) -> None:
        """Makes a version the holder of an alias; None takes the alias away."""
        if version:
            self.client.set_registered_model_alias(self.name, alias, version)
        elif self.holder(alias):
            self.client.delete_registered_model_alias(self.name, alias)

    def tag(self, version: str, **tags: str) -> None:
        """Sets tags `dermanet.<name>` of a version."""
        for name, value in tags.items():
            self.client.set_model_version_tag(self.name, version, f"dermanet.{name}", value)

    def holder(self, alias: str) -> str | None:
        """The number of the version that holds an alias; otherwise as `at`."""
        found = self.at(alias)
        return str(found.version) if found else None

    def at(self, alias: str) -> ModelVersion | None:
        """The version that holds an alias; None where none does. Raises MlflowException where the registry cannot be asked."""
        try:
            return self.client.get_model_version_by_alias(self.name, alias)
        except MlflowException as error:
            if error.error_code in ABSENT:
                return None
            raise

    def get(self, version: str) -> ModelVersion:
        """A version. Raises BadInput where there is none."""
        # MLflow takes `02` for 2; two names of one version would be two versions to whoever compares them.
        if NUMBER.fullmatch(version):
            with suppress(MlflowException):
                return self.client.get_model_version(self.name, version)
        held = sorted(int(v.version) for v in self.client.search_model_versions(f"name = '{self.name}'"))
        raise BadInput(f"{self.name} has no version {version!r}; there are {held or 'none'}")

    def fetch(self, version: str, folder: Path) -> None:
        """Copies what scoring needs of a version into a folder: `MLmodel`, and the model's files but the Keras one.

        Raises BadInput where there are none, MlflowException or OSError where they cannot be had now.
        """
        uri = f"models:/{self.name}/{version}"
        try:
            inside = [entry.path for entry in mlflow.artifacts.list_artifacts(artifact_uri=f"{uri}/artifacts")]
            for path in ("MLmodel", *(path for path in inside if not path.endswith(LEFT_OUT))):
                mlflow.artifacts.download_artifacts(artifact_uri=f"{uri}/{path}", dst_path=str(folder))
        except (MlflowException, FileNotFoundError) as error:
            require_absent(error)
            raise BadInput(f"the files of {uri} cannot be read: {error}") from None

    def existing(self, version: str) -> str | None:
        """A version, if it is still there."""
        try:
            return str(self.get(version).version) if version else None
        except BadInput:
            return None

    def tagged(self, *tags: str) -> dict[str, tuple[str, ...]]:
        """Every version, oldest first, with the values of some of its tags; empty where it has none."""
        found = self.client.search_model_versions(f"name = '{self.name}'")
        ordered = sorted(found, key=lambda version: int(version.version))
        return {str(version.version): tuple(version.tags.get(tag, "") for tag in tags) for version in ordered}

    def _ensure_model(self) -> None:
        try:
            self.client.create_registered_model(
                self.name, description="Age, sex and diagnosis from a dermoscopic image. For research use."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
