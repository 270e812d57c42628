"""`dermanet predict`: any number of images into a file that grows row by row, whatever ends it."""

import csv
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import samples
from commands import Commands
from installation import Installation, photo

from dermanet import stages
from dermanet.errors import BadInput, DermaNetError
from dermanet.registry.tracking import model_files
from dermanet.serving.reader import Reader
from dermanet.stages import answers
from dermanet.stages.imagelist import ImageList, identity, place, rooted, walk, written
from dermanet.stages.results import Results

COUNT = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a dozen images in folders of its own, and what is none."""
    made = tmp_path / "clinic"
    for number in range(COUNT):
        place = made / ("", "b", "a/deep")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02}{('.jpg', '.JPEG')[number % 2]}").write_bytes(samples.jpeg(number))
    (made / "letter.txt").write_text("no image")
    (made / ".hidden.jpg").write_bytes(samples.jpeg(1))
    return made


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def reader(trained: Installation) -> Reader:
    import mlflow

    mlflow.set_tracking_uri(trained.tracking_uri)
    return Reader.open(model_files("models:/dermanet/1"))


def test_a_folder_is_walked_once_in_a_stable_order_without_what_is_hidden(folder: Path) -> None:
    found = [Path(name).relative_to(folder).as_posix() for name in walk([str(folder)])]
    assert found == ["00.jpg", "03.JPEG", "06.jpg", "09.JPEG", "a/deep/02.jpg", "a/deep/05.JPEG", "a/deep/08.jpg", "a/deep/11.JPEG",
                     "b/01.JPEG", "b/04.jpg", "b/07.JPEG", "b/10.jpg"]  # fmt: skip
    (folder / "b" / "loop").symlink_to(folder)
    assert len(list(walk([str(folder), "x"]))) == COUNT + 1


def test_an_image_that_is_named_twice_is_answered_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    given = ["00.jpg", "./00.jpg", str(folder), "b"]
    found = ImageList(given)
    assert (found.count, found.left, len(list(found))) == (COUNT, COUNT, COUNT)
    again = ImageList(given)
    again.pass_over(np.array([identity(place("00.jpg")), identity(str(folder / "b/01.JPEG"))], np.uint64))
    assert (again.count, again.left) == (COUNT, COUNT - 2)
    assert list(again) == list(found)[1:8] + list(found)[9:]


def test_for_the_eye_too_an_image_that_is_named_twice_is_answered_once(
    installation: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    rows = stages.predict(["b/04.jpg", "./b/04.jpg", str(folder / "b"), "no.jpg", "no.jpg"])
    names = [f"{folder}/b/{name}" for name in ("01.JPEG", "07.JPEG", "10.jpg")]
    assert [row["image"] for row in rows] == ["b/04.jpg", *names, "no.jpg"]


def test_a_place_is_the_same_from_everywhere_and_above_a_link_is_above_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "near").mkdir()
    (tmp_path / "near/link").symlink_to(tmp_path / "far/away")
    monkeypatch.chdir(tmp_path / "near")
    odd = os.fsdecode(b"../\xff\n.jpg")
    assert place("./1.jpg") == place("../near//1.jpg") == str(tmp_path / "near/1.jpg")
    assert place("link/1.jpg") == str(tmp_path / "near/link/1.jpg")
    assert place("link/../1.jpg") == str(tmp_path / "far/1.jpg")
    assert place("link/..") == str(tmp_path / "far")
    assert place(odd) == rooted(place(odd)) == f"{tmp_path}/\\xff\\x0a.jpg"


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_from_another_folder_nothing_is_passed_over_and_nothing_answered_twice(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    out = tmp_path / f"all.{ending}"
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(samples.jpeg(number))
    (tmp_path / "b" / os.fsdecode(b"\xff.jpg")).write_bytes(samples.jpeg())
    for here, given, before, images in (
        ("a", ".", 0, 1),
        ("b", ".", 1, 3),
        ("b", "../a", 3, 3),
        (".", "b", 3, 3),
        ("a", "../b/1.jpg", 3, 3),
    ):
        monkeypatch.chdir(tmp_path / here)
        done = stages.predict_into(os.path.relpath(out), [given])
        assert (done["before"], done["images"], done["errors"]) == (before, images, 0), (here, given)
    rows = rows_of(out) if ending == "csv" else [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["image"] for row in rows] == [f"{tmp_path}/{name}" for name in ("a/1.jpg", "b/1.jpg", "b/\\xff.jpg")]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_names_that_begin_nowhere_are_refused_until_they_begin_at_the_root(
    installation: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    out = folder / f"results.{ending}"
    stages.predict_into(str(out), [str(folder / "b")])
    whole = out.read_text()
    old = whole.replace(f"{folder}/b", "./b")
    out.write_text(old)
    monkeypatch.chdir(folder)
    with pytest.raises(
        BadInput, match=r"names '\./b/01\.JPEG' in line [12] without its folder.*write names from the root"
    ):
        stages.predict_into(str(out), ["."])
    assert out.read_text() == old
    out.write_text(old.replace("./b", f"{folder}/./b"))
    assert stages.predict_into(str(out), ["b"])["before"] == 4


def test_a_row_says_what_the_reader_says(
    trained: Installation, installation: Installation, folder: Path, reader: Reader
) -> None:
    out = folder / "out" / "results.csv"
    (folder / "bad.png").write_bytes(b"GIF89a")
    told: list[tuple[str, int, int]] = []
    done = stages.predict_into(
        str(out), [str(folder)], on_row=lambda row, *counts: told.append((row["image"], *counts))
    )
    assert {name: done[name] for name in ("version", "model_digest", "images", "before", "answered", "errors")} == {
        "version": "1", "model_digest": reader.digest, "images": COUNT + 1, "before": 0, "answered": COUNT, "errors": 1,
    }  # fmt: skip
    rows = rows_of(out)
    assert [(row["image"], number, COUNT + 1) for number, row in enumerate(rows, start=1)] == told
    for row in rows:
        expected = reader.read(Path(row["image"]).read_bytes()).row
        flat = {name: value for name, value in expected.items() if not name.endswith("_probabilities")}
        flat["differentials"] = expected["differentials"] and " ".join(expected["differentials"])
        for head, name in (("sex", "sex_probability"), ("diagnosis", "diagnosis_probability")):
            flat |= {f"{name}_{key}": p for key, p in (expected[f"{head}_probabilities"] or {}).items()}
        assert {name: row[name] for name in flat} == {name: "" if v is None else str(v) for name, v in flat.items()}
    table = pd.read_csv(out)
    assert table["diagnosis_probability_nv"].dtype == float and table["error"].notna().sum() == 1
    assert table.loc[table["error"].isna(), "age"].between(0, 120).all()


def test_json_lines_hold_the_rows_as_they_are(installation: Installation, folder: Path, reader: Reader) -> None:
    out = folder / "results.jsonl"
    stages.predict_into(str(out), [str(folder)])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    own = {"version": "1", "model_digest": reader.digest}
    assert rows == [{"image": row["image"], **reader.read(Path(row["image"]).read_bytes()).row, **own} for row in rows]
    assert len(rows) == COUNT == stages.predict_into(str(out), [str(folder)])["before"]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_it_goes_on_wherever_it_was_cut_off(installation: Installation, folder: Path, ending: str) -> None:
    out = folder / f"results.{ending}"
    (folder / "bad.png").write_bytes(b"GIF89a")
    stages.predict_into(str(out), [str(folder)])
    whole = out.read_bytes()
    starts = [0, 5, *random.Random(1).sample(range(len(whole)), 4), len(whole) - 1]
    for cut in starts:
        out.write_bytes(whole[:cut])
        there = max(whole[:cut].count(b"\n") - (ending == "csv"), 0)
        done = stages.predict_into(str(out), [str(folder)])
        assert out.read_bytes() == whole, cut
        assert (done["before"], done["images"], done["errors"]) == (there, COUNT + 1, 1)


def test_new_images_are_added_to_what_is_there(installation: Installation, folder: Path) -> None:
    out = folder / "results.csv"
    stages.predict_into(str(out), [str(folder / "b")])
    done = stages.predict_into(str(out), [str(folder)])
    assert (done["before"], done["images"]) == (4, COUNT)
    assert len({row["image"] for row in rows_of(out)}) == COUNT


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace(",1,", ",2,"), "was made by version 2, and this is 1"),
        (lambda text: text.replace("image,age", "image,years"), "has other columns"),
        (lambda text: "dear diary", "has other columns"),
        (lambda text: text.replace("\n", "\nx,1\n", 1), "has another form in line 2"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_left_alone(
    installation: Installation, folder: Path, change: Any, why: str
) -> None:
    out = folder / "results.csv"
    stages.predict_into(str(out), [str(folder / "b")])
    text = change(out.read_text())
    out.write_text(text)
    with pytest.raises(BadInput, match=why):
        stages.predict_into(str(out), [str(folder / "b")])
    assert out.read_text() == text
    assert stages.predict_into(str(out), [str(folder / "b")], again=True)["before"] == 0
    assert len(rows_of(out)) == 4


def test_two_at_once_do_not_write_into_one_file(tmp_path: Path) -> None:
    row = {"image": "", "error": None, "version": "1", "model_digest": "a"}
    first = Results(tmp_path / "results.csv", row)
    with pytest.raises(BadInput, match="being written by another"):
        Results(tmp_path / "results.csv", row)
    first.close()
    Results(tmp_path / "results.csv", row).close()


@pytest.mark.parametrize("out", ["results.xlsx", "results", "letter.txt/results.csv"])
def test_a_file_that_cannot_be_written_is_refused(installation: Installation, folder: Path, out: str) -> None:
    with pytest.raises(BadInput, match=r"allowed are \.csv, \.jsonl|cannot be written"):
        stages.predict_into(str(folder / out), [str(folder)])


def test_a_full_disk_is_told_in_one_line_and_gone_on_after(
    installation: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, left = str(folder / "results.csv"), [2000]
    write = os.write

    def full(file: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = data[: left[0]]
        left[0] -= len(part)
        return write(file, part)

    with monkeypatch.context() as patch:
        patch.setattr("dermanet.stages.results.os.write", full)
        with pytest.raises(DermaNetError, match=r"results\.csv cannot be written to: No space left on device"):
            stages.predict_into(out, [str(folder)])
    told = stages.predict_into(out, [str(folder)])
    assert 0 < told["before"] < COUNT
    assert len(rows_of(Path(out))) == told["answered"] == COUNT


def test_whatever_stands_for_an_image_gets_its_reason(installation: Installation, tmp_path: Path) -> None:
    clinic = tmp_path / "clinic"
    clinic.mkdir()
    os.mkfifo(clinic / "pipe.jpg")
    (clinic / "empty.jpg").touch()
    with (clinic / "grand.png").open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    (clinic / 'a\nb, "c".jpg').write_bytes(samples.jpeg())
    (Path(os.fsdecode(bytes(clinic) + b"/\xff.jpg"))).write_bytes(samples.jpeg())
    stages.predict_into(str(tmp_path / "results.csv"), [str(clinic), str(tmp_path / "no.jpg")])
    rows = {Path(row["image"]).name: row["error"].partition(":")[0] for row in rows_of(tmp_path / "results.csv")}
    assert rows == {
        "pipe.jpg": "not a file", "empty.jpg": "empty file", "grand.png": "too large", 'a\\x0ab, "c".jpg': "", "\\xff.jpg": "",
        "no.jpg": "not readable",
    }  # fmt: skip
    again = stages.predict_into(str(tmp_path / "results.csv"), [str(clinic), str(tmp_path / "no.jpg")])
    assert again["before"] == again["images"] == 6


def test_of_two_file_names_none_is_written_as_the_other() -> None:
    plain = ["1.jpg", "scans\\new.jpg", "ä.jpg"]
    odd = ["a\x01", "a\\x01", "a\\\\x01", "a\\\x01", "a\u2028b", "a\\u2028b", "a\x85b", "a\rb", "a\\", "a\x01\\"]
    odd += [os.fsdecode(b"a\x85b"), os.fsdecode(b"a\\\xff"), os.fsdecode(b"a\xff"), "a\\xff", "a\\\\xff", "ÿ"]
    told = [written(name) for name in (*plain, *odd)]
    assert told[: len(plain)] == plain and len(set(told)) == len(told)
    assert all(name.splitlines() == [name] and name.encode() for name in told)


def test_a_folder_without_images_is_wrong_use(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    for ask in (lambda given: stages.predict(given), lambda given: stages.predict_into(str(tmp_path / "r.csv"), given)):
        with pytest.raises(BadInput, match="no JPEG or PNG in"):
            ask([str(tmp_path / "void")])


@pytest.mark.parametrize("again", [False, True])
def test_what_is_refused_leaves_earlier_results_alone_and_makes_no_file(
    installation: Installation, folder: Path, tmp_path: Path, again: bool
) -> None:
    out = tmp_path / "results.csv"
    stages.predict_into(str(out), [str(folder)])
    whole = out.read_bytes()
    (tmp_path / "void").mkdir()
    asked = [
        ("results.csv", "void", None),
        ("new/results.csv", "void", None),
        ("results.csv", "clinic", "models:/dermanet/9"),
    ]
    if again:
        asked.append(("results.csv", "clinc", None))
    for name, given, model in asked:
        with pytest.raises(BadInput):
            stages.predict_into(str(tmp_path / name), [str(tmp_path / given)], model, again)
    assert out.read_bytes() == whole and not (tmp_path / "new").exists()


def test_a_file_that_is_being_written_is_not_begun_anew(tmp_path: Path) -> None:
    out, row = tmp_path / "results.csv", {"image": "/1.jpg", "error": None, "version": "1", "model_digest": "a"}
    with closing(Results(out, row)) as first:
        first.add(row)
        whole = out.read_bytes()
        with pytest.raises(BadInput, match="being written by another"):
            Results(out, row, again=True)
    assert out.read_bytes() == whole


def test_images_are_not_read_far_ahead_and_memory_does_not_grow(
    installation: Installation, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "/no/such.jpg"

    rows = answers._side_by_side(endless(), reader)
    for _ in range(10):
        next(rows)
    rows.close()
    assert taken <= 10 + answers.AHEAD * (os.cpu_count() or 1)


def test_the_command_says_what_is_wrong_and_ends_with_2(
    commands: Commands, installation: Installation, folder: Path
) -> None:
    def dermanet(*words: str) -> subprocess.CompletedProcess[str]:
        return commands.run(["predict", *words], installation.environment(), folder)

    fine = dermanet("b", "a", "--out", "r.csv", "--json")
    assert (fine.returncode, json.loads(fine.stdout)["answered"], fine.stderr) == (0, 8, "")
    (folder / "bad.png").write_bytes(b"GIF89a")
    bad = dermanet(".", "--out", "r.csv")
    assert bad.returncode == 2
    assert bad.stderr.splitlines()[0].startswith(f"{folder}/bad.png: not an image")
    assert "13 images, 12 answered by version 1, 1 not; 8 were there before" in bad.stderr
    listed = json.loads(dermanet("b", "--json").stdout)
    assert [Path(row["image"]).name for row in listed] == ["01.JPEG", "04.jpg", "07.JPEG", "10.jpg"]
    assert len(dermanet(".").stdout.splitlines()) == 13
    assert dermanet("b", "--again").returncode == 2
    assert dermanet("b", "--out", "r.xls").stderr.count("\n") == 1


def test_killed_at_any_moment_it_ends_as_if_nothing_had_been(
    commands: Commands, installation: Installation, folder: Path, tmp_path: Path
) -> None:
    for number in range(300):
        (folder / f"x{number:03}.jpg").write_bytes(samples.jpeg(number, 600, 450))
    words = ["predict", str(folder), "--out", str(tmp_path / "whole.csv")]
    clock = time.monotonic()
    assert commands.run(words, installation.environment()).returncode == 0
    takes, chance, broken = time.monotonic() - clock, random.Random(3), 0
    words[-1] = str(tmp_path / "killed.csv")
    for part in range(8):
        done = commands.run(words, installation.environment(), after=takes * (part + chance.random()) / 8)
        broken += done.returncode == -signal.SIGKILL
        if done.returncode == 0:
            break
    assert broken and commands.run(words, installation.environment()).returncode == 0
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_ctrl_c_says_that_it_can_be_gone_on_with(trained: Installation, folder: Path, tmp_path: Path) -> None:
    for number in range(2000):
        os.link(folder / "00.jpg", folder / f"x{number:04}.jpg")
    out = tmp_path / "results.csv"
    command = [sys.executable, "-m", "dermanet", "predict", str(folder), "--out", str(out)]
    process = subprocess.Popen(command, env=trained.environment(), stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not out.exists() or out.stat().st_size < 5000:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (
        130,
        f"interrupted: what was answered is in {out}; the same command goes on from there\n",
    )
    assert out.read_bytes().endswith(b"\n")


def test_on_a_terminal_it_counts_what_is_answered_of_all_there_are(
    trained: Installation, folder: Path, tmp_path: Path
) -> None:
    (folder / "bad.png").write_bytes(b"GIF89a")
    words = [sys.executable, "-m", "dermanet", "predict", str(folder), "--out", str(tmp_path / "results.csv")]
    environ = {**trained.environment(), "TERM": "xterm", "COLUMNS": "120"}
    terminal, inside = os.openpty()
    with subprocess.Popen(words, env=environ, stderr=inside) as process:
        os.close(inside)
        said = b""
        # Linux says so where nobody holds the other end any more.
        with suppress(OSError):
            while more := os.read(terminal, 4096):
                said += more
    os.close(terminal)
    assert process.returncode == 2
    for words_of_it in (f"{COUNT + 1}/{COUNT + 1} images", "answering", "bad.png: not an image"):
        assert words_of_it.encode() in re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", said), said


def test_mlflow_models_predict_answers_a_csv(trained: Installation, tmp_path: Path, reader: Reader) -> None:
    import base64

    data = photo(tmp_path).read_bytes()
    with (tmp_path / "request.csv").open("w") as file:
        file.write("image\n" + base64.b64encode(data).decode() + "\nno base64!\n")
    command = [
        sys.executable, "-m", "mlflow", "models", "predict", "-m", "models:/dermanet@champion", "-i", str(tmp_path / "request.csv"),
        "-t", "csv", "-o", str(tmp_path / "answers.json"), "--env-manager", "local",
    ]  # fmt: skip
    environ = {**trained.environment(), "MLFLOW_TRACKING_URI": trained.tracking_uri}
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    good, bad = json.loads((tmp_path / "answers.json").read_text())["predictions"]
    assert good == reader.read(data).row
    assert bad["error"].startswith("not base64") and bad["age"] is None
