"""Snapshots: the catalogue frozen, named by its content, never changed. A correction makes a new one; the old reads as it was.

<id>/records.csv     one row an image: its side, digest, image_id and labels, in the order of the digests
<id>/manifest.json   counts, the taxonomy, the identity of the holdout, the split's salt; written last
"""

import csv
import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

from dermanet.errors import BadInput, StoreFault
from dermanet.records import SIDES, Labels, Record, Snapshot
from dermanet.split import SALT, holdout_digest, side_of
from dermanet.storage import Folder, Place, inside
from dermanet.taxonomy import Taxonomy, parse

MANIFEST = "manifest.json"
COLUMNS = ("side", "digest", "image_id", *(field.name for field in fields(Labels)))


NO_SIDES: Mapping[str, str] = {}


def freeze(
    records: Sequence[Record], taxonomy: Taxonomy, place: Place, sides: Mapping[str, str] = NO_SIDES, groups: int = 0
) -> Snapshot:
    """Writes the snapshot of `records` that the taxonomy knows, and returns it; the same records give the same id.

    `sides`: lesion to side, as `groups` keeps them; `groups`: how many of several lesions there are, for the manifest.

    Raises BadInput where nothing is left to freeze.
    """
    chosen = [record for record in sorted(records, key=lambda r: r.digest) if record.labels.diagnosis in taxonomy.codes]
    if not chosen:
        raise BadInput(
            f"the catalogue has no image with a diagnosis among {', '.join(taxonomy.codes)}; ingest some first"
        )
    table = _csv(chosen, sides)
    name = _named(table.encode(), taxonomy)
    with suppress(BadInput, StoreFault):
        return read(name, place)
    place.write(f"{name}/records.csv", table.encode())
    place.write(
        f"{name}/{MANIFEST}",
        json.dumps({**_manifest(name, chosen, taxonomy, sides), "groups": groups}, indent=2).encode(),
    )
    return read(name, place)


def read(name: str, place: Place) -> Snapshot:
    """A snapshot by its id, which proves it. Raises BadInput where there is none, StoreFault where it is not what was written."""
    try:
        manifest, table = place.read(f"{name}/{MANIFEST}"), place.read(f"{name}/records.csv")
    except FileNotFoundError:
        raise BadInput(
            f"no snapshot {name!r} in {place}; `dermanet snapshot` makes one and prints its id. Several workers need "
            "one DERMANET_HOME that all of them share"
        ) from None
    try:
        said = json.loads(manifest)
        taxonomy, holdout = parse(said["taxonomy"], f"of snapshot {name}"), str(said["holdout"])
    except (ValueError, LookupError, TypeError, BadInput) as error:
        raise _damaged(name, place, MANIFEST) from error
    if _named(table, taxonomy) != name:
        raise _damaged(name, place, "records.csv")
    sides: dict[str, list[Record]] = {"train": [], "validation": [], "holdout": []}
    for row in csv.DictReader(io.StringIO(table.decode())):
        sides[row["side"]].append(_record(row))
    frozen = {name: tuple(records) for name, records in sides.items()}
    return Snapshot(name, taxonomy, holdout, frozen["train"], frozen["validation"], frozen["holdout"])


def mark_used(name: str, place: Folder) -> None:
    """Notes that somebody works with a snapshot: upkeep leaves alone what was used of late. One that is not there is no fault."""
    with suppress(OSError):
        os.utime(place.root / inside(name) / MANIFEST)


def last_used(place: Folder) -> dict[str, float]:
    """When each snapshot was last used, in seconds since 1970, by its id; of a half one, which a kill left, when it was written."""
    if not place.root.is_dir():
        return {}
    folders = [path for path in place.root.iterdir() if re.fullmatch("[0-9a-f]{16}", path.name)]
    return {path.name: (path / MANIFEST if (path / MANIFEST).exists() else path).stat().st_mtime for path in folders}


def drop(name: str, place: Folder) -> None:
    """Removes a snapshot, its manifest first, without which there is none."""
    place.remove(f"{inside(name)}/{MANIFEST}")
    shutil.rmtree(place.root / name, ignore_errors=True)


def every(place: Place) -> list[Snapshot]:
    """Every whole snapshot there is; one that is damaged is none."""
    try:
        names = [name.removesuffix(f"/{MANIFEST}") for name in place.listing() if name.endswith(f"/{MANIFEST}")]
    except BadInput:
        return []
    found = []
    for name in names:
        with suppress(StoreFault):
            found.append(read(name, place))
    return found


def one_sided(frozen: Snapshot) -> list[str]:
    """A line for every diagnosis of the snapshot that has no lesion on some side."""
    found = {side: {record.labels.diagnosis for record in getattr(frozen, side)} for side in SIDES}
    diagnoses = sorted(set().union(*found.values()))
    return [f"{code} has no lesion in {side}" for code in diagnoses for side in SIDES if code not in found[side]]


def _named(table: bytes, taxonomy: Taxonomy) -> str:
    return hashlib.sha256(table + taxonomy.digest.encode()).hexdigest()[:16]


def _damaged(name: str, place: Place, file: str) -> StoreFault:
    return StoreFault(
        f"snapshot {name} is damaged: {place}/{name}/{file} is not what was written; `dermanet snapshot` writes it anew while the "
        "catalogue still says the same, else put it back from a backup, or remove its folder where nothing needs it"
    )


def _csv(records: Sequence[Record], sides: Mapping[str, str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({"side": side_of(record.labels.lesion_id, sides), **record.as_row()})
    return text.getvalue()


def _record(row: dict[str, str]) -> Record:
    # A column that an older snapshot has not is empty.
    labels: dict[str, Any] = {field.name: row.get(field.name, "") for field in fields(Labels)}
    labels["age"] = float(row["age"]) if row["age"] else None
    return Record(row["digest"], row["image_id"], Labels(**labels))


def _manifest(name: str, records: Sequence[Record], taxonomy: Taxonomy, sides: Mapping[str, str]) -> dict[str, Any]:
    return {
        "snapshot": name,
        "images": len(records),
        "lesions": len({record.labels.lesion_id for record in records}),
        "sides": Counter(side_of(record.labels.lesion_id, sides) for record in records),
        "lesions_by_side": _strata(records, sides),
        "diagnoses": Counter(record.labels.diagnosis for record in records),
        "holdout": holdout_digest(records, sides),
        "split": SALT,
        "taxonomy": taxonomy.as_list(),
    }


def _strata(records: Sequence[Record], sides: Mapping[str, str]) -> dict[str, dict[str, Counter[str]]]:
    """How many lesions of each diagnosis and of each sex every side has."""
    lesions = {record.labels.lesion_id: record.labels for record in records}
    return {
        side: {
            what: Counter(getattr(one, what) for lesion, one in lesions.items() if side_of(lesion, sides) == side)
            for what in ("diagnosis", "sex")
        }
        for side in SIDES
    }
