"""The stages of backups: all that an installation cannot make again, in one folder; proved; and put back, here or elsewhere.

Databases first, then the files that they name, which are write-once: whatever a database in the backup names is in the backup.
MLflow's and the catalogue's, which name one another, are held still at one moment, in which nobody writes into the catalogue. Nothing
that is named can leave meanwhile, as upkeep and forgetting wait for their turn.

    databases/    airflow, mlflow, catalogue, and the searches' studies
    objects/      images, and files in quarantine
    artifacts/    MLflow's files, models among them
    snapshots/

What is made again when it is needed is left out: prepared pixels, features, copies of versions, trainings under way, task logs.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermanet import __version__, settings
from dermanet.errors import BadInput, DermaNetError
from dermanet.hold import held
from dermanet.settings import Settings
from dermanet.stages.relocation import relocate, version_files
from dermanet.stages.rooms import removing, snapshot_place
from dermanet.stages.tombs import Tombs, forget_again, known, legible, of_backups
from dermanet.storage import Folder, Place, place

if TYPE_CHECKING:
    from dermanet.backup.archive import Backup, Making
    from dermanet.backup.databases import Pinned

AIRFLOW, MLFLOW, CATALOGUE, SEARCHES = "airflow", "mlflow", "catalogue", "searches"
OBJECTS, ARTIFACTS, SNAPSHOTS = "objects", "artifacts", "snapshots"

REVISIONS = {AIRFLOW: "alembic_version", MLFLOW: "alembic_version", CATALOGUE: "dermanet_version"}
"""The table in which each database keeps the revision of its schema."""

SOFTWARE = {MLFLOW: "mlflow", AIRFLOW: "apache-airflow"}
"""Whose version must be as new as the one that wrote a database."""

MARK = "restoring.json"
"""In the home while a restore is under way, so that it may be called again after a kill."""

OnFile = Callable[[int, int], None]


def backup(folder: str, keep: int = 0) -> dict[str, Any]:
    """Makes a backup in a folder of backups, beside the earlier ones; what has not changed since the last costs no room.

    `keep`: removes all but so many afterwards; 0: none. Returns its name, what is in it, and the images that the store itself lacks.
    Nothing has to be stopped. Killed, it leaves no half one that could be taken for whole. Raises BadInput where there is no
    installation or another one is being made there, and DermaNetError where a database does not answer, the disk is full, or an
    upkeep is under way.
    """
    from dermanet.backup import archive, databases

    here, at, root = settings.read(), time.time(), Path(folder).absolute()
    if not databases.exists(here.catalogue):
        # Called in another folder than the home's, it would put empty backups in the place of those that `keep` removes.
        raise BadInput(
            f"there is nothing to back up: no catalogue in the home {here.home}; set DERMANET_HOME to the one that is meant"
        )
    name = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H%M%SZ")
    with removing(here), archive.making(root, name) as made:
        about = {"dermanet": __version__, "at": at, "software": _software(), **_databases(here, made)}
        for store, source in _stores(here).items():
            made.copy(store, source, _ours if store == OBJECTS else lambda name: True)
        wanted = about.pop("images")
        about["missing"] = sorted(digest for digest in wanted if f"{OBJECTS}/{_object(digest)}" not in made.files)
        about["places"] = {store: str(source) for store, source in _stores(here).items()}
        whole = archive.finish(made, about)
        removed = archive.keep(root, keep) if keep else []
    return {**_told(whole), "new_bytes": made.copied, "seconds": round(time.time() - at, 1), "removed": removed}


def verify_backup(folder: str, progress: OnFile = lambda done, total: None) -> dict[str, Any]:
    """Reads a backup whole, the last one of a folder of backups: `faults` names what is missing or damaged. Raises BadInput."""
    from dermanet.backup import archive

    found = archive.chosen(Path(folder).absolute())
    return {**_told(found), "faults": _faults(found, progress)}


def restore(folder: str, replace: bool = False, progress: OnFile = lambda done, total: None) -> dict[str, Any]:
    """Puts a backup back, the last one of a folder of backups, into the installation that the settings name; and proves it.

    Who was forgotten since, as far as a later backup beside it or the present catalogue knows, is forgotten again. Killed, it may be
    called again. A SQLite database that is damaged is put aside: `aside` has its new name. Raises BadInput where the backup is damaged
    or of newer software, or where something is there already, unless it is to `replace` that; DermaNetError where what is there
    afterwards is not whole.
    """
    from dermanet.backup import archive, databases
    from dermanet.database.engine import open_database

    here, start = settings.read(), time.time()
    found = archive.chosen(Path(folder).absolute())
    _require_usable(here, found, progress)
    with _alone(here):
        urls = {name: url for name, url in _every_url(here).items() if name in found.about["databases"]}
        damaged = {name: fault for name, url in urls.items() if (fault := databases.damage(url))}
        tombs = of_backups(found.folder.parent).with_more(_tombs_here(here, found, replace, damaged))
        _mark(here, found, tombs)
        aside = {name: str(databases.put_aside(urls[name])) for name in damaged}
        for store, target in _stores(here).items():
            archive.put_back(found, store, target, tombs.holds if store == OBJECTS else lambda name: False)
        _load(here, found)
        relocate(here.backend_store, str(found.about["places"][ARTIFACTS]), str(_stores(here)[ARTIFACTS]))
        open_database(here.catalogue).dispose()
        again = forget_again(here, tombs)
        checked = _checked(here, found)
        (here.home / MARK).unlink()
    return {"backup": found.name, **checked, **again, "aside": aside, "seconds": round(time.time() - start, 1)}


def _databases(here: Settings, made: "Making") -> dict[str, Any]:
    """Writes the databases, and returns what the manifest says of them; `images`: the digests of all that the catalogue names."""
    from dermanet.backup import databases
    from dermanet.database.engine import nobody_writing, open_database

    urls, told = _urls(here), {}
    for name in (AIRFLOW, SEARCHES):
        if name in urls:
            with databases.pinned(urls[name]) as one:
                told[name] = _dumped(made, name, one)
    engine = open_database(here.catalogue)
    with ExitStack() as stack:
        with nobody_writing(engine):
            # Whatever the ledger names has been in MLflow before, and whatever a run names in the catalogue.
            mlflow = stack.enter_context(databases.pinned(urls[MLFLOW])) if MLFLOW in urls else None
            catalogue = stack.enter_context(databases.pinned(urls[CATALOGUE]))
        told |= {MLFLOW: _dumped(made, MLFLOW, mlflow)} if mlflow else {}
        images = [digest for (digest,) in catalogue.rows("SELECT digest FROM images")]
        forgotten = [list(row) for row in catalogue.rows("SELECT digest, lesion, image FROM forgotten")]
        told[CATALOGUE] = _dumped(made, CATALOGUE, catalogue)
    engine.dispose()
    return {"databases": told, "images": images, "forgotten": forgotten}


def _dumped(made: "Making", name: str, one: "Pinned") -> dict[str, str]:
    """Writes one database, and says of which kind and revision it is."""
    file = f"databases/{name}.{'db' if one.kind == 'sqlite' else 'dump'}"
    made.add(file, one.dump)
    revision = one.rows(f"SELECT version_num FROM {REVISIONS[name]}") if name in REVISIONS else []
    return {"file": file, "kind": one.kind, "revision": str(revision[0][0]) if revision else ""}


def _urls(here: Settings) -> dict[str, str]:
    """The databases that there are. Raises BadInput where MLflow's is not known."""
    from dermanet.backup import databases

    if not here.backend_store:
        raise BadInput(
            f"MLflow is at {here.tracking_uri}, and its database is not known; set MLFLOW_BACKEND_STORE_URI and "
            "MLFLOW_ARTIFACTS_DESTINATION as its server has them"
        )
    return {name: url for name, url in _every_url(here).items() if databases.exists(url)}


def _every_url(here: Settings) -> dict[str, str]:
    studies = f"sqlite:///{here.home / 'searches' / 'studies.db'}"
    return {AIRFLOW: here.airflow_database, MLFLOW: here.backend_store, CATALOGUE: here.catalogue, SEARCHES: studies}


def _stores(here: Settings) -> dict[str, Place]:
    """Where files are, by the names that they have in a backup."""
    artifacts = here.artifact_store.removeprefix("file://")
    return {OBJECTS: place(here.objects), ARTIFACTS: place(artifacts), SNAPSHOTS: snapshot_place(here)}


def _ours(name: str) -> bool:
    """Whether the store of images has a file by a name that DermaNet gives."""
    from dermanet.intake.inventory import OURS

    return OURS.fullmatch(name) is not None


def _object(digest: str) -> str:
    from dermanet.intake.stored import object_name

    return object_name(digest)


def _software() -> dict[str, str]:
    return {name: version(name) for name in SOFTWARE.values()}


def _told(found: "Backup") -> dict[str, Any]:
    stores = {store: found.below(store) for store in (OBJECTS, ARTIFACTS, SNAPSHOTS)}
    return {
        "backup": str(found.folder), "bytes": sum(kept.bytes for kept in found.files.values()),
        "databases": sorted(found.about["databases"]), "files": {store: len(files) for store, files in stores.items()},
        "missing": found.about["missing"],
    }  # fmt: skip


def _faults(found: "Backup", progress: OnFile) -> list[str]:
    """What is missing or damaged; where every file is what was written, also the databases that were written damaged."""
    from dermanet.backup import archive, databases

    if wrong := archive.faults(found, progress):
        return wrong
    files = [one["file"] for one in found.about["databases"].values() if one["kind"] == databases.SQLITE]
    said = {file: databases.fault(found.folder / file) for file in files}
    return [f"{file} was damaged when it was copied ({fault})" for file, fault in said.items() if fault]


def _require_usable(here: Settings, found: "Backup", progress: OnFile) -> None:
    """Raises BadInput where a backup is damaged, of newer software, or of other kinds of databases."""
    from packaging.version import Version

    from dermanet.backup import databases
    from dermanet.database.engine import HEAD

    kept = found.about["databases"]
    newer = {name: found.about["software"][name] for db, name in SOFTWARE.items() if db in kept}
    older = [f"{name} {wanted}" for name, wanted in newer.items() if Version(version(name)) < Version(wanted)]
    if kept[CATALOGUE]["revision"] > HEAD:
        older.append(f"DermaNet {found.about['dermanet']}")
    if older:
        raise BadInput(f"backup {found.name} was made by newer software; install {' and '.join(older)} first")
    urls = _every_url(here)
    for name, one in kept.items():
        if not urls[name] or databases.kind_of(urls[name]) != one["kind"]:
            raise BadInput(
                f"backup {found.name} has {name}'s database in {one['kind']}, and the settings name another kind"
            )
    wrong = _faults(found, progress)
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BadInput(f"backup {found.name} is damaged: {'; '.join(wrong[:3])}{more}; take another one")


def _tombs_here(here: Settings, found: "Backup", replace: bool, damaged: Mapping[str, str]) -> Tombs:
    """Who the present catalogue knows as forgotten. Raises BadInput where something is there that nobody said may be replaced."""
    from dermanet.backup import databases

    mark = here.home / MARK
    kept = json.loads(mark.read_text()) if mark.exists() else {}
    if kept.get("backup") == found.name:
        return Tombs(tuple(map(tuple, kept["forgotten"])))
    whole = {name: url for name, url in _every_url(here).items() if name in found.about["databases"].keys() - damaged}
    held = [name for name, url in whole.items() if not databases.empty(url)]
    held += [f"{name}, which is damaged ({fault})" for name, fault in damaged.items()]
    held += [f"{store} in {where}" for store, where in _stores(here).items() if _holds(where)]
    if held and not replace:
        raise BadInput(
            f"there is something already: {', '.join(held)}; --replace replaces databases, of which it puts damaged ones aside, and "
            "adds what files lack"
        )
    if CATALOGUE in damaged:
        return legible(here.catalogue)
    return known(here.catalogue) if CATALOGUE in held else Tombs(())


def _holds(where: Place) -> bool:
    return bool(where.listing()) if not isinstance(where, Folder) or where.root.is_dir() else False


def _mark(here: Settings, found: "Backup", tombs: Tombs) -> None:
    text = json.dumps({"backup": found.name, "forgotten": tombs.rows}).encode()
    Folder(here.home).write(MARK, text)


def _load(here: Settings, found: "Backup") -> None:
    """The databases, and what names others last: killed in between, nothing names what is not there."""
    from dermanet.backup import databases

    urls, kept = _every_url(here), found.about["databases"]
    for name in (SEARCHES, CATALOGUE, MLFLOW, AIRFLOW):
        if name in kept:
            databases.load(urls[name], found.folder / kept[name]["file"])


def _checked(here: Settings, found: "Backup") -> dict[str, Any]:
    """What is there now, by the databases that were put back. Raises DermaNetError where they name what is not."""
    from dermanet.intake import inventory
    from dermanet.intake.catalogue import Catalogue
    from dermanet.intake.snapshots import last_used

    stores = _stores(here)
    held = inventory.survey(Catalogue(here.catalogue), stores[OBJECTS])
    missing = set(held.missing) - set(found.about["missing"])
    wanted = version_files(here.backend_store, str(stores[ARTIFACTS]))
    lost = list(_lost(wanted, found, stores[ARTIFACTS]))
    if missing or lost:
        raise DermaNetError(
            f"backup {found.name} is put back, but is not whole: {len(missing)} images are missing, and the models of "
            f"{', '.join(lost) or 'none'} are not as they were"
        )
    return {
        "images": len(held.images), "missing": len(held.missing), "quarantined": len(held.quarantined),
        "snapshots": len(last_used(snapshot_place(here))), "versions": len(wanted),
    }  # fmt: skip


def _lost(wanted: Mapping[str, str], found: "Backup", artifacts: Place) -> Iterable[str]:
    """The versions whose graph is not in the store, or not the backup's."""
    kept = found.below(ARTIFACTS)
    for name, file in wanted.items():
        try:
            whole = file in kept and hashlib.sha256(artifacts.read(file)).hexdigest() == kept[file].sha256
        except FileNotFoundError:
            whole = False
        if not whole:
            yield name


def _alone(here: Settings) -> AbstractContextManager[None]:
    """One restore at a time."""
    settings.make_private(here.home)
    return held(here.home / f".{MARK}.lock", BadInput(f"another process restores into {here.home}; wait for it"))
