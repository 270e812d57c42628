"""Inboxes: each batch is taken as a whole and once, whatever kills it in between, and answered with a receipt beside its labels."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import samples
from commands import Commands
from seaweed import READER, Seaweed
from storeroom import Installation, start

from dermanet import settings, stages, taxonomy
from dermanet.errors import BadInput, Changed
from dermanet.intake import batches
from dermanet.intake.batches import RECEIPT, Arriving, Taken, take
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.inbox import Inbox, inbox
from dermanet.intake.ingest import Outcome, release
from dermanet.storage import Folder, Place, place

FIELDS = {
    "batch": str, "digest": str, "taking": int, "taken": str, "dermanet": str, "records": int, "accepted": int, "known": int,
    "corrected": int, "quarantined": dict, "refused": list, "refused_not_listed": int,
}  # fmt: skip
"""What docs/operations.md says a receipt holds."""

Rows = dict[str, dict[str, str]]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are at rest as soon as they are written; the tests of arriving batches wait all the same."""
    monkeypatch.setattr(batches, "QUIET", 0.0)


def fill(there: Place, first: int, count: int, **changes: dict[str, str] | bytes | None) -> None:
    """Writes a batch: `count` images from `first` on, then its labels. `I3={"sex": "M"}` changes cells, bytes or None the file."""
    rows = []
    for number in range(first, first + count):
        change = changes.get(f"I{number}", {})
        if change is not None:
            there.write(f"I{number}.jpg", change if isinstance(change, bytes) else samples.jpeg(number))
        cells = change if isinstance(change, dict) else {}
        row = samples.ham10000_row(number, image_id=f"I{number}")
        rows.append({**row, **cells})
    columns = list(rows[0])
    lines = [",".join(columns), *(",".join(row[column] for column in columns) for row in rows)]
    there.write("labels.csv", "\n".join([*lines, ""]).encode())


class Here(Installation):
    """An installation that takes batches."""

    def take(
        self, batch: object, progress: Callable[[Outcome], None] = lambda outcome: None, again: bool = False
    ) -> Taken:
        return take(str(batch), self.catalogue, self.objects, taxonomy.load(), progress, again)


@pytest.fixture
def new(tmp_path: Path, new_database: Callable[[], str]) -> Callable[[str], Here]:
    return lambda name: Here(tmp_path / name, new_database())


@pytest.fixture
def here(new: Callable[[str], Here]) -> Here:
    return new("here")


@pytest.fixture
def batch(tmp_path: Path) -> Folder:
    """Six images, of which the first lesion's age is wrong and the second's file is missing."""
    there = Folder(tmp_path / "inbox/2026-11")
    fill(there, 0, 6, I0={"age": "Anna Must"}, I1=None)
    return there


def receipt(there: Place) -> Any:
    return json.loads(there.read(RECEIPT))


def lasting(there: Place) -> Any:
    """A receipt without the moment at which it was written."""
    return {**receipt(there), "taken": None}


@pytest.mark.parametrize(
    ("files", "text", "expected"),
    [
        (["labels.csv", "a.jpg"], "{}", Inbox("{}", ("{}",), single=True)),
        (["labels.csv", "sub/labels.csv"], "{}", Inbox("{}", ("{}",), single=True)),
        (["labels.csv", "a.jpg"], "{}/labels.csv", Inbox("{}", ("{}",), single=True)),
        (["labels.csv"], "inbox:{}", Inbox("{}", ("{}",), single=True)),
        (["b/labels.csv", "a/labels.csv", "a/x.jpg"], "{}", Inbox("{}", ("{}/a", "{}/b"))),
        (["a/labels.csv", "c/x/y.PNG", "d/notes.txt", "e.jpg"], "{}", Inbox("{}", ("{}/a",), (".", "c"))),
        (["c/x.jpg", "c/new.csv", "c/deep/labels.csv"], "inbox:{}", Inbox("{}", (), ("c",))),
        (["readme.txt"], "inbox:{}", Inbox("{}")),
        (["a/labels.csv", "HAM10000_metadata.csv"], "inbox:{}", Inbox("{}", ("{}/a",))),
        (["a/labels.csv", "HAM10000_metadata.csv"], "{}", None),
        (["a.jpg", "metadata.csv"], "{}", None),
        (["a.jpg"], "{}", None),
        (["other.csv"], "{}/other.csv", None),
    ],
)
def test_what_is_a_batch_an_inbox_or_another_source(
    tmp_path: Path, files: list[str], text: str, expected: Inbox | None
) -> None:
    for name in files:
        Folder(tmp_path).write(name, b"x")
    found = inbox(text.format(tmp_path))
    if expected is not None:
        names = tuple(name.format(tmp_path) for name in expected.batches)
        expected = Inbox(str(tmp_path), names, expected.waiting, expected.single)
    assert found == expected


@pytest.mark.parametrize("text", ["inbox:/no/such/place", "inbox:{}/labels.csv", "inbox:", "inbox:s3://"])
def test_an_inbox_that_is_no_folder_is_refused_in_one_line(batch: Folder, text: str) -> None:
    fill(batch, 0, 1)
    with pytest.raises(BadInput) as caught:
        inbox(text.format(batch))
    assert "\n" not in str(caught.value)


def test_a_receipt_says_what_became_of_every_record(here: Here, batch: Folder) -> None:
    taken = here.take(batch)
    found = receipt(batch)
    assert {name: type(value) for name, value in found.items()} == FIELDS
    assert (found["batch"], found["taking"]) == (str(batch), 1)
    assert (found["records"], found["accepted"], found["known"], found["corrected"]) == (6, 4, 0, 0)
    assert found["quarantined"] == {"impossible age": 1, "missing image": 1}
    assert [(told["name"], told["reason"]) for told in found["refused"]] == [
        ("I0", "impossible age"), ("I1", "missing image"),
    ]  # fmt: skip
    assert here.catalogue.refusal(found["refused"][0]["id"])[1].name == "I0"
    assert taken.outcome == Outcome(4, 0, 0, taken.outcome.quarantined) and not taken.earlier
    assert {name for name, kind in FIELDS.items()} <= set(
        (Path(__file__).parents[1] / "docs/operations.md").read_text().split("`")
    )


def test_a_receipt_quotes_no_label(here: Here, batch: Folder) -> None:
    here.take(batch)
    told = {told["name"]: told["detail"] for told in receipt(batch)["refused"]}
    assert "Anna" not in batch.read(RECEIPT).decode() and "quarantine show" in told["I0"]
    assert "add it and ingest again" in told["I1"]


def test_a_receipt_says_what_is_wrong_with_a_file(here: Here, batch: Folder) -> None:
    fill(batch, 0, len(samples.UNFIT), **{f"I{place}": data for place, data in enumerate(samples.UNFIT.values())})
    here.take(batch)
    refused = receipt(batch)["refused"]
    assert [told["reason"] for told in refused] == list(samples.UNFIT)
    assert not [told for told in refused if "quotes labels" in told["detail"]]


def test_a_receipt_lists_some_refusals_and_counts_all(
    here: Here, batch: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_LISTED", 1)
    here.take(batch)
    found = receipt(batch)
    assert (len(found["refused"]), found["refused_not_listed"]) == (1, 1)


def test_a_batch_is_never_taken_twice(here: Here, batch: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    here.take(batch)
    first = batch.read(RECEIPT)
    monkeypatch.setattr(batches, "ingest", lambda *args: pytest.fail("not a row of it is read"))
    for lost in (lambda: None, lambda: batch.remove(RECEIPT), lambda: batch.write(RECEIPT, b"{}")):
        lost()
        taken = here.take(batch)
        assert taken.earlier and taken.outcome == Outcome(4 - 4, 4, 0, taken.outcome.quarantined)
        assert batch.read(RECEIPT) == first


def test_what_was_released_since_a_batch_was_taken_counts_as_known(here: Here, batch: Folder) -> None:
    fill(batch, 0, 6, I0={"age": "Anna Must"}, I1={"age": "Anna Must"}, I2={"sex": "M"})
    here.take(batch)
    first, ids = batch.read(RECEIPT), {told["name"]: told["id"] for told in receipt(batch)["refused"]}
    for name, cells in {"I0": {"age": "40"}, "I2": {"sex": "male"}}.items():
        release(ids[name], cells, here.catalogue, here.objects, taxonomy.load())
    taken = here.take(batch)
    assert taken.earlier and taken.outcome == Outcome(known=5, quarantined=Counter({"impossible age": 1}))
    assert batch.read(RECEIPT) == first
    assert here.take(batch, again=True).outcome == here.take(batch).outcome == taken.outcome


def test_a_batch_is_the_same_however_its_path_is_written(batch: Folder, home: Path, tmp_path: Path) -> None:
    fill(batch, 0, 2)
    stages.ingest(str(batch))
    (tmp_path / "elsewhere").mkdir()
    detour = f"{tmp_path}/elsewhere/../{batch.root.relative_to(tmp_path)}"
    assert [story["state"] for story in stages.ingest(detour)["batches"]] == ["taken before"]
    fill(batch, 0, 2, I1={"age": "33"})
    assert stages.ingest(detour)["corrected"] == 1


def test_a_picture_of_another_format_is_of_the_batch(here: Here, batch: Folder) -> None:
    batch.write("I1.tif", b"II*\0" + bytes(99))
    taken = here.take(batch)
    assert taken.outcome.quarantined["not an image"] == 1 and not taken.outcome.quarantined["missing image"]
    before = receipt(batch)["digest"]
    batch.write("I1.tif", b"II*\0" + bytes(100))
    here.take(batch)
    assert receipt(batch)["digest"] != before


def test_asked_again_it_is_taken_again(here: Here, batch: Folder) -> None:
    here.take(batch)
    taken = here.take(batch, again=True)
    assert (taken.earlier, taken.outcome.known, receipt(batch)["taking"]) == (False, 4, 2)


def test_a_mended_batch_is_taken_again_and_its_receipt_replaced(here: Here, batch: Folder) -> None:
    here.take(batch)
    before = receipt(batch)
    batch.write("I1.jpg", samples.jpeg(1))
    here.take(batch)
    added = receipt(batch)
    assert added["digest"] != before["digest"] and added["taking"] == 2
    assert (added["accepted"], added["known"], added["quarantined"]) == (1, 4, {"impossible age": 1})
    fill(batch, 0, 6, I2={"sex": "unknown"})
    here.take(batch)
    mended = receipt(batch)
    assert (mended["accepted"], mended["known"], mended["corrected"]) == (1, 4, 1)
    assert (mended["quarantined"], mended["refused"]) == ({}, [])


def test_a_receipt_lists_what_its_batch_has_and_quarantine_what_it_had(here: Here, batch: Folder) -> None:
    fill(batch, 0, 6, I1=b"no image", I2={"sex": "M"})
    here.take(batch)
    assert len(receipt(batch)["refused"]) == 2
    batch.remove("I1.jpg")
    fill(batch, 2, 4, I2={"sex": "M"})
    batch.remove("I0.jpg")
    here.take(batch)
    listed = receipt(batch)
    assert [told["name"] for told in listed["refused"]] == ["I2"] and listed["refused_not_listed"] == 0
    held = {refusal.name: refusal.withdrawn for _, refusal in here.catalogue.refusals()}
    assert held == {"I1": True, "I2": False}


def test_a_correction_taken_back_is_taken_for_what_it_is(here: Here, batch: Folder) -> None:
    original = batch.read("labels.csv")
    here.take(batch)
    batch.write("labels.csv", original.replace(b",male,", b",unknown,"))
    here.take(batch)
    corrected = receipt(batch)
    batch.write("labels.csv", original)
    here.take(batch)
    found = receipt(batch)
    assert (corrected["known"], corrected["corrected"]) == (found["known"], found["corrected"]) == (2, 2)
    assert (found["accepted"], found["taking"]) == (0, 3)
    assert {record.labels.sex for record in here.catalogue.records()} == {"male", "female"}


def test_a_batch_that_changes_while_it_is_taken_is_taken_as_it_ends(here: Here, batch: Folder) -> None:
    changes = iter([lambda: fill(batch, 0, 6, I0={"age": "50"}), lambda: batch.write("I9.jpg", samples.jpeg(9))])
    here.take(batch, lambda outcome: next(changes, lambda: None)())
    found = receipt(batch)
    assert (found["taking"], found["accepted"], found["known"]) == (1, 6, 0), "nothing was finished in between"
    assert found["quarantined"] == {"image without a row": 1}


def test_a_batch_that_goes_on_changing_gets_no_receipt_and_one_line(here: Here, batch: Folder) -> None:
    numbers = iter(range(100, 200))

    def disturb(outcome: Outcome) -> None:
        batch.write(f"I{next(numbers)}.jpg", samples.jpeg(3))

    with pytest.raises(Changed, match=r"changed each time while it was taken.*run this again") as caught:
        here.take(batch, disturb)
    assert "\n" not in str(caught.value) and not batch.exists(RECEIPT)
    assert next(numbers) == 100 + batches.TRIES, "it is not tried for ever"
    assert here.take(batch).outcome.accepted == 4


def test_an_image_that_vanishes_and_comes_back_is_not_half_a_taking(here: Here, batch: Folder) -> None:
    vanish = iter([lambda: batch.remove("I3.jpg"), lambda: batch.write("I3.jpg", samples.jpeg(3))])
    here.take(batch, lambda outcome: next(vanish, lambda: None)())
    assert (receipt(batch)["accepted"], receipt(batch)["taking"]) == (4, 1)


def test_a_label_file_that_is_still_being_copied_is_waited_for(
    here: Here, batch: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "QUIET", 0.5)
    whole = batch.read("labels.csv")

    def copy() -> None:
        with (batch.root / "labels.csv").open("wb", buffering=0) as file:
            for start in range(0, len(whole), 40):
                file.write(whole[start : start + 40])
                time.sleep(0.1)

    copying = threading.Thread(target=copy)
    copying.start()
    here.take(batch)
    copying.join()
    assert (receipt(batch)["records"], receipt(batch)["taking"]) == (6, 1)
    assert len(here.catalogue.records()) == 4 and all(r.labels.sex != "unknown" for r in here.catalogue.records())


@pytest.mark.parametrize("keeping_times", [False, True])
def test_a_batch_that_goes_on_arriving_is_left_for_the_next_time(
    here: Here, batch: Folder, monkeypatch: pytest.MonkeyPatch, home: Path, keeping_times: bool
) -> None:
    monkeypatch.setattr(batches, "QUIET", 0.2)
    monkeypatch.setattr(batches, "LOOKS", 3)
    fill(Folder(batch.root.parent / "2026-10"), 20, 2)
    ends = threading.Event()

    def copy() -> None:
        while not ends.wait(0.02):
            batch.write("I7.jpg", os.urandom(20))
            if keeping_times:
                os.utime(batch.root / "I7.jpg", (1e9, 1e9))

    copying = threading.Thread(target=copy)
    copying.start()
    try:
        with pytest.raises(Arriving, match="still being written"):
            here.take(batch)
        done = stages.ingest(str(batch.root.parent))
    finally:
        ends.set()
        copying.join()
    assert [story["state"] for story in done["batches"]] == ["taken"] and done["waiting"] == ["2026-11"]
    stages.require_whole(done)


def test_a_clock_that_is_ahead_holds_no_batch_up(here: Here, batch: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "QUIET", 0.2)
    os.utime(batch.root / "I2.jpg", (time.time() + 1e6,) * 2)
    assert here.take(batch).outcome.accepted == 4


def test_one_wrong_batch_does_not_stop_the_others(batch: Folder, home: Path) -> None:
    fill(Folder(batch.root.parent / "a"), 10, 2)
    for name, text in {
        "b": b"image_id,lesion_id,dx\n",
        "c": b"image_id,lesion_id,age,sex,dx\n",
        "d": "ä,b\n".encode("latin-1"),
        "f": b'image_id,lesion_id,age,sex,dx\n"I1,L1,50,male,nv\n',
    }.items():
        Folder(batch.root.parent / name).write("labels.csv", text)
    Folder(batch.root.parent / "e").write("x.jpg", b"x")
    done = stages.ingest(str(batch.root.parent))
    states = {Path(story["batch"]).name: story["state"] for story in done["batches"]}
    assert states == {"2026-11": "taken", "a": "taken", "b": "wrong", "c": "wrong", "d": "wrong", "f": "wrong"}
    assert (done["accepted"], done["waiting"]) == (6, ["e"])
    with pytest.raises(BadInput, match="4 of 6 batches not taken, all others were") as caught:
        stages.require_whole(done)
    parts = ("lacks the column", "has no rows", "byte 0 is not UTF-8", "line 2: unexpected end of data")
    assert all(part in str(caught.value) for part in parts)
    assert all(str(caught.value).count(f"{batch.root.parent}/{name}") == 1 for name in "bcdf")
    assert "\n" not in str(caught.value)
    again = stages.ingest(f"inbox:{batch.root.parent}")
    assert (again["accepted"], again["known"]) == (0, 6)


def test_a_batch_behind_a_link_is_one_and_a_ring_of_links_ends(batch: Folder, home: Path, tmp_path: Path) -> None:
    fill(Folder(tmp_path / "elsewhere"), 10, 2)
    (batch.root.parent / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "elsewhere")
    (batch.root / "round").symlink_to(batch.root.parent)
    found = inbox(str(batch.root.parent))
    assert found and [Path(one).name for one in found.batches] == ["2026-11", "linked"]
    assert stages.ingest(str(batch.root.parent))["accepted"] == 6


@pytest.mark.parametrize("within", ["", "images"])
@pytest.mark.parametrize("right", ["to list it", "to enter it"])
def test_a_batch_that_may_not_be_read_is_named_and_does_not_stop_the_others(
    batch: Folder, home: Path, monkeypatch: pytest.MonkeyPatch, within: str, right: str
) -> None:
    shut = batch.root.parent / "closed" / within
    fill(Folder(batch.root.parent / "closed"), 10, 2)
    shut.mkdir(exist_ok=True)
    scandir, access = os.scandir, os.access

    def may_not(path: Any) -> Any:
        if Path(path) == shut:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    # As for a user whose folder it is not; tests may be run by one who may read everything.
    if right == "to list it":
        monkeypatch.setattr(os, "scandir", may_not)
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != shut and access(path, mode))
    done = stages.ingest(str(batch.root.parent))
    assert {Path(story["batch"]).name: story["state"] for story in done["batches"]} == {
        "2026-11": "taken",
        "closed": "wrong",
    }
    with pytest.raises(BadInput, match=f"{shut} cannot be read: Permission denied"):
        stages.require_whole(done)
    with pytest.raises(BadInput, match=f"{shut} cannot be read: Permission denied"):
        Folder(batch.root.parent).listing()


def test_a_batch_whose_stored_images_are_gone_is_taken_again_by_the_command_that_is_named(
    batch: Folder, home: Path
) -> None:
    stages.ingest(str(batch.root))
    here = settings.read()
    objects = place(here.objects)
    objects.remove(next(name for name in objects.listing() if not name.startswith("quarantine")))
    assert stages.check_objects()["sources"] == [f"{batch.root}/labels.csv"]
    assert stages.ingest(f"{batch.root}/labels.csv")["known"] == 4
    assert (
        stages.check_objects()["faults"] == []
        and stages.ingest(str(batch.root))["batches"][0]["state"] == "taken before"
    )


def test_an_inbox_with_nothing_to_take_is_no_error(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Folder(tmp_path / "in box").write("2026-12/x.jpg", b"x")
    monkeypatch.setenv("DERMANET_SOURCE", f"inbox:{tmp_path}/in box")
    done = stages.ingest_configured("")
    assert done == {
        "accepted": 0, "known": 0, "corrected": 0, "quarantined": {}, "batches": [],
        "waiting": [f"{tmp_path}/in box: 2026-12"],
    }  # fmt: skip
    stages.require_whole(done)
    with pytest.raises(BadInput, match="no label file recognised"):
        stages.ingest(f"{tmp_path}/in box")


def test_sources_are_checked_before_anything_is_started(batch: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(batch.root.parent.parent)
    assert stages.check_sources("inbox:inbox inbox/2026-11") == f"inbox:{batch.root.parent} {batch.root}"
    with pytest.raises(BadInput):
        stages.check_sources("inbox:nowhere")


def test_where_no_receipt_can_be_written_the_batch_is_taken_and_remembered(here: Here, batch: Folder) -> None:
    (batch.root / RECEIPT).mkdir()
    for earlier in (False, True):
        taken = here.take(batch)
        assert taken.earlier is earlier
        assert taken.unwritten.startswith(f"{batch}/{RECEIPT} cannot be written: ") and "\n" not in taken.unwritten
    assert len(here.catalogue.records()) == 4
    (batch.root / RECEIPT).rmdir()
    assert here.take(batch).unwritten == "" and receipt(batch)["accepted"] == 4


def test_of_two_files_of_one_name_neither_is_taken(here: Here, batch: Folder) -> None:
    batch.write("again/I2.jpg", samples.jpeg(2))
    batch.write("again/I3.jpg", samples.jpeg(2))
    batch.write("I4.png", samples.png(samples.pixels(4)))
    here.take(batch)
    told = {told["name"]: told for told in receipt(batch)["refused"]}
    assert (told["I3"]["reason"], told["I4"]["reason"]) == ("ambiguous file", "ambiguous file")
    assert "again/I3.jpg" in told["I3"]["detail"] and "I4.png" in told["I4"]["detail"]
    assert receipt(batch)["accepted"] == 2


TAKE = """
import sys
from pathlib import Path
from dermanet import taxonomy
from dermanet.intake import batches, ingest
from dermanet.intake.catalogue import Catalogue
from dermanet.storage import Folder
batches.QUIET, ingest.BATCH = 0, 40
print("ready", flush=True)
sys.stdin.readline()
objects, url, batch = Path(sys.argv[1]) / "objects", sys.argv[2], sys.argv[3]
batches.take(batch, Catalogue(url), Folder(objects), taxonomy.load())
"""


def taker(here: Here, batch: Place) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TAKE, str(here.folder), here.url, str(batch)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def large(tmp_path: Path) -> Folder:
    """Four hundred images, every fiftieth with a wrong age or a broken file, taken once and then corrected in places."""
    there = Folder(tmp_path / "large")
    fill(
        there,
        0,
        400,
        **{f"I{n}": {"age": "-3"} for n in range(0, 400, 50)},
        **{f"I{n}": b"" for n in range(7, 400, 50)},
    )
    return there


def test_a_batch_killed_again_and_again_has_the_receipt_of_an_undisturbed_one(
    new: Callable[[str], Here], large: Folder
) -> None:
    undisturbed, killed, chance = new("undisturbed"), new("killed"), random.Random(3)
    for corrected in (False, True):
        if corrected:
            rows = large.read("labels.csv").decode().splitlines()
            rows[100:150] = [row.replace(",male,", ",unknown,") for row in rows[100:150]]
            large.write("labels.csv", "\n".join([*rows, ""]).encode())
        clock = time.monotonic()
        undisturbed.take(large)
        takes, expected = time.monotonic() - clock, lasting(large)
        assert expected["corrected" if corrected else "accepted"] > 20
        large.remove(RECEIPT)
        for process in [taker(killed, large) for _ in range(3)]:
            start(process)
            time.sleep(takes * chance.uniform(0.2, 0.8))
            process.kill()
            process.communicate()
        done = killed.take(large)
        assert lasting(large) == expected
        assert done.earlier or (done.outcome.accepted, done.outcome.corrected) == (
            expected["accepted"],
            expected["corrected"],
        )


def test_two_at_once_have_one_receipt(new: Callable[[str], Here], large: Folder) -> None:
    new("alone").take(large)
    expected = lasting(large)
    large.remove(RECEIPT)
    together = new("together")
    processes = [taker(together, large) for _ in range(3)]
    for process in processes:
        start(process)
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert lasting(large) == expected


def test_the_command_line_takes_an_inbox_and_ends_with_2_for_a_wrong_batch(
    commands: Commands, batch: Folder, home: Path
) -> None:
    command = ["ingest", f"inbox:{batch.root.parent}"]
    done = commands.run([*command, "--json"], os.environ)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert (counts["accepted"], counts["quarantined"]) == (4, {"impossible age": 1, "missing image": 1})
    (story,) = counts["batches"]
    assert (story["state"], story["receipt"], story["digest"]) == (
        "taken",
        f"{batch}/{RECEIPT}",
        receipt(batch)["digest"],
    )
    Folder(batch.root.parent / "b").write("labels.csv", b"image_id,dx\n")
    wrong = commands.run(command, os.environ)
    assert wrong.returncode == 2 and f"{batch}: taken before" in wrong.stderr
    assert wrong.stderr.splitlines()[-1].startswith("dermanet: 1 of 2 batches not taken")
    one = commands.run(["ingest", str(batch.root.parent / "b")], os.environ)
    assert (one.returncode, len(one.stderr.strip().splitlines())) == (2, 1)


def test_a_bucket_is_an_inbox_of_many_pages(here: Here, bucket: str) -> None:
    there = place(f"{bucket}/many")
    data = samples.jpeg(1)
    rows = ["image,lesion_id,age,sex,dx"]
    for number in range(1, 1101):
        there.write(
            f"{number:05d}.jpg",
            data[:2] + b"\xff\xfe\x00\x06%04d" % number + data[2:] if number % 2 else data[: number % 500],
        )
        rows.append(f"{number:05d}.jpg,L{number},50,male,nv")
    there.write("labels.csv", "\n".join(rows).encode())
    place(f"{bucket}/later").write("x.jpg", b"x")
    found = inbox(bucket)
    assert found == Inbox(bucket, (f"{bucket}/many",), ("later",))
    here.take(f"{bucket}/many")
    told = receipt(there)
    assert (told["records"], told["accepted"], told["quarantined"]["duplicate bytes"]) == (1100, 1, 549)
    assert sum(told["quarantined"].values()) == 1099 and told["refused_not_listed"] == 99
    assert here.take(f"{bucket}/many").earlier


def test_in_a_bucket_an_image_replaced_by_one_of_the_same_size_is_noticed(here: Here, bucket: str) -> None:
    there, first, second = place(f"{bucket}/batch"), samples.jpeg(1), samples.jpeg(2)
    longer = max(len(first), len(second)) + 8
    there.write("a.jpg", _filled_up(first, longer))
    there.write("labels.csv", b"image,lesion_id,age,sex,dx\na.jpg,L1,50,male,nv\n")
    assert here.take(f"{bucket}/batch").outcome.accepted == 1 and here.take(f"{bucket}/batch").earlier
    there.write("a.jpg", _filled_up(second, longer))
    again = here.take(f"{bucket}/batch")
    assert (again.earlier, again.outcome.accepted, receipt(there)["taking"]) == (False, 1, 2)


def _filled_up(jpeg: bytes, length: int) -> bytes:
    """The same image with a comment that makes its file so long."""
    missing = length - len(jpeg) - 2
    return jpeg[:2] + b"\xff\xfe" + missing.to_bytes(2, "big") + b" " * (missing - 2) + jpeg[2:]


def test_with_credentials_that_may_only_read_the_batch_is_taken_and_remembered(
    here: Here, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(place(f"{bucket}/b"), 0, 3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER[1])
    taken = here.take(f"{bucket}/b")
    assert taken.outcome.accepted == 3 and f"{bucket}/b/{RECEIPT} cannot be written" in taken.unwritten
    assert here.take(f"{bucket}/b").earlier and not place(f"{bucket}/b").exists(RECEIPT)


INGEST = """
import sys
from dermanet import transfer
from dermanet.intake import batches, ingest
transfer.PATIENCE, batches.QUIET, ingest.BATCH = float(sys.argv.pop(1)), 0, 10
from dermanet.cli import main
main()
"""


@pytest.fixture
def on_own_s3(own_s3: Seaweed, home: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts the command that takes a batch of 150 images which lies, with the object store, on the test's own server."""
    there = place("s3://tests/inbox/b")
    fill(there, 0, 150, I3={"age": "-3"})
    time.sleep(1)
    processes = []

    def run(patience: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", INGEST, patience, "ingest", "inbox:s3://tests/inbox", "--json"]
        own = {**os.environ, "DERMANET_OBJECTS": "s3://tests/objects"}
        process = subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()


def wait_for_some(home: Path) -> None:
    """Returns when a part of the batch is in the catalogue."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (home / "catalogue.db").exists() and Catalogue(f"sqlite:///{home}/catalogue.db").records():
            return
        time.sleep(0.01)
    pytest.fail("nothing was taken")


def test_an_ingest_outlasts_a_restart_of_the_server(
    own_s3: Seaweed, on_own_s3: Callable[[str], subprocess.Popen[str]], home: Path
) -> None:
    process = on_own_s3("90")
    wait_for_some(home)
    own_s3.kill()
    assert process.poll() is None, "it was not over yet"
    time.sleep(3)
    own_s3.start()
    output, errors = process.communicate(timeout=120)
    counts = json.loads(output)
    assert (process.returncode, counts["accepted"], counts["quarantined"]) == (0, 149, {"impossible age": 1}), errors
    assert "trying again" in errors
    assert receipt(place("s3://tests/inbox/b"))["accepted"] == 149


def test_a_server_that_stays_away_is_a_fault_and_the_next_run_completes(
    own_s3: Seaweed, on_own_s3: Callable[[str], subprocess.Popen[str]], home: Path
) -> None:
    process = on_own_s3("2")
    wait_for_some(home)
    own_s3.kill()
    errors = process.communicate(timeout=60)[1]
    last = errors.strip().splitlines()[-1]
    assert process.returncode == 1, errors
    assert last.startswith("dermanet: s3://") and own_s3.endpoint in last and "nothing is lost, run this again" in last
    own_s3.start()
    own_s3.wait()
    assert not place("s3://tests/inbox/b").exists(RECEIPT)
    output, errors = on_own_s3("90").communicate(timeout=120)
    assert json.loads(output)["accepted"] == 149 == receipt(place("s3://tests/inbox/b"))["accepted"]
