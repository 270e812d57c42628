"""A model that follows an alias: it looks at the registry now and then, loads a new version beside the old one, and swaps."""

import logging
import threading
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema

from dermanet.registry.versions import Versions

log = logging.getLogger("dermanet.serving")


@dataclass(frozen=True, slots=True)
class Served:
    """One loaded version."""

    version: str
    model: Any


class Following:
    """Stands where MLflow's scoring server expects a loaded model, and answers with whatever version holds the alias.

    A version that cannot be loaded, or a registry that cannot be reached, leaves the served version in place.
    """

    def __init__(self, versions: Versions, alias: str, poll: float, pinned: str = "") -> None:
        """`poll`: seconds between two looks at the registry. `pinned`: a version that is served whoever holds the alias."""
        self.versions = versions
        self.alias = alias
        self.poll = poll
        self.pinned = pinned
        self.served: Served | None = None
        self.trouble: str | None = None
        """Why the last look failed; None after one that did not."""
        self._refused: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="follow", daemon=True)

    @property
    def metadata(self) -> Model:
        """The served version's metadata; before there is one, a model that only states the form of a request."""
        if self.served:
            return self.served.model.metadata
        return Model(signature=ModelSignature(inputs=Schema([ColSpec("string", "image")])))

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """Answers with one version, whatever happens to the alias meanwhile."""
        served = self.served
        if served is None:
            raise mlflow.exceptions.MlflowException(
                "no version holds the alias yet", error_code="TEMPORARILY_UNAVAILABLE"
            )
        return served.model.predict(data, params=params)

    def look(self) -> None:
        """Looks once, and swaps if the alias has moved to a version that loads."""
        try:
            version = self.pinned or self.versions.holder(self.alias)
            if version and version != self._refused and (self.served is None or version != self.served.version):
                self._load(version)
            self.trouble = None if version != self._refused else self.trouble
        except Exception as error:
            # Whatever breaks out there, the version in hand goes on answering; the next look tries again.
            self.trouble = f"{type(error).__name__}: {error}"
            log.warning("the registry could not be asked for %s@%s: %s", self.versions.name, self.alias, self.trouble)

    def start(self) -> None:
        """Looks once now and then every `poll` seconds, in a thread."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()

    def _load(self, version: str) -> None:
        try:
            model = mlflow.pyfunc.load_model(f"models:/{self.versions.name}/{version}")
        except Exception as error:
            # Not tried again until the alias moves: a version is immutable, so it would fail the same way.
            self._refused, self.trouble = version, f"version {version} does not load: {type(error).__name__}: {error}"
            log.error("%s; version %s stays", self.trouble, self.served.version if self.served else "none")
            return
        self.served, self._refused = Served(version, model), None
        log.info("serving %s version %s", self.versions.name, version)

    def _watch(self) -> None:
        while not self._stop.wait(self.poll):
            self.look()
