"""Each kind of things that upkeep looks after: which of them may go, and how one goes."""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from dermanet.errors import DermaNetError
from dermanet.settings import Settings
from dermanet.stages import idle, taskhistory
from dermanet.stages.cache import images_of, remove_cached, unneeded_cache
from dermanet.stages.leaving import Ages, Kind, Leaving, Outcome
from dermanet.stages.needs import Installation, Needs, needs
from dermanet.stages.rooms import ledger_of, snapshot_place, studies_of, tracking_of, versions_of
from dermanet.storage import place

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from dermanet.registry.leavings import Hidden, SeenModel, SeenRun
    from dermanet.registry.shelf import Shelf
    from dermanet.searching.study import Study

MOST = 2**31 - 1
"""More snapshots than an installation has."""


class _Standing(Kind):
    """Things that others stand on."""

    @cached_property
    def needs(self) -> Needs:
        return needs(_installation(self.here, self.ages), self.ages.unused)


class _Snapshots(_Standing):
    """Frozen catalogues."""

    name = "snapshots"

    @property
    def why(self) -> str:
        return f"no version, verdict or study stands on it; {self.unused()}"

    def unneeded(self) -> Mapping[str, int]:
        from dermanet.intake.snapshots import last_used

        root = snapshot_place(self.here).root
        going = sorted(last_used(snapshot_place(self.here)).keys() - self.needs.snapshots)
        return {name: sum(path.stat().st_size for path in (root / name).iterdir()) for name in going}

    def drop(self, name: str) -> bool:
        from dermanet.intake import snapshots

        kept = snapshot_place(self.here)
        going = name in snapshots.last_used(kept).keys() - self.needs.snapshots
        if going:
            snapshots.drop(name, kept)
        return going


class _Cache(_Standing):
    """Shards of prepared pixels and of features, and exported backbones."""

    name = "cache"
    why = "of images that no snapshot which stays has or that were forgotten, made by another revision, or left by a killed run"

    def unneeded(self) -> Mapping[str, int]:
        images = images_of(self.here, self.needs.snapshots)
        found = unneeded_cache(self.here, images, self.ages.grace)
        return {path.relative_to(self.here.home).as_posix(): size for path, size in found.items()}

    def remove(self, names: Collection[str]) -> Outcome:
        # All at once: to see what one shard holds is to look at all.
        going = [name for name in self.unneeded() if name in set(names)]
        remove_cached([self.here.home / name for name in going])
        return going, {}


class _Trainings(Kind):
    """Folders of trainings that were killed."""

    name = "trainings"

    @property
    def why(self) -> str:
        return f"killed, and not gone on with for {self.here.keep_days} days"

    def unneeded(self) -> Mapping[str, int]:
        return idle.folders(self.here.home / "training", self.ages.unused)

    def drop(self, name: str) -> bool:
        return idle.drop(self.here.home / "training", name, self.ages.unused)


class _Searches(Kind):
    """Studies of searches."""

    name = "studies"

    @property
    def why(self) -> str:
        return f"nobody has gone on with it for {self.here.keep_days} days; its runs in MLflow say what came of it"

    def unneeded(self) -> Mapping[str, int]:
        return dict.fromkeys(_idle_studies(self.here, self.ages.unused), 0)

    def drop(self, name: str) -> bool:
        if name not in self.unneeded():
            return False
        studies = studies_of(self.here)
        return studies.drop(studies.find(name), self.ages.unused)


class _InMlflow(_Standing):
    """What MLflow lists, each with the address of its files."""

    # To list anew for each would be quadratic; whoever registers or promotes waits no longer than this for one removal more.
    held = 2.0

    def turn(self) -> AbstractContextManager[None]:
        return ledger_of(self.here).moving()

    def unneeded(self) -> Mapping[str, int]:
        from dermanet.registry import leavings

        return {name: leavings.size(one.location) for name, one in self.found.items()}

    @property
    def found(self) -> "Mapping[str, SeenModel | SeenRun]":
        """Those that may go, by id."""
        raise NotImplementedError

    @cached_property
    def client(self) -> "MlflowClient":
        """MLflow's."""
        return tracking_of(self.here).client


class _Models(_InMlflow):
    """Logged models that never became versions."""

    name = "models"

    @property
    def why(self) -> str:
        return f"never became a version; {self.unused()}"

    @cached_property
    def found(self) -> "dict[str, SeenModel]":
        from dermanet.registry import leavings

        seen = leavings.models(self.client, _experiments(self.here))
        return {one.model_id: one for one in seen if one.model_id not in self.needs.models}

    def drop(self, name: str) -> bool:
        from dermanet.registry import leavings

        seen = self.found.get(name)
        if seen:
            leavings.drop_model(self.client, seen)
        return seen is not None


class _Runs(_InMlflow):
    """Runs of trainings and searches."""

    name = "runs"

    @property
    def why(self) -> str:
        return f"no version, dossier or decision names it; {self.unused()}"

    @cached_property
    def found(self) -> "dict[str, SeenRun]":
        from dermanet.registry import leavings

        seen = leavings.runs(self.client, _experiments(self.here))
        return {one.run_id: one for one in seen if one.run_id not in self.needs.runs}

    def drop(self, name: str) -> bool:
        from dermanet.registry import leavings

        seen = self.found.get(name)
        if seen:
            leavings.drop_run(self.client, seen)
        return seen is not None


class _Deleted(_Standing):
    """Runs and logged models that were deleted in MLflow, which only hides them."""

    name = "deleted"

    @property
    def why(self) -> str:
        return f"deleted in MLflow {self.here.keep_days} days ago or earlier"

    @cached_property
    def found(self) -> dict[str, str]:
        """Where the files of each lie, by its id."""
        if not self.here.backend_store:
            return {}
        stays = self.needs.runs | self.needs.models
        hidden = self._hidden.found(self.ages.unused)
        return {name: location for name, location in hidden.items() if name not in stays}

    def unneeded(self) -> Mapping[str, int]:
        from dermanet.registry import leavings

        return {name: leavings.size(location) for name, location in self.found.items()}

    def drop(self, name: str) -> bool:
        location = self.found.get(name)
        if location:
            self._hidden.drop(name, location)
        return location is not None

    @cached_property
    def _hidden(self) -> "Hidden":
        from dermanet.registry import leavings

        return leavings.Hidden(self.here.backend_store, self.here.artifact_store)


class _Copies(Kind):
    """Copies of versions that travelled to this machine."""

    name = "copies"

    @property
    def why(self) -> str:
        return f"neither champion nor previous; {self.unused()}"

    def unneeded(self) -> Mapping[str, int]:
        return {
            f"{shelf.root.name}/{name}": size
            for shelf in self._shelves()
            for name, size in shelf.idle(self.ages.unused).items()
            if shelf.root.name != self.here.model or name.partition("-")[0] not in self._holders
        }

    def drop(self, name: str) -> bool:
        going = name in self.unneeded()
        if going:
            model, _, version = name.partition("/")
            next(shelf for shelf in self._shelves() if shelf.root.name == model).drop(version)
        return going

    @cached_property
    def _holders(self) -> set[str | None]:
        from dermanet.registry.versions import CHAMPION, PREVIOUS

        versions = versions_of(self.here, tracking_of(self.here))
        return {versions.holder(alias) for alias in (CHAMPION, PREVIOUS)}

    def _shelves(self) -> "list[Shelf]":
        from dermanet.registry.shelf import Shelf

        root = self.here.home / "models"
        return [Shelf(path) for path in sorted(root.iterdir()) if path.is_dir()] if root.is_dir() else []


class _Objects(Kind):
    """Files in the store of images."""

    name = "objects"
    why = "neither the catalogue nor quarantine names it"

    def unneeded(self) -> Mapping[str, int]:
        from dermanet.intake import inventory
        from dermanet.intake.catalogue import Catalogue

        return inventory.unneeded(Catalogue(self.here.catalogue), place(self.here.objects), self.ages.grace)

    def remove(self, names: Collection[str]) -> Outcome:
        from dermanet.intake import inventory
        from dermanet.intake.catalogue import Catalogue

        chosen = dict.fromkeys(names, 0)
        catalogue, objects = Catalogue(self.here.catalogue), place(self.here.objects)
        return list(inventory.remove(chosen, catalogue, objects, self.ages.grace)), {}


class _Predictions(Kind):
    """Rows of the log of predictions, which a scorer removes every hour, too, while there is one."""

    name = "predictions"

    def find(self) -> list[Leaving]:
        from dermanet.monitoring.predictions import expired

        days = self.here.prediction_days
        count = expired(ledger_of(self.here).engine, self._before) if days else 0
        return [Leaving(self.name, self._before.isoformat(), 0, f"older than {days} days", count)] if count else []

    def drop(self, name: str) -> bool:
        from dermanet.monitoring.predictions import expire_all

        return expire_all(ledger_of(self.here).engine, datetime.fromisoformat(name)) > 0

    @property
    def _before(self) -> datetime:
        """By whole days, so that a list that is made twice in one says the same."""
        day = datetime.fromtimestamp(self.ages.now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return day - timedelta(days=self.here.prediction_days)


class _TaskLogs(Kind):
    """Airflow's logs."""

    name = "task logs"

    @property
    def why(self) -> str:
        return f"older than {self.here.log_days} days"

    def unneeded(self) -> Mapping[str, int]:
        return taskhistory.logs(self.here.airflow_logs, self.ages.tasks)

    def drop(self, name: str) -> bool:
        return taskhistory.drop_logs(self.here.airflow_logs, name, self.ages.tasks)


class _TaskRows(Kind):
    """Airflow's runs and tasks."""

    name = "task rows"

    def find(self) -> list[Leaving]:
        found = taskhistory.rows(self.here.airflow_database, self.ages.tasks)
        return [Leaving(self.name, table, 0, f"older than {self.here.log_days} days", n) for table, n in found.items()]

    def remove(self, names: Collection[str]) -> Outcome:
        try:
            taskhistory.drop_rows(self.here.airflow_database, self.ages.tasks, list(names))
        except DermaNetError as error:
            return [], {", ".join(names): str(error)}
        return list(names), {}


KINDS: tuple[type[Kind], ...] = (
    _Trainings, _Searches, _Snapshots, _Cache, _Models, _Runs, _Deleted, _Copies, _Objects, _Predictions, _TaskLogs, _TaskRows,
)  # fmt: skip
"""In the order in which they go: what stands on another goes before it."""


def _installation(here: Settings, ages: Ages) -> Installation:
    """What there is, as far as it says what is needed."""
    from dermanet.intake import history, snapshots
    from dermanet.intake.catalogue import Catalogue
    from dermanet.registry import leavings

    client, ledger, experiments = tracking_of(here).client, ledger_of(here), _experiments(here)
    verdict, sound = ledger.last("verdict"), history.before(Catalogue(here.catalogue), MOST)
    root = here.home / "training"
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    studied = _studies(here, ages.unused)
    return Installation(
        leavings.registered(client), leavings.runs(client, experiments), leavings.models(client, experiments), ledger.runs(),
        {verdict.snapshot if verdict else "", sound.id if sound else ""},
        names - idle.folders(root, ages.unused).keys() | studied.keys(), set(studied.values()),
        snapshots.last_used(snapshot_place(here)),
    )  # fmt: skip


def _experiments(here: Settings) -> list[str]:
    """MLflow's experiments whose runs upkeep looks after. The reports on data stay: they say why data were let pass."""
    return ["dermanet", f"{here.model}-searches"]


def _studies(here: Settings, before: float) -> dict[str, str]:
    """The studies that stay, with their snapshots."""
    return {study.id: study.plan.snapshot for study in _all_studies(here) if not study.idle(before)}


def _idle_studies(here: Settings, before: float) -> list[str]:
    return [study.id for study in _all_studies(here) if study.idle(before)]


def _all_studies(here: Settings) -> "list[Study]":
    return studies_of(here).every() if (here.home / "searches" / "studies.db").exists() else []
