"""A model that follows an alias: it looks at the registry now and then, loads a new version beside the old one, and swaps.

Whatever goes wrong out there (the registry is away, files are gone, a graph is broken, pixels are others than in training), the
version in hand goes on answering, and `Following.trouble` says what it is. It is tried again, ever more rarely, until it is well.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, Schema

from dermanet.registry.shelf import Shelf
from dermanet.registry.versions import Versions
from dermanet.serving.noticeboard import Noticeboard
from dermanet.serving.reader import Reader, Reading

log = logging.getLogger("dermanet.serving")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a version that does not load is tried again: doubled from the first to the longest."""

STEP = 0.1
"""Seconds between two looks at the bell."""

AT_MOST_EVERY = 1.0
"""Seconds between two looks at the registry for the bell's sake: anybody may ring it."""

WITHOUT_VERSION = Model(signature=ModelSignature(inputs=Schema([ColSpec("string", "image")])))
"""What is known of a request before there is a version."""

Observer = Callable[["Served", Sequence[Reading]], None]
"""Is told of every answer; must neither block nor raise."""


@dataclass(frozen=True, slots=True)
class Served:
    """One loaded version. `about`: what the registry said of it, by tag and alias."""

    version: str
    reader: Reader
    metadata: Model
    about: dict[str, Any]

    @property
    def digest(self) -> str:
        """Names what answers."""
        return self.reader.digest


@dataclass(slots=True)
class Visit:
    """One request: the version that answers it, whatever is promoted meanwhile, and how many images it may bring, of how
    many bytes together.

    `reached`: whether it came to images at all. `refusal`: status and message of what was wrong with them as a whole. `broken`:
    whether it was not the client's fault. `given_up`: whether it was told that it took too long: nobody waits for what is left of it.
    `in_rows`: whether the answer says itself, image by image, what was wrong with them, so that nothing is to be said instead of it.
    """

    served: Served | None
    most: int
    most_bytes: int = 64 * 1024 * 1024
    reached: bool = False
    refusal: tuple[int, str] | None = None
    broken: bool = False
    given_up: bool = False
    in_rows: bool = False

    def require_few(self, count: int) -> None:
        """Raises MlflowException where a request brings more images than it may."""
        self.reached = True
        if count > self.most:
            self.refusal = (
                413,
                f"{count:,} images in one request; at most {self.most:,} are read, send the others in another",
            )
            raise MlflowException(self.refusal[1], error_code="BAD_REQUEST")


AT_THE_DOOR: ContextVar[Visit | None] = ContextVar("visit", default=None)
"""The request that is being answered."""


class Following:
    """Stands where MLflow's scoring server expects a loaded model, and answers with whatever version holds the alias."""

    def __init__(self, versions: Versions, alias: str, poll: float, folder: Path, pinned: str = "") -> None:
        """`poll`: seconds between two looks at the registry. `folder`: for versions, and what processes of one scorer share.

        `pinned`: a version that is served whoever holds the alias.
        """
        self.versions = versions
        self.alias = alias
        self.poll = poll
        self.pinned = pinned
        self.shelf, self.noticeboard = Shelf(folder), Noticeboard(folder)
        self.served: Served | None = None
        self.trouble: str | None = None
        """Why the last look failed; None after one that did not."""
        self.asked: float | None = None
        """When the registry last answered, by `time.monotonic`."""
        self.observers: list[Observer] = []
        self.swapped: list[Callable[[Served], None]] = []
        """Are told of every version that comes to be served."""
        self.looked: list[Callable[[], None]] = []
        """Are told of every look, whatever came of it."""
        self._refused, self._pause, self._again = "", FIRST_PAUSE, 0.0
        self._remembered = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="follow", daemon=True)

    @property
    def metadata(self) -> Model:
        """The served version's metadata; before there is one, a model that only states the form of a request."""
        return self.served.metadata if self.served else WITHOUT_VERSION

    @property
    def staleness(self) -> float | None:
        """Seconds since the registry last answered; None if it never did."""
        return None if self.asked is None else time.monotonic() - self.asked

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """Answers with one version, whatever happens to the alias meanwhile. Raises MlflowException for what is no request."""
        visit = AT_THE_DOOR.get()
        served = visit.served if visit else self.served
        if served is None:
            raise MlflowException("no version holds the alias yet", error_code="TEMPORARILY_UNAVAILABLE")
        # MLflow's own class, so that every form of a request is taken, and refused, as MLflow does.
        return PyFuncModel(served.metadata, _Rows(self, served)).predict(data, params=params)

    def rows(self, visit: Visit, served: Served, cells: Sequence[Any]) -> list[dict[str, Any]]:
        """The rows of one request, as a version answers them. Raises MlflowException where it brings more images than it may."""
        visit.require_few(len(cells))
        try:
            return self.told(served, served.reader.read_all(cells, lambda: not visit.given_up))
        except Exception as error:
            # MLflow would call it the client's fault, with all that it says.
            log.error("%s while images were read", type(error).__name__)
            visit.broken = True
            raise

    def told(self, served: Served, readings: Sequence[Reading]) -> list[dict[str, Any]]:
        """The rows of readings of which all observers have heard."""
        for observer in self.observers:
            observer(served, readings)
        return [reading.row for reading in readings]

    def look(self) -> None:
        """Looks once, and swaps if the alias has moved to a version that loads. Whatever goes wrong, the next look is another try."""
        try:
            self._look()
            for told in self.looked:
                told()
        except Exception as error:
            # The thread that looks must outlive it: a scorer that no longer follows would never hear of a rollback.
            self._say(f"the look at the registry failed: {_line(error)}")

    def _look(self) -> None:
        try:
            found = self.versions.get(self.pinned) if self.pinned else self.versions.at(self.alias)
            self.asked = time.monotonic()
        except Exception as error:
            self._say(f"the registry cannot be asked: {_line(error)}")
            self._start_with_the_last()
            return
        if found is None:
            self._start_with_the_last()
            # Nobody serves nothing: a version that lost its alias goes on until another has it.
            self._say(f"no version holds {self.alias}; version {self.served.version} stays" if self.served else None)
        elif self.served is None or _name(found) != self.served.about["name"]:
            self._take(found)
        else:
            self.served.about.update(_about(found))
            self._say(self._remember())

    def start(self) -> None:
        """Looks once now and then every `poll` seconds, in a thread."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()

    def _take(self, found: ModelVersion) -> None:
        name = _name(found)
        if name == self._refused and time.monotonic() < self._again:
            return
        try:
            folder = self.shelf.get(name, lambda half: self.versions.fetch(str(found.version), half))
            self._swap(_loaded(folder, str(found.version), _about(found)))
        except Exception as error:
            self._refuse(name, f"version {found.version} does not load: {_line(error)}")
            return
        self._refused = ""
        self._say(self._remember())

    def _remember(self) -> str | None:
        """Notes which version is served, unless that is noted; what is wrong where it cannot be."""
        served = self.served
        if served is None or self.pinned or served.about["name"] == self._remembered:
            return None
        try:
            self.noticeboard.remember(served.about["name"], served.about, self.versions.registry)
        except OSError as error:
            return f"version {served.version} is served, and a start without the registry would not find it: {_line(error)}"
        self._remembered = served.about["name"]
        return None

    def _swap(self, served: Served) -> None:
        self.served = served
        for told in self.swapped:
            told(served)
        log.info("serving %s version %s (%s)", self.versions.name, served.version, served.digest)

    def _refuse(self, name: str, why: str) -> None:
        # Fetched anew next time: it may have come as broken as it is.
        self.shelf.drop(name)
        self._pause = min(2 * self._pause, LONGEST_PAUSE) if name == self._refused else FIRST_PAUSE
        self._refused, self._again = name, time.monotonic() + self._pause
        self._start_with_the_last()
        self._say(f"{why}; {f'version {self.served.version} stays' if self.served else 'there is none to serve'}")

    def _start_with_the_last(self) -> None:
        """What was served last, where a start gets nothing else: who went on meanwhile serves it, too."""
        known = None if self.served or self.pinned else self.noticeboard.remembered(self.versions.registry)
        folder = self.shelf.find(known[0]) if known else None
        if known is None or folder is None:
            return
        about = known[1]
        try:
            self._swap(_loaded(folder, about["version"], about))
        except Exception as error:
            log.warning("what was served last cannot be served again: %s", _line(error))

    def _say(self, trouble: str | None) -> None:
        if trouble and trouble != self.trouble:
            log.warning("%s", trouble)
        elif self.trouble and not trouble:
            log.info("all is well again: version %s is served", self.served.version if self.served else "none")
        self.trouble = trouble

    def _watch(self) -> None:
        rung, looked = self.noticeboard.rung(), time.monotonic()
        while not self._stop.wait(min(STEP, self.poll)):
            pause = min(self.poll, AT_MOST_EVERY) if self.noticeboard.rung() != rung else self.poll
            if time.monotonic() >= looked + pause:
                rung = self.noticeboard.rung()
                self.look()
                looked = time.monotonic()


@dataclass(frozen=True, slots=True)
class _Rows:
    """What MLflow's class calls once it has checked a request."""

    following: Following
    served: Served

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Plain rows: MLflow's server would only take a data frame apart again."""
        visit = AT_THE_DOOR.get() or Visit(self.served, len(data))
        return self.following.rows(visit, self.served, list(data["image"]))


def _loaded(folder: Path, version: str, about: dict[str, Any]) -> Served:
    return Served(version, Reader.open(folder / "artifacts"), Model.load(str(folder)), about)


def _name(found: ModelVersion) -> str:
    """Names a version for good: a number may come again in a registry that was made anew."""
    return f"{found.version}-{found.model_id or found.run_id or found.creation_timestamp}"


def _about(found: ModelVersion) -> dict[str, Any]:
    tags = {name.removeprefix("dermanet."): value for name, value in found.tags.items() if name.startswith("dermanet.")}
    return {
        "name": _name(found), "version": str(found.version), "aliases": sorted(found.aliases), "run_id": found.run_id,
        "registered": found.creation_timestamp, "tags": tags,
    }  # fmt: skip


def _line(error: Exception) -> str:
    """The first line of what an exception says, not too long."""
    said = str(error).strip().splitlines()[:1] or ["no reason given"]
    return f"{type(error).__name__}: {said[0][:300]}"
