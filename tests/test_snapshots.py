"""Snapshots: named by their content, never changed, read as they were written."""

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dermanet import taxonomy
from dermanet.errors import BadInput, StoreFault
from dermanet.intake import snapshots
from dermanet.records import SEXES, Labels, Record
from dermanet.split import SALT, holdout_digest, side
from dermanet.storage import Folder

LIST = taxonomy.load()
RECORDS = [samples.record(number, lesion_id=f"L{number // 2}") for number in range(60)]

# What screening lets through: one line of printable text.
words = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), max_size=12)
some_labels = st.builds(
    Labels, st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True), st.sampled_from(LIST.codes),
    st.none() | st.floats(0, 120), st.sampled_from(SEXES), words, words, words,
)  # fmt: skip
some_records = st.lists(
    st.builds(Record, st.from_regex(r"[0-9a-f]{64}", fullmatch=True), words, some_labels),
    min_size=1, max_size=8, unique_by=lambda record: record.digest,
)  # fmt: skip


@pytest.fixture
def kept(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "snapshots")


def test_a_snapshot_is_read_as_it_was_frozen(kept: Folder) -> None:
    frozen = snapshots.freeze(RECORDS, LIST, kept)
    assert snapshots.read(frozen.id, kept) == frozen
    assert sorted(frozen.records, key=lambda r: r.digest) == sorted(RECORDS, key=lambda r: r.digest)
    assert frozen.holdout_digest == holdout_digest(RECORDS, {}) and frozen.taxonomy == LIST


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=some_records)
def test_any_labels_come_back_as_they_were(kept: Folder, records: list[Record]) -> None:
    frozen = snapshots.freeze(records, LIST, kept)
    assert sorted(frozen.records, key=lambda r: r.digest) == sorted(records, key=lambda r: r.digest)


def test_all_images_of_a_lesion_are_on_its_side(kept: Folder) -> None:
    frozen = snapshots.freeze(RECORDS, LIST, kept)
    for name in ("train", "validation", "holdout"):
        found = getattr(frozen, name)
        assert found and {side(record.labels.lesion_id) for record in found} == {name}


def test_the_same_records_give_the_same_snapshot_in_any_order(kept: Folder, tmp_path: Path) -> None:
    shuffled = random.Random(3).sample(RECORDS, len(RECORDS))
    first = snapshots.freeze(RECORDS, LIST, kept)
    assert snapshots.freeze(shuffled, LIST, Folder(tmp_path / "elsewhere")) == first
    assert snapshots.freeze(shuffled, LIST, kept) == first and len(kept.listing()) == 2


def test_freezing_again_writes_nothing(kept: Folder) -> None:
    frozen = snapshots.freeze(RECORDS, LIST, kept)
    files = [kept.root / name for name in kept.listing()]
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    snapshots.freeze(RECORDS, LIST, kept)
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before
    assert {file.parent.name for file in files} == {frozen.id}


@pytest.mark.parametrize(
    "change", [{"age": 51.0}, {"age": None}, {"sex": "male"}, {"lesion_id": "L999"}, {"clinic": "b"}]
)
def test_every_label_counts_in_the_id(kept: Folder, change: dict[str, object]) -> None:
    other = dataclasses.replace(RECORDS[5], labels=dataclasses.replace(RECORDS[5].labels, **change))
    first = snapshots.freeze(RECORDS, LIST, kept)
    second = snapshots.freeze([*RECORDS[:5], other, *RECORDS[6:]], LIST, kept)
    assert first.id != second.id and snapshots.read(first.id, kept) == first


def test_new_lesions_leave_the_old_ones_on_their_sides(kept: Folder) -> None:
    first, second = snapshots.freeze(RECORDS[:30], LIST, kept), snapshots.freeze(RECORDS, LIST, kept)
    for name in ("train", "validation", "holdout"):
        assert set(getattr(first, name)) <= set(getattr(second, name))


def test_another_list_of_diagnoses_is_another_snapshot_and_leaves_out_what_it_does_not_know(kept: Folder) -> None:
    two = taxonomy.parse([{"code": "nv"}, {"code": "mel"}], "of this test")
    frozen = snapshots.freeze(RECORDS, two, kept)
    assert {record.labels.diagnosis for record in frozen.records} == {"nv", "mel"}
    assert snapshots.read(frozen.id, kept).taxonomy == two
    only_known = [record for record in RECORDS if record.labels.diagnosis in two.codes]
    assert snapshots.freeze(only_known, LIST, kept).id != frozen.id


def test_the_manifest_counts_what_is_there(kept: Folder) -> None:
    frozen = snapshots.freeze(RECORDS, LIST, kept)
    manifest = json.loads(kept.read(f"{frozen.id}/manifest.json"))
    assert (manifest["images"], manifest["lesions"], manifest["split"]) == (60, 30, SALT)
    assert manifest["sides"] == {name: len(getattr(frozen, name)) for name in manifest["sides"]}
    assert sum(manifest["diagnoses"].values()) == sum(manifest["sides"].values()) == 60


def test_a_snapshot_whose_manifest_was_never_written_is_written_again(kept: Folder) -> None:
    frozen = snapshots.freeze(RECORDS, LIST, kept)
    (kept.root / frozen.id / "manifest.json").unlink()
    (kept.root / frozen.id / "records.csv").write_bytes(b"half a fi")
    assert snapshots.freeze(RECORDS, LIST, kept) == frozen


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("records.csv", lambda data: b""),
        ("records.csv", lambda data: data.replace(b",nv,", b",mel,", 1)),
        ("records.csv", lambda data: data[: len(data) // 2]),
        ("records.csv", lambda data: data.replace(b"female", b"\xff\xfe", 1)),
        ("manifest.json", lambda data: b""),
        ("manifest.json", lambda data: b"[]"),
        ("manifest.json", lambda data: data.replace(b'"taxonomy"', b'"taxonomx"')),
        ("manifest.json", lambda data: data.replace(b'"nv"', b'"nw"')),
    ],
)
def test_a_snapshot_that_is_not_what_was_written_is_named_and_written_anew(
    kept: Folder, file: str, damage: Callable[[bytes], bytes]
) -> None:
    frozen = snapshots.freeze(RECORDS, LIST, kept)
    path = kept.root / frozen.id / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreFault, match="`dermanet snapshot` writes it anew") as caught:
        snapshots.read(frozen.id, kept)
    assert frozen.id in str(caught.value) and "\n" not in str(caught.value)
    assert snapshots.every(kept) == []
    assert snapshots.freeze(RECORDS, LIST, kept) == frozen == snapshots.read(frozen.id, kept)


def test_nothing_to_freeze_is_refused(kept: Folder) -> None:
    for records in ([], [samples.record(1, diagnosis="scc")]):
        with pytest.raises(BadInput, match="ingest some first"):
            snapshots.freeze(records, LIST, kept)
    assert not kept.root.exists()


@pytest.mark.parametrize("name", ["0123456789abcdef", "", "../../etc"])
def test_a_snapshot_that_is_not_there_is_refused_in_one_line(kept: Folder, name: str) -> None:
    with pytest.raises(BadInput) as caught:
        snapshots.read(name, kept)
    assert "\n" not in str(caught.value)
