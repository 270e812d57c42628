"""What a source reads: its label file as one copy, its image files by name, and neither more of them than is needed."""

import csv
import errno
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import samples

from dermanet.errors import BadInput, DermaNetError, UnreadableImage
from dermanet.imagefile import MOST_BYTES
from dermanet.intake import imagefiles
from dermanet.intake.labelfile import LONGEST_LINE, LabelFile
from dermanet.intake.sources import header, open_source
from dermanet.records import Refusal, Row
from dermanet.storage import Folder, place
from dermanet.transfer import CHUNK

ROW = "I{0},L{0},{1},male,nv,\N{LATIN SMALL LETTER U WITH DIAERESIS}ber\n"


@pytest.fixture
def label_file(tmp_path: Path) -> Path:
    """A label file of several chunks, its characters and lines across their edges."""
    path = tmp_path / "labels.csv"
    body = "".join(ROW.format(number, number % 90) for number in range(2 * CHUNK // 20))
    path.write_text("image_id,lesion_id,age,sex,dx,localization\n" + body, encoding="utf-8")
    assert path.stat().st_size > 2 * CHUNK
    return path


def test_a_label_file_of_several_chunks_reads_as_csv_reads_it(label_file: Path) -> None:
    with label_file.open(newline="", encoding="utf-8") as file:
        assert list(LabelFile(Folder(label_file.parent), "labels.csv").rows()) == list(csv.DictReader(file))


def test_every_reading_is_of_the_same_copy_whatever_is_written_meanwhile(label_file: Path) -> None:
    labels = LabelFile(Folder(label_file.parent), "labels.csv")
    digest, first = labels.digest, labels.rows()
    head = [next(first) for _ in range(3)]
    label_file.write_text("image_id\nother\n")
    second = labels.rows()
    assert [next(second) for _ in range(3)] == head
    assert sum(1 for _ in first) == sum(1 for _ in second) == 2 * CHUNK // 20 - 3
    assert labels.digest == digest != LabelFile(Folder(label_file.parent), "labels.csv").digest


def test_the_copy_has_no_name_and_is_closed_with_its_label_file(label_file: Path) -> None:
    def copies() -> list[str]:
        links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        return [os.readlink(link) for link in links if link.is_symlink() and "(deleted)" in os.readlink(link)]

    before = copies()
    labels = LabelFile(Folder(label_file.parent), "labels.csv")
    next(labels.rows())
    assert len(copies()) == len(before) + 1
    del labels
    gc.collect()
    assert copies() == before


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (b'I9,L9,30,male,nv,"' + b"lost, " * 30_000, "field larger than field limit"),
        (b"x," * LONGEST_LINE, "longer than 1,048,576 characters"),
        (b"I9,L9,30,male,nv,\xfcber\n", "byte {size} is not UTF-8"),
        (b"I9,L9,30,male,nv,\xc3", "byte {size} is not UTF-8"),
        (
            b'I9,L9,30,male,nv,"never closed\n' + b"I1,L1,30,male,nv,back\n" * 3,
            "unexpected end of data; correct the line",
        ),
        (b'I9,L9,30,male,nv,"closed"early\n', "expected after '\"'; correct the line"),
    ],
)
def test_what_is_wrong_at_the_end_refuses_the_file_before_its_first_row(
    label_file: Path, end: bytes, said: str
) -> None:
    size = label_file.stat().st_size + len(b"I9,L9,30,male,nv,")
    with label_file.open("ab") as file:
        file.write(end)
    with pytest.raises(BadInput, match=said.format(size=size)) as caught:
        next(LabelFile(Folder(label_file.parent), "labels.csv").rows())
    assert "\n" not in str(caught.value)


def test_a_row_with_too_few_or_too_many_cells_says_so_and_empty_ones_at_its_end_do_not_count(tmp_path: Path) -> None:
    text = "image_id,lesion_id,dx\nI1,L1,nv\nI2,L2\n\nI3,L3,nv,more\nI4,L4,nv,,\n"
    (tmp_path / "labels.csv").write_text(text)
    faults = [line.fault[:40] for line in LabelFile(Folder(tmp_path), "labels.csv").rows()]
    assert faults == ["", "line 3 has 2 cells and the header 3; lea", "line 5 has 4 cells and the header 3; lea", ""]


def test_empty_lines_before_the_columns_and_rows_of_empty_cells_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("\n,,\nimage_id,lesion_id,dx\n,,\nI1,L1,nv\n,,\n,,,,\n\n")
    assert header(Folder(tmp_path), "labels.csv") == ("image_id", "lesion_id", "dx")
    assert [line["image_id"] for line in LabelFile(Folder(tmp_path), "labels.csv").rows()] == ["I1"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image_id,lesion_id,dx,age,sex,Age\nI1,L1,nv,40,male,70\n")
    with pytest.raises(BadInput, match="two columns called 'age'"):
        open_source(str(tmp_path))
    with pytest.raises(BadInput, match="two columns called 'age'"):
        next(LabelFile(Folder(tmp_path), "labels.csv").rows())


def test_a_label_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"{tmp_path}/labels.csv cannot be read: No such file"):
        LabelFile(Folder(tmp_path), "labels.csv").digest  # noqa: B018


def test_a_label_file_that_may_not_be_opened_is_named_and_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.csv").write_text("image_id,lesion_id,dx,age,sex\n")

    def denied(self: Folder, name: str, size: int) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    # An administrator, as whom tests may run, may read every file.
    monkeypatch.setattr(Folder, "start", denied)
    with pytest.raises(BadInput, match=r"labels.csv cannot be read: Permission denied"):
        open_source(str(tmp_path))


def test_a_copy_that_finds_no_room_is_no_fault_of_the_label_file(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.csv").write_text("image_id,lesion_id,dx,age,sex\n" + "I1,L1,nv,40,male\n" * 100_000)
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with pytest.raises(DermaNetError, match=f"no space left for a copy of labels.csv in {small_disk}") as caught:
        LabelFile(Folder(tmp_path), "labels.csv").digest  # noqa: B018
    assert caught.value.exit_status == 1


def rows(folder: Path) -> Iterator[Row | Refusal]:
    return open_source(str(folder)).rows()


def twin(folder: Path, name: str, data: bytes) -> None:
    (folder / "again").mkdir(exist_ok=True)
    (folder / "again" / name).write_bytes(data)


def test_the_same_file_in_two_folders_is_one_image(ham10000: Callable[..., Path]) -> None:
    folder = ham10000(3)
    twin(folder, "ISIC_0000001.jpg", samples.jpeg(1))
    source = open_source(str(folder))
    assert not [row for row in source.rows() if isinstance(row, Refusal)]
    assert [source.read(str(row.image)) for row in source.rows() if isinstance(row, Row)] == [
        samples.jpeg(n) for n in range(3)
    ]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("ISIC_0000001.jpg", samples.jpeg(8)),
        ("ISIC_0000001.jpg", samples.jpeg(1)[:-1] + b"\0"),
        ("ISIC_0000001.png", samples.png(samples.pixels(1))),
    ],
    ids=["another size", "another byte", "another format"],
)
def test_of_two_files_of_one_name_none_is_taken_and_both_are_named(
    ham10000: Callable[..., Path], name: str, data: bytes
) -> None:
    folder = ham10000(3)
    twin(folder, name, data)
    source = open_source(str(folder))
    images = [row.image for row in source.rows() if isinstance(row, Row)]
    with pytest.raises(UnreadableImage) as caught:
        source.read(str(images[1]))
    assert caught.value.reason == imagefiles.AMBIGUOUS
    assert f"again/{name}" in str(caught.value) and f"{samples.PARTS[1]}/ISIC_0000001.jpg" in str(caught.value)
    assert source.read(str(images[0])) == samples.jpeg(0)


def test_every_file_that_no_row_names_is_refused_also_where_two_have_one_name(ham10000: Callable[..., Path]) -> None:
    folder = ham10000(2, files={"ISIC_0000077.jpg": samples.jpeg(77)})
    twin(folder, "ISIC_0000077.jpg", samples.jpeg(77))
    names = [row.name for row in rows(folder) if isinstance(row, Refusal)]
    assert names == [f"{samples.PARTS[0]}/ISIC_0000077.jpg", "again/ISIC_0000077.jpg"]


@pytest.mark.parametrize("somewhere", ["folder", "bucket"])
def test_a_file_that_the_listing_says_is_too_large_is_not_read(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, somewhere: str
) -> None:
    text = str(tmp_path / "set") if somewhere == "folder" else request.getfixturevalue("bucket")
    there = place(text)
    monkeypatch.setattr(imagefiles, "MOST_BYTES", 5000)
    there.write("labels.csv", b"image,lesion_id,age,sex,dx\na.jpg,L1,30,male,nv\n")
    there.write("a.jpg", bytes(5001))
    source = open_source(text)
    monkeypatch.setattr(type(there), "start", lambda *args: pytest.fail("not a byte of it is read"))
    with pytest.raises(UnreadableImage, match="too large: 5,001 bytes; at most 5,000"):
        source.read("a.jpg")


def test_a_file_that_grew_since_it_was_listed_is_read_no_further_than_that(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,lesion_id,age,sex,dx\na.jpg,L1,30,male,nv\n")
    (tmp_path / "a.jpg").write_bytes(b"small")
    source = open_source(str(tmp_path))
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(3 * MOST_BYTES)
    assert len(source.read("a.jpg")) == MOST_BYTES + 1
