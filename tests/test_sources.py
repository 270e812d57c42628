"""Sources: each layout is told from its files, gives the same kind of rows, and a wrong whole is refused in one line."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import samples

from dermanet.errors import BadInput, UnreadableImage
from dermanet.imagefile import decode
from dermanet.intake.inbox import inbox
from dermanet.intake.sources import Source, open_source
from dermanet.intake.synthetic import SyntheticSource
from dermanet.records import NAME, Refusal, Row
from dermanet.storage import place

TRUTH = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n"


def rows(source: Source) -> list[Row]:
    return [row for row in source.rows() if isinstance(row, Row)]


def refusals(source: Source) -> list[Refusal]:
    return [row for row in source.rows() if isinstance(row, Refusal)]


def challenge(folder: Path, truth: str = "", groupings: str = "", images: tuple[str, ...] = ()) -> Path:
    (folder / "ISIC2018_Task3_Training_Input").mkdir(parents=True)
    (folder / "ISIC2018_Task3_Training_GroundTruth.csv").write_text(TRUTH + truth)
    if groupings:
        text = f"image,lesion_id,diagnosis_confirm_type\n{groupings}"
        (folder / "ISIC2018_Task3_Training_LesionGroupings.csv").write_text(text)
    for seed, image in enumerate(images):
        (folder / "ISIC2018_Task3_Training_Input" / f"{image}.jpg").write_bytes(samples.jpeg(seed))
    return folder


def test_ham10000_finds_its_images_in_several_folders(ham10000: Callable[..., Path]) -> None:
    source = open_source(str(ham10000(count=5)))
    found = rows(source)
    assert [row.image_id for row in found] == [f"ISIC_{number:07d}" for number in range(5)]
    assert {str(row.image).partition("/")[0] for row in found} == set(samples.PARTS)
    assert found[2] == Row(
        "ISIC_0000002",
        "HAM_0000002",
        "42.0",
        "male",
        "bkl",
        "back",
        "histo",
        "",
        f"{samples.PARTS[0]}/ISIC_0000002.jpg",
    )
    assert [source.read(str(row.image)) for row in found] == [samples.jpeg(number) for number in range(5)]
    assert refusals(source) == []


def test_an_id_may_be_written_with_its_file_s_ending(ham10000: Callable[..., Path]) -> None:
    written = {0: {"image_id": "ISIC_0000000.jpg"}, 1: {"image_id": "ISIC_0000001.JPG"}, 2: {"image_id": "gone.jpg"}}
    first, second, third, _ = rows(open_source(str(ham10000(count=4, rows=written))))
    assert (first.image_id, second.image_id) == ("ISIC_0000000", "ISIC_0000001")
    assert first.image and second.image and third.image is None


def test_the_column_dataset_names_the_clinic(ham10000: Callable[..., Path]) -> None:
    folder = ham10000(count=2)
    samples.write_csv(folder / "HAM10000_metadata.csv", [samples.ham10000_row(0, dataset="vidir_modern")])
    assert rows(open_source(str(folder)))[0].clinic == "vidir_modern"


def test_a_row_without_an_image_has_none_and_an_image_without_a_row_is_refused(ham10000: Callable[..., Path]) -> None:
    source = open_source(str(ham10000(count=3, files={"ISIC_0000001.jpg": None, "ISIC_0000009.jpg": samples.jpeg(9)})))
    assert [row.image is None for row in rows(source)] == [False, True, False]
    (refusal,) = refusals(source)
    assert refusal.name.endswith("/ISIC_0000009.jpg") and refusal.reason == "image without a row"


def test_the_name_of_a_source_is_an_absolute_path(
    ham10000: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ham10000()
    monkeypatch.chdir(folder.parent)
    by_folder, by_file = open_source(folder.name), open_source(f"{folder.name}/HAM10000_metadata.csv")
    assert by_folder.name == by_file.name == f"{folder}/HAM10000_metadata.csv"
    assert list(by_folder.rows()) == list(by_file.rows())


def test_a_source_has_one_name_however_its_path_is_written(
    ham10000: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ham10000()
    (folder.parent / "elsewhere").mkdir()
    monkeypatch.chdir(folder.parent / "elsewhere")
    for text in (
        f"../{folder.name}",
        f"../elsewhere/../{folder.name}/",
        f"{folder}/../{folder.name}/HAM10000_metadata.csv",
    ):
        assert open_source(text).name == f"{folder}/HAM10000_metadata.csv"


def test_a_path_that_goes_up_from_behind_a_link_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "far/away/set").mkdir(parents=True)
    (tmp_path / "far/away/set/set.csv").write_text("image,lesion_id,age,sex,dx\n")
    (tmp_path / "link").symlink_to(tmp_path / "far/away/set")
    assert open_source(f"{tmp_path}/link/../set").name == f"{tmp_path}/link/../set/set.csv"


def test_column_names_may_be_in_capitals_and_behind_a_byte_order_mark(ham10000: Callable[..., Path]) -> None:
    folder = ham10000(count=2)
    label_file = folder / "HAM10000_metadata.csv"
    expected = list(open_source(str(folder)).rows())
    head, _, body = label_file.read_text().partition("\n")
    label_file.write_text(f"{head.upper().replace(',', ' , ')}\n{body}", encoding="utf-8-sig")
    assert list(open_source(str(folder)).rows()) == expected


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_any_system_writes_them(ham10000: Callable[..., Path], end: str) -> None:
    folder = ham10000(count=2)
    label_file = folder / "HAM10000_metadata.csv"
    label_file.write_bytes(label_file.read_bytes().replace(b"\r\n", end.encode()))
    assert [row.sex for row in rows(open_source(str(folder)))] == ["male", "female"]


def test_challenge_files_are_joined_by_image(tmp_path: Path) -> None:
    truth = "ISIC_1,1.0,0.0,0.0,0.0,0.0,0.0,0.0\nISIC_2,0,0,0,0,0,0,1\n"
    groupings = "ISIC_2,HAM_2,single image expert consensus\nISIC_1,HAM_1,histopathology\n"
    source = open_source(str(challenge(tmp_path / "isic", truth, groupings, ("ISIC_1", "ISIC_2", "ISIC_3"))))
    first, second = rows(source)
    assert (first.image_id, first.lesion_id, first.diagnosis) == ("ISIC_1", "HAM_1", "mel")
    assert (first.age, first.sex, first.confirmation) == ("", "", "histopathology")
    assert (second.lesion_id, second.diagnosis) == ("HAM_2", "vasc")
    assert source.read(str(second.image)) == samples.jpeg(1)
    assert [refusal.reason for refusal in refusals(source)] == ["image without a row"]


def test_the_challenge_takes_ages_and_sexes_from_a_further_csv(tmp_path: Path) -> None:
    folder = challenge(tmp_path / "isic", "ISIC_1,0,1,0,0,0,0,0\n", "ISIC_1,HAM_1,follow up\n", ("ISIC_1",))
    (folder / "people.csv").write_text("image,age_approx,sex,anatom_site_general\nISIC_1,55,female,lower extremity\n")
    (found,) = rows(open_source(str(folder)))
    assert (found.age, found.sex, found.localization, found.diagnosis) == ("55", "female", "lower extremity", "nv")


def test_a_truth_that_is_not_one_hot_is_passed_on_for_the_screening_to_name(tmp_path: Path) -> None:
    truth = "ISIC_1,1,1,0,0,0,0,0\nISIC_2,0,0,0,0,0,0,0\nISIC_3,0,1,0,0,0,0,0\n"
    source = open_source(str(challenge(tmp_path / "isic", truth, "ISIC_1,L1,x\nISIC_2,L2,x\n")))
    assert [(row.diagnosis, row.lesion_id) for row in rows(source)] == [("mel+nv", "L1"), ("", "L2"), ("nv", "")]


@pytest.mark.parametrize("column", ["image", "path", "filename"])
def test_a_plain_csv_names_its_images_by_path(tmp_path: Path, column: str) -> None:
    (tmp_path / "clinic/day 1").mkdir(parents=True)
    (tmp_path / "clinic/day 1/a.png").write_bytes(samples.png(samples.pixels(1)))
    (tmp_path / "clinic/b.jpeg").write_bytes(samples.jpeg(2))
    label_file = tmp_path / "clinic" / "labels.csv"
    label_file.write_text(
        f"{column},lesion_id,age,sex,dx\nday 1/a.png,L1,30,male,nv\nb.jpeg,L2,,,melanoma\nc.jpg,L3,1,male,nv\n"
    )
    for text in (label_file.parent, label_file):
        source = open_source(str(text))
        first, second, third = rows(source)
        assert (first.image_id, first.image, first.lesion_id) == ("a", "day 1/a.png", "L1")
        assert (second.image_id, second.age, second.sex, second.diagnosis) == ("b", "", "", "melanoma")
        assert third.image is None
        assert decode(source.read(str(first.image))).shape == (48, 64, 3)


def test_a_plain_csv_one_folder_down_is_found_and_its_paths_start_there(tmp_path: Path) -> None:
    (tmp_path / "batch").mkdir()
    (tmp_path / "batch/a.jpg").write_bytes(samples.jpeg())
    (tmp_path / "batch/labels.csv").write_text("image,lesion_id,age,sex,dx\na.jpg,L1,30,male,nv\n")
    assert rows(open_source(str(tmp_path)))[0].image == "batch/a.jpg"


def test_files_are_called_as_people_call_them_and_ids_are_not(tmp_path: Path) -> None:
    words = ("Photo 1 (2).jpg", "Photo 1 (3).jpg", "_scan.jpg", "λ.jpg", "n" * 140 + ".jpg", "plain-name.jpg")
    for number, word in enumerate(words):
        (tmp_path / word).write_bytes(samples.jpeg(number))
    lines = [f"{word},L{number},30,male,nv" for number, word in enumerate(words)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,lesion_id,age,sex,dx", *lines]))
    source = open_source(str(tmp_path))
    found = list(rows(source))
    assert [row.image for row in found] == list(words) and refusals(source) == []
    ids = [row.image_id for row in found]
    assert all(NAME.fullmatch(one) for one in ids) and len(set(ids)) == len(ids)
    assert [one.rpartition("-")[0] for one in ids] == ["Photo_1_2", "Photo_1_3", "scan", "image", "n" * 80, "plain"]
    assert [row.image_id for row in rows(open_source(str(tmp_path)))] == ids


def test_a_name_is_found_however_its_accents_are_written(tmp_path: Path) -> None:
    one, two = (unicodedata.normalize(form, "été.jpg") for form in ("NFC", "NFD"))
    (tmp_path / two).write_bytes(samples.jpeg())
    (tmp_path / "labels.csv").write_text(f"image,lesion_id,age,sex,dx\n{one},L1,30,male,nv\n")
    source = open_source(str(tmp_path))
    assert [row.image for row in rows(source)] == [two] and refusals(source) == []
    (tmp_path / one).write_bytes(samples.jpeg(1))
    both = open_source(str(tmp_path))
    with pytest.raises(UnreadableImage, match="differ"):
        both.read(str(rows(both)[0].image))


def test_images_that_differ_in_their_ending_alone_are_two(tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    words = ("a.jpg", "a.png", "b.jpg", "day/a.jpg")
    for number, word in enumerate(words):
        (tmp_path / word).write_bytes(samples.jpeg(number))
    lines = [f"{word},L{number},30,male,nv" for number, word in enumerate(words)]
    (tmp_path / "set.csv").write_text("\n".join(["image,lesion_id,age,sex,dx", *lines, ""]))
    found = [(row.image_id, row.image) for row in rows(open_source(str(tmp_path)))]
    assert found == [("a.jpg", "a.jpg"), ("a.png", "a.png"), ("b", "b.jpg"), ("day_a", "day/a.jpg")]


@pytest.mark.parametrize("cell", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg"])
def test_a_path_that_leaves_the_folder_finds_no_image_and_keeps_its_name(tmp_path: Path, cell: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(samples.jpeg())
    (tmp_path / "set").mkdir()
    (tmp_path / "set/labels.csv").write_text(f"image,lesion_id,age,sex,dx\n{cell},L1,30,male,nv\n")
    (found,) = rows(open_source(str(tmp_path / "set")))
    assert found.image is None and found.image_id == cell


def test_a_prefix_of_a_bucket_reads_like_the_folder_it_was_copied_from(
    ham10000: Callable[..., Path], bucket: str
) -> None:
    folder = ham10000(count=4, files={"ISIC_0000003.jpg": None, "x.jpg": samples.jpeg(8)})
    there = place(f"{bucket}/batch")
    for path in folder.rglob("*.*"):
        if path.is_file():
            there.write(path.relative_to(folder).as_posix(), path.read_bytes())
    for url in (f"{bucket}/batch", f"{bucket}/batch/", f"{bucket}/batch/HAM10000_metadata.csv"):
        source, local = open_source(url), open_source(str(folder))
        assert source.name == f"{bucket}/batch/HAM10000_metadata.csv"
        assert list(source.rows()) == list(local.rows())
        assert source.read(str(rows(source)[0].image)) == samples.jpeg(0)


def test_the_synthetic_source_is_named_by_its_options() -> None:
    assert open_source("synthetic:lesions=5,seed=2") == SyntheticSource(5, 2)


def test_the_real_ham10000_is_recognised(real_data: Path) -> None:
    source = open_source(str(real_data / "ham10000"))
    found = rows(source)
    assert len(found) == 10_015 and len({row.lesion_id for row in found}) == 7470
    there = [row for row in found if row.image]
    assert there and decode(source.read(str(there[0].image))).shape == (450, 600, 3)
    assert refusals(source) == []


def test_the_real_challenge_images_are_recognised(real_data: Path) -> None:
    source = open_source(str(real_data / "isic2018_task3"))
    assert rows(source) and all(row.image for row in rows(source))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no CSV file at all"),
        ({"a.csv": "lesion_id,image_id,dx,age\n"}, "lacks the column sex"),
        ({"a.csv": "lesion_id,dx,age,sex\n"}, "lacks the column one of image_id, image"),
        ({"a.csv": "lesion_id,image_id,age\n"}, "lacks the column sex and dx"),
        ({"a.csv": "name,colour\n"}, "a.csv has name, colour"),
        ({"a.csv": ""}, "a.csv has no columns"),
        ({f"{n}.csv": "lesion_id,image_id,dx,age,sex\n" for n in "ab"}, "several label files (a.csv, b.csv)"),
        ({"truth.csv": TRUTH}, "truth.csv without a LesionGroupings CSV"),
        ({"t1.csv": TRUTH, "t2.csv": TRUTH}, "several ground truths (t1.csv, t2.csv)"),
        ({"a.csv": "läsion,image_id,dx,age,sex\n".encode("latin-1")}, "a.csv: byte 1 is not UTF-8"),
        ({"a.csv": "lesion_id,image_id,dx,age,sex\n".encode("utf-16")}, "a.csv: byte 0 is not UTF-8"),
        ({"a.csv": "lesion_id,image_id,dx,age,sex\n".encode("utf-16-le")}, "a.csv is no text"),
        ({"a.csv": "lesion_id;image_id;dx;age;sex\n"}, "a.csv has semicolons between its columns; save it with commas"),
        ({"a.csv": "lesion_id\timage_id\tdx\tage\tsex\n"}, "a.csv has tabs between its columns; save it with commas"),
        ({"a.csv": "sep=,\nlesion_id,image_id,dx,age,sex\n"}, "a.csv begins with a line for spreadsheets, sep=; remove it"),
        ({"a.csv": b"PK\3\4\x14\0\6\0 a workbook\n"}, "a.csv is no text"),
        ({"a.csv": "x" * 200_000}, "a.csv: line 1: field larger than field limit"),
    ],
)  # fmt: skip
def test_a_wrong_folder_is_refused_in_one_line_that_says_why(
    tmp_path: Path, files: dict[str, str | bytes], said: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput) as caught:
        open_source(str(tmp_path))
    assert said in str(caught.value) and str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_csv_that_is_no_label_file_does_not_hide_the_one_that_is(ham10000: Callable[..., Path]) -> None:
    folder = ham10000(count=2)
    (folder / "notes.csv").write_bytes("größe,farbe\n".encode("latin-1"))
    (folder / "summary.csv").write_text("dx,count\nnv,6705\n")
    assert len(rows(open_source(str(folder)))) == 2


def test_two_label_files_are_told_apart_by_naming_one(ham10000: Callable[..., Path]) -> None:
    folder = ham10000(count=3)
    samples.write_csv(folder / "new.csv", [samples.ham10000_row(1)])
    assert len(rows(open_source(f"{folder}/new.csv"))) == 1
    assert len(rows(open_source(f"{folder}/HAM10000_metadata.csv"))) == 3


def test_a_label_file_that_breaks_half_way_is_refused_before_its_first_row(ham10000: Callable[..., Path]) -> None:
    folder = ham10000(count=3)
    with (folder / "HAM10000_metadata.csv").open("a") as file:
        file.write('HAM_9,ISIC_9,nv,"' + "lost, " * 30_000)
    with pytest.raises(BadInput, match=r"HAM10000_metadata.csv: line 5: field larger than field limit"):
        next(iter(open_source(str(folder)).rows()))


@pytest.mark.parametrize(
    "text", ["nowhere", "nowhere/labels.csv", "labels.xlsx", "", "synthetic", "synthetic:lesion=4"]
)
def test_a_source_that_is_nothing_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.xlsx").write_bytes(b"PK")
    with pytest.raises(BadInput) as caught:
        open_source(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", " "])
def test_no_source_is_not_the_folder_where_one_stands(
    ham10000: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(ham10000(count=2))
    with pytest.raises(BadInput, match="the source is empty"):
        open_source(text)


def test_a_label_file_of_a_bucket_may_be_in_capitals(bucket: str) -> None:
    place(bucket).write("a.jpg", samples.jpeg())
    place(bucket).write("META.CSV", b"image,lesion_id,age,sex,dx\na.jpg,L1,30,male,nv\n")
    assert [row.image_id for row in rows(open_source(f"{bucket}/META.CSV"))] == ["a"]


def test_an_empty_prefix_of_a_bucket_is_refused_in_one_line(bucket: str) -> None:
    with pytest.raises(BadInput, match="no CSV file at all") as caught:
        open_source(f"{bucket}/nothing")
    assert "\n" not in str(caught.value)


def test_a_plain_csv_names_its_images_by_detours_and_in_folders_of_their_classes(tmp_path: Path) -> None:
    for name in ("mel/001.jpg", "nv/001.jpg", "nv/002.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    cells = "L,40,male,nv"
    (tmp_path / "labels.csv").write_text(
        f"image,lesion_id,age,sex,dx\nmel/001.jpg,{cells}\n./nv//001.jpg,{cells}\nnv/./002.jpg,{cells}\n../x.jpg,{cells}\n"
    )
    source = open_source(str(tmp_path))
    assert [(row.image_id, row.image) for row in rows(source)] == [
        ("mel_001", "mel/001.jpg"), ("nv_001", "nv/001.jpg"), ("002", "nv/002.jpg"), ("../x.jpg", None),
    ]  # fmt: skip
    assert refusals(source) == []


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("Groupings.csv", "I0,LX,histo", "says two things of the image 'I0'"),
        ("Extra.csv", "I0,80,female", "says two things of the image 'I0'"),
        ("Groupings.csv", "I1", "has 1 cells and the header 3"),
    ],
)
def test_a_challenge_that_contradicts_itself_is_refused(tmp_path: Path, name: str, line: str, said: str) -> None:
    challenge(tmp_path, "I0,0,1,0,0,0,0,0\n", "I0,L0,histo\n", ("I0",))
    (tmp_path / "Extra.csv").write_text("image,age_approx,sex\nI0,40,male\nI0,40,male\n")
    assert [row.age for row in rows(open_source(str(tmp_path)))] == ["40"]
    (file,) = tmp_path.rglob(f"*{name}")
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(BadInput, match=said):
        rows(open_source(str(tmp_path)))


def test_a_folder_whose_name_begins_with_synthetic_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("synthetic-inbox", "one").mkdir(parents=True)
    Path("synthetic-inbox", "one", "labels.csv").touch()
    found = inbox("synthetic-inbox")
    assert found and found.batches == (f"{tmp_path}/synthetic-inbox/one",) and inbox("synthetic:lesions=3") is None
