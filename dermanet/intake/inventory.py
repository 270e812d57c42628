"""Upkeep of the object store: what it holds against what the catalogue names, and what nobody needs any more.

An orphan is a file that neither an image of the catalogue nor a record in quarantine names: an image that was refused at the very end,
against what the catalogue says of its lesion, or what a killed ingest left.
"""

import math
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dermanet.errors import BadInput
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.quarantine import file_name
from dermanet.intake.stored import READERS, Fault, faults, object_name
from dermanet.storage import Folder, Place

YOUNG = 3600.0
"""Seconds for which an orphan is left alone: an ingest under way stores an image before it is catalogued."""

OURS = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}|quarantine/[0-9a-f]{12}-[0-9a-f]{64}")
"""The names that DermaNet gives. Whatever else lies there, perhaps a source, is somebody else's and never touched."""


@dataclass(frozen=True)
class Inventory:
    """The store against the catalogue: names of files with their sizes, and the digests of images that have none."""

    images: Mapping[str, int]
    quarantined: Mapping[str, int]
    orphans: Mapping[str, int]
    missing: tuple[str, ...]


def survey(catalogue: Catalogue, objects: Place) -> Inventory:
    """Compares the names alone; no file is read. An ingest under way is seen as orphans that are young."""
    # The store before the catalogue: what an ingest catalogues meanwhile was stored before, and might look like an orphan otherwise;
    # and what is then catalogued and not in the listing is asked for by its name.
    files = _listing(objects)
    digests = catalogue.digests()
    ours = {object_name(digest): digest for digest in digests}
    kept = {file_name(refusal, file) for refusal, file in catalogue.quarantined_files()}
    return Inventory(
        {name: size for name, size in files.items() if name in ours},
        {name: size for name, size in files.items() if name in kept},
        {name: size for name, size in files.items() if name not in ours and name not in kept and OURS.fullmatch(name)},
        tuple(ours[name] for name in sorted(ours) if name not in files and not objects.exists(name)),
    )


def check(
    catalogue: Catalogue, objects: Place, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Fault]:
    """Reads every image of the catalogue whole, sets the damaged ones aside and names them and the missing ones."""
    digests = sorted(catalogue.digests())
    return faults(digests, catalogue, objects, lambda done: progress(done, len(digests)))


def unneeded(catalogue: Catalogue, objects: Place, before: float = math.inf) -> dict[str, int]:
    """Orphans and half-written files with their sizes, those of the last hour aside, and those since `before` (seconds since 1970).

    Raises BadInput where the catalogue names none of the files: it is another installation's, or new.
    """
    old = min(time.time() - YOUNG, before)
    found = survey(catalogue, objects)
    orphans = found.orphans
    if orphans and not found.images and not found.quarantined:
        raise BadInput(
            f"the catalogue names none of the {len(orphans)} files in {objects}; set DERMANET_CATALOGUE to the catalogue that they "
            "belong to, or remove them yourself"
        )
    with ThreadPoolExecutor(READERS) as pool:
        written = dict(zip(orphans, pool.map(lambda name: _written(objects, name), orphans), strict=True))
    return {**{name: size for name, size in orphans.items() if written[name] < old}, **objects.unfinished(old)}


def remove(names: Mapping[str, int], catalogue: Catalogue, objects: Place, before: float = math.inf) -> dict[str, int]:
    """Removes the files that are still unneeded, and returns those: each is looked at again, as an ingest may have come for it."""
    still = {name: size for name, size in unneeded(catalogue, objects, before).items() if name in names}
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(objects.remove, still):
            pass
    return still


def _listing(objects: Place) -> Mapping[str, int]:
    if isinstance(objects, Folder) and not objects.root.exists():
        return {}  # Nothing was stored yet.
    return objects.listing()


def _written(objects: Place, name: str) -> float:
    try:
        return objects.written(name)
    except FileNotFoundError:
        return time.time()
