"""Ingest: bad records are refused with their reasons and the good go on; repeated, it changes nothing."""

import hashlib
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path, PurePosixPath

import boto3
import cv2
import pytest
import samples
from storeroom import Installation, dump

from dermanet import settings, stages, taxonomy
from dermanet.errors import BadInput, DermaNetError
from dermanet.imagefile import Header
from dermanet.intake import ingest as room
from dermanet.intake import snapshots
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.forgetting import forget
from dermanet.intake.imagefiles import ImageFiles
from dermanet.intake.ingest import Outcome, ingest
from dermanet.intake.sources import open_source
from dermanet.intake.stored import object_name
from dermanet.storage import Bucket, Folder, place

BAD_ROWS = {
    "ISIC_0000001": ({"dx": "scc"}, "unknown diagnosis"),
    "ISIC_0000002": ({"age": "-3"}, "impossible age"),
    "ISIC_0000003": ({"age": "400"}, "impossible age"),
    "ISIC_0000004": ({"age": "forty"}, "impossible age"),
    "ISIC_0000005": ({"sex": "M"}, "unknown sex"),
    "ISIC_0000006": ({"sex": " female "}, "unknown sex"),
    "../../ISIC_0000007": ({"image_id": "../../ISIC_0000007"}, "unsafe image id"),
    "ISIC_0000008": ({"lesion_id": ""}, "missing lesion id"),
}
BAD_FILES = {
    "ISIC_0000013": (samples.UNFIT["empty file"], "empty file"),
    "ISIC_0000014": (samples.UNFIT["too large"], "too large"),
    "ISIC_0000015": (samples.huge_png(), "too large"),
    "ISIC_0000016": (None, "missing image"),
    "ISIC_0000017": (samples.jpeg(0), "duplicate bytes"),
    **{f"ISIC_{20 + place:07d}": (data, reason) for place, (reason, data) in enumerate(samples.UNFIT.items())},
}
STRAY = f"{samples.PARTS[0]}/ISIC_0000099.jpg"
EXPECTED = {
    **{name: reason for name, (_, reason) in BAD_ROWS.items()},
    **{name: reason for name, (_, reason) in BAD_FILES.items()},
    "ISIC_0000009 (row 2 of this name)": "duplicate row", "ISIC_0000009 (row 3 of this name)": "duplicate row",
    STRAY: "image without a row", f"{samples.PARTS[1]}/ISIC_0000007.jpg": "image without a row",
}  # fmt: skip
COUNT = 20 + len(samples.UNFIT)
GOOD = COUNT - len(BAD_ROWS) - len(BAD_FILES)


@pytest.fixture
def mixed(ham10000: Callable[..., Path]) -> Path:
    """Rows of which seven are good, and a file without a row."""
    files = {f"{name}.jpg": data for name, (data, _) in BAD_FILES.items()}
    rows = {int(name[-7:]): changes for name, (changes, _) in BAD_ROWS.items()}
    rows |= {17: {"dx": samples.CODES[0]}}
    folder = ham10000(
        COUNT, rows=rows, files=files, extra=[samples.ham10000_row(9), samples.ham10000_row(9, sex="male")]
    )
    (folder / STRAY).write_bytes(samples.jpeg(99))
    return folder


def test_every_bad_record_is_refused_with_its_reason_while_the_good_go_on(here: Installation, mixed: Path) -> None:
    outcome = here.ingest(mixed)
    assert here.refused() == EXPECTED
    assert outcome == Outcome(accepted=GOOD, quarantined=Counter(EXPECTED.values()))
    assert sorted(record.image_id for record in here.catalogue.records()) == [
        "ISIC_0000000", "ISIC_0000009", "ISIC_0000010", "ISIC_0000011", "ISIC_0000012", "ISIC_0000018", "ISIC_0000019",
    ]  # fmt: skip


def test_a_refusal_says_what_was_seen_and_what_is_allowed(here: Installation, mixed: Path) -> None:
    here.ingest(mixed)
    details = {refusal.name: refusal.detail for _, refusal in here.catalogue.refusals()}
    assert "'forty'" in details["ISIC_0000004"] and "0 to 120" in details["ISIC_0000004"]
    assert "' female '" in details["ISIC_0000006"] and "ISIC_0000000" in details["ISIC_0000017"]
    assert "60000x60000" in details["ISIC_0000014"]
    assert all(text and "\n" not in text for text in details.values())


def test_an_accepted_record_has_its_labels_and_its_very_bytes(here: Installation, mixed: Path) -> None:
    here.ingest(mixed)
    found = {record.image_id: record for record in here.catalogue.records()}["ISIC_0000010"]
    assert asdict(found.labels) == {
        "lesion_id": "HAM_0000010", "diagnosis": "df", "age": 50.0, "sex": "male", "localization": "back",
        "confirmation": "histo", "clinic": "", "patient_id": "",
    }  # fmt: skip
    assert here.objects.read(object_name(found.digest)) == samples.jpeg(10)
    assert set(here.objects.listing()) >= {object_name(record.digest) for record in here.catalogue.records()}


def test_an_id_that_leaves_its_folder_writes_nothing_outside(here: Installation, mixed: Path) -> None:
    before = {path for path in mixed.parent.rglob("*") if here.folder not in path.parents}
    here.ingest(mixed)
    after = {path for path in mixed.parent.rglob("*") if here.folder not in path.parents}
    assert after - before == {here.folder}


def test_a_second_ingest_says_known_and_changes_nothing(here: Installation, mixed: Path) -> None:
    here.ingest(mixed)
    before = dump(here)
    assert here.ingest(mixed) == Outcome(known=GOOD, quarantined=Counter(EXPECTED.values()))
    assert dump(here) == before


def test_a_mended_record_is_taken_in_and_its_refusal_forgotten(here: Installation, mixed: Path) -> None:
    here.ingest(mixed)
    (mixed / samples.PARTS[1] / "ISIC_0000013.jpg").write_bytes(samples.jpeg(13))
    label_file = mixed / "HAM10000_metadata.csv"
    lines = label_file.read_text().splitlines()[:-2]
    label_file.write_text("\n".join(lines).replace(",forty,", ",40,"))
    outcome = here.ingest(mixed)
    assert (outcome.accepted, outcome.known) == (2, GOOD)
    mended = {"ISIC_0000004", "ISIC_0000013", *(name for name in EXPECTED if "(row" in name)}
    assert here.refused() == {name: reason for name, reason in EXPECTED.items() if name not in mended}


def test_refusals_of_another_source_are_left_alone(here: Installation, mixed: Path, tmp_path: Path) -> None:
    here.ingest(mixed)
    here.ingest(samples.ham10000(tmp_path / "second", 3, rows={1: {"sex": "M"}}))
    assert Counter(source for source, _ in here.catalogue.refusals()) == {
        f"{mixed}/HAM10000_metadata.csv": len(EXPECTED), f"{tmp_path}/second/HAM10000_metadata.csv": 1,
    }  # fmt: skip


def test_corrected_labels_make_a_revision_and_an_old_snapshot_reads_as_it_was(
    here: Installation, ham10000: Callable[..., Path]
) -> None:
    here.ingest(ham10000(6))
    kept = Folder(here.folder / "snapshots")
    old = snapshots.freeze(here.catalogue.records(), taxonomy.load(), kept)
    outcome = here.ingest(ham10000(6, rows={2: {"dx": "mel"}, 3: {"age": ""}}))
    assert (outcome.accepted, outcome.known, outcome.corrected) == (0, 4, 2)
    new = snapshots.freeze(here.catalogue.records(), taxonomy.load(), kept)
    assert new.id != old.id
    assert snapshots.read(old.id, kept) == old and snapshots.read(new.id, kept) == new
    labels = [{r.image_id: r.labels for r in frozen.records} for frozen in (old, new)]
    assert [found["ISIC_0000002"].diagnosis for found in labels] == ["bkl", "mel"]
    assert [found["ISIC_0000003"].age for found in labels] == [43.0, None]
    assert len(dump(here)["labels"]) == 8 and len(dump(here)["images"]) == 6


def test_a_correction_taken_back_is_a_third_revision(here: Installation, ham10000: Callable[..., Path]) -> None:
    here.ingest(ham10000(2))
    first = here.catalogue.records()
    here.ingest(ham10000(2, rows={0: {"sex": "female"}}))
    assert here.ingest(ham10000(2)).corrected == 1
    assert here.catalogue.records() == first
    revisions = [row[1:3] for row in dump(here)["labels"] if row[2] == "ISIC_0000000"]
    assert revisions == [(revision, "ISIC_0000000") for revision in (1, 2, 3)]


def test_a_row_that_turned_bad_leaves_the_labels_that_were_good(
    here: Installation, ham10000: Callable[..., Path]
) -> None:
    here.ingest(ham10000(2))
    before = here.catalogue.records()
    outcome = here.ingest(ham10000(2, rows={0: {"dx": "scc"}}))
    assert (outcome.known, outcome.quarantined) == (1, Counter({"unknown diagnosis": 1}))
    assert here.catalogue.records() == before


@pytest.mark.parametrize(
    ("name", "column", "word"), [("I1.tif", "image_id", "I1"), ("day 1/I1.TIFF", "image", "day 1/I1.TIFF")]
)
def test_a_picture_of_another_format_is_refused_for_what_it_is_and_kept(
    here: Installation, tmp_path: Path, name: str, column: str, word: str
) -> None:
    data = cv2.imencode(".tif", samples.pixels(1))[1].tobytes()
    path = tmp_path / "set" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    (tmp_path / "set/labels.csv").write_text(f"{column},lesion_id,age,sex,dx\n{word},L1,30,male,nv\n")
    here.ingest(tmp_path / "set")
    ((_, found),) = here.catalogue.refusals()
    assert (found.name, found.reason, "looks like TIFF" in found.detail) == ("I1", "not an image", True)
    assert found.file == hashlib.sha256(data).hexdigest()


def test_rows_without_an_id_are_refused_one_by_one(here: Installation, ham10000: Callable[..., Path]) -> None:
    outcome = here.ingest(ham10000(5, rows={1: {"image_id": ""}, 2: {"image_id": ""}, 3: {"image_id": ""}}))
    assert outcome.quarantined == {"missing image id": 3, "image without a row": 3}
    assert Counter(here.refused().values()) == outcome.quarantined


def test_a_file_whose_name_is_no_text_is_refused_and_the_rest_goes_on(
    here: Installation, ham10000: Callable[..., Path]
) -> None:
    folder = ham10000(2)
    (folder / os.fsdecode(b"f\xfcr Anna.jpg")).write_bytes(samples.jpeg(9))
    outcome = here.ingest(folder)
    assert (outcome.accepted, outcome.quarantined) == (2, Counter({"image without a row": 1}))
    assert list(here.refused()) == ["f\\udcfcr Anna.jpg"]


def test_a_file_name_no_place_reads_is_refused_and_the_rest_goes_on(here: Installation, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "day\\1").mkdir(parents=True)
    for name in ("day\\1/a.jpg", "b.jpg"):
        (folder / name).write_bytes(samples.jpeg(len(name)))
    (folder / "labels.csv").write_text("image,lesion_id,age,sex,dx\nday\\1/a.jpg,L1,30,male,nv\nb.jpg,L2,30,male,nv\n")
    outcome = here.ingest(folder)
    assert (outcome.accepted, outcome.quarantined) == (1, Counter({"unreadable file": 1}))


def test_a_file_that_vanishes_while_it_is_read_is_refused(here: Installation, ham10000: Callable[..., Path]) -> None:
    folder = ham10000(3)
    source = open_source(str(folder))
    (folder / samples.PARTS[1] / "ISIC_0000001.jpg").unlink()
    outcome = ingest(source, here.catalogue, here.objects, taxonomy.load())
    assert (outcome.accepted, outcome.quarantined) == (2, Counter({"unreadable file": 1}))


def test_a_label_file_without_rows_is_refused(here: Installation, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/labels.csv").write_text("image_id,lesion_id,age,sex,dx\n")
    with pytest.raises(BadInput, match="has no rows"):
        here.ingest(tmp_path / "empty")


def test_of_files_that_are_the_same_the_first_row_s_is_taken_in(
    here: Installation, ham10000: Callable[..., Path]
) -> None:
    same = samples.jpeg(3)
    here.ingest(ham10000(40, files={f"ISIC_{number:07d}.jpg": same for number in range(10, 40, 7)}))
    assert {name: here.refused()[name] for name in here.refused()} == {
        f"ISIC_{number:07d}": "duplicate bytes" for number in range(10, 40, 7)
    }


def test_an_image_is_stored_without_its_metadata_and_its_original_is_known(
    here: Installation, ham10000: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = samples.jpeg(1)
    marked = plain[:2] + b"\xff\xe1\x00\x11Exif\0\0Anna Must" + plain[2:]
    folder = ham10000(2, files={"ISIC_0000001.jpg": marked})
    assert here.ingest(folder).accepted == 2
    found = {record.image_id: record.digest for record in here.catalogue.records()}["ISIC_0000001"]
    assert here.objects.read(object_name(found)) == plain and found == hashlib.sha256(plain).hexdigest()
    assert here.catalogue.known(hashlib.sha256(marked).hexdigest()) == (found, Header("jpeg", 64, 48))
    with monkeypatch.context() as patch:
        patch.setattr(room, "check_image", lambda *args: pytest.fail("it is not decoded again"))
        assert here.ingest(folder).known == 2
    twins = {"ISIC_0000001.jpg": marked, "ISIC_0000002.jpg": plain}
    outcome = here.ingest(ham10000(3, rows={2: {"dx": "bcc"}}, files=twins))
    assert (outcome.known, outcome.quarantined) == (2, Counter({"duplicate bytes": 1}))
    here.objects.remove(object_name(found))
    here.ingest(folder)
    assert here.objects.read(object_name(found)) == plain


def test_images_in_a_bucket_are_kept_in_a_bucket(
    here: Installation, ham10000: Callable[..., Path], bucket: str
) -> None:
    folder = ham10000(4)
    there = place(f"{bucket}/incoming")
    for path in folder.rglob("*.*"):
        there.write(path.relative_to(folder).as_posix(), path.read_bytes())
    store = place(f"{bucket}/objects")
    outcome = ingest(open_source(f"{bucket}/incoming"), here.catalogue, store, taxonomy.load())
    assert outcome == Outcome(accepted=4)
    assert list(store.listing()) == [object_name(record.digest) for record in here.catalogue.records()]


@pytest.fixture
def incoming(ham10000: Callable[..., Path], bucket: str) -> str:
    """Four good images in a bucket, as a source."""
    folder, there = ham10000(4), place(f"{bucket}/incoming")
    for path in folder.rglob("*.*"):
        there.write(path.relative_to(folder).as_posix(), path.read_bytes())
    return f"{bucket}/incoming"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the image files that are fetched from now on."""
    seen: list[str] = []
    whole = ImageFiles._one
    monkeypatch.setattr(
        ImageFiles, "_one", lambda files, file: (seen.append(PurePosixPath(file).stem), whole(files, file))[1]
    )
    return seen


def test_what_is_known_by_its_server_s_word_is_not_fetched_again(
    here: Installation, incoming: str, fetched: list[str]
) -> None:
    everything = [f"ISIC_000000{number}" for number in range(4)]
    assert here.ingest(incoming).accepted == 4 and sorted(fetched) == everything
    before = dump(here)
    fetched.clear()
    assert here.ingest(incoming) == Outcome(known=4) and (fetched, dump(here)) == ([], before)
    there = place(incoming)
    (name,) = (name for name in there.listing() if name.endswith("ISIC_0000001.jpg"))
    there.write(name, samples.jpeg(40))
    assert here.ingest(incoming) == Outcome(accepted=1, known=3) and fetched == ["ISIC_0000001"]


def test_labels_corrected_in_a_bucket_need_no_image_to_be_fetched(
    here: Installation, incoming: str, fetched: list[str]
) -> None:
    here.ingest(incoming)
    fetched.clear()
    there = place(incoming)
    (labels,) = (name for name in there.listing() if name.endswith(".csv"))
    there.write(labels, there.read(labels).replace(b",male,", b",female,"))
    outcome = here.ingest(incoming)
    assert (outcome.corrected > 0, outcome.corrected + outcome.known, fetched) == (True, 4, [])


def test_a_stored_image_that_is_missing_is_fetched_and_a_forgotten_one_is_refused(
    here: Installation, incoming: str, fetched: list[str]
) -> None:
    here.ingest(incoming)
    records = {record.image_id: record for record in here.catalogue.records()}
    here.objects.remove(object_name(records["ISIC_0000002"].digest))
    fetched.clear()
    assert here.ingest(incoming).known == 4 and fetched == ["ISIC_0000002"]
    assert here.objects.exists(object_name(records["ISIC_0000002"].digest))
    forget(records["ISIC_0000003"].labels.lesion_id, here.catalogue, here.objects)
    assert here.ingest(incoming).quarantined["forgotten"] > 0


def test_a_word_that_is_not_the_bytes_md5_is_not_kept(
    here: Installation, incoming: str, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As of an object that was replaced after it had been listed, or that is encrypted by a key of its owner's.
    monkeypatch.setattr(ImageFiles, "md5", lambda files, file: "0" * 32)
    assert here.ingest(incoming).accepted == 4 and here.ingest(incoming).known == 4
    assert len(fetched) == 8 and not here.catalogue.md5s().size


def test_an_object_that_came_in_parts_is_read_each_time(here: Installation, incoming: str, fetched: list[str]) -> None:
    there = Bucket(incoming)
    (name,) = (name for name in there.listing() if name.endswith("ISIC_0000001.jpg"))
    key, client = {"Bucket": there.bucket, "Key": there.prefix + name}, boto3.client("s3")
    upload = client.create_multipart_upload(**key)["UploadId"]
    part = client.upload_part(**key, UploadId=upload, PartNumber=1, Body=samples.jpeg(1))["ETag"]
    whole = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    client.complete_multipart_upload(**key, UploadId=upload, MultipartUpload=whole)
    assert there.survey()[name].etag.endswith("-1") and here.ingest(incoming).accepted == 4
    fetched.clear()
    assert here.ingest(incoming).known == 4 and fetched == ["ISIC_0000001"]


def test_of_two_files_of_one_name_both_are_read(here: Installation, incoming: str, fetched: list[str]) -> None:
    here.ingest(incoming)
    fetched.clear()
    place(incoming).write("copies/ISIC_0000001.jpg", samples.jpeg(41))
    outcome = here.ingest(incoming)
    assert outcome.quarantined == Counter({"ambiguous file": 1}) and set(fetched) == {"ISIC_0000001"}


def test_a_disk_that_fills_up_is_one_line_and_all_is_there_once_there_is_room(
    small_disk: Path, home: Path, ham10000: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
    monkeypatch.setenv("DERMANET_HOME", str(small_disk / "home"))
    folder = ham10000(40, files={f"ISIC_{n:07d}.jpg": samples.jpeg(n, width=450, height=300) for n in range(40)})
    with pytest.raises(DermaNetError, match=r"no space left while .* was taken in; make room where images") as caught:
        stages.ingest(str(folder))
    assert "\n" not in str(caught.value) and caught.value.exit_status == 1
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    done = stages.ingest(str(folder))
    assert (
        done["accepted"] + done["known"],
        done["quarantined"],
        len(Catalogue(settings.read().catalogue).records()),
    ) == (40, {}, 40)
