"""Prepared pixels: made once, shared by everyone, whole after any kill."""

import errno
import fcntl
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples

from dermanet.errors import DermaNetError, UnreadableImage
from dermanet.pixels import removal, shards
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import prepare, recipe

SMALL = recipe("plain@32")
FILES = [samples.jpeg(seed) for seed in range(16)]


def digests(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def read(digest: str) -> bytes:
    return FILES[int(digest[:8], 16) % len(FILES)]


def right(pixels: PreparedPixels, wanted: list[str]) -> bool:
    expected = [prepare(data, pixels.recipe) for data in FILES]
    return all(np.array_equal(pixels.image(digest), expected[FILES.index(read(digest))]) for digest in wanted)


def test_what_was_prepared_is_what_preparing_makes(tmp_path: Path) -> None:
    pixels = PreparedPixels(tmp_path, SMALL)
    done = pixels.fill(digests(20), read)
    assert (done.computed, done.reused) == (20, 0)
    assert right(pixels, digests(20))


def test_a_second_fill_reads_no_image(tmp_path: Path) -> None:
    PreparedPixels(tmp_path, SMALL).fill(digests(20), read)
    asked: list[str] = []
    done = PreparedPixels(tmp_path, SMALL).fill(digests(20), lambda digest: asked.append(digest) or read(digest))
    assert (done.computed, done.reused, asked) == (0, 20, [])


def test_what_another_process_makes_meanwhile_is_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 4)
    other = PreparedPixels(tmp_path, SMALL)
    asked: Counter[str] = Counter()

    def counted(digest: str) -> bytes:
        asked[digest] += 1
        if len(asked) == 1:
            other.fill(digests(20)[:10], read)
        return read(digest)

    told: list[int] = []
    done = PreparedPixels(tmp_path, SMALL).fill(digests(20), counted, told.append)
    # Two shards are begun before the first is written: what of them the other made is made twice at most.
    assert len(asked) <= 10 + 8 and set(digests(20)[10:]) <= set(asked) and set(asked.values()) == {1}
    assert (done.computed, done.reused) == (len(asked), 20 - len(asked))
    assert told[0] == 0 and told[-1] == 20 and told == sorted(told)
    assert right(PreparedPixels(tmp_path, SMALL), digests(20))


def test_only_what_is_new_is_prepared(tmp_path: Path) -> None:
    pixels = PreparedPixels(tmp_path, SMALL)
    pixels.fill(digests(5), read)
    asked: Counter[str] = Counter()
    done = pixels.fill(digests(9) + digests(3), lambda digest: asked.update([digest]) or read(digest))
    assert (done.computed, done.reused) == (4, 5)
    assert asked == Counter(digests(9)[5:])
    assert right(pixels, digests(9))


def test_every_core_has_an_image_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4})
    together = threading.Barrier(5, timeout=60)

    def met(digest: str) -> bytes:
        together.wait()
        return read(digest)

    assert PreparedPixels(tmp_path, SMALL).fill(digests(10), met).computed == 10


def test_each_recipe_keeps_its_own(tmp_path: Path) -> None:
    first, second = PreparedPixels(tmp_path, SMALL), PreparedPixels(tmp_path, recipe("grey@32"))
    first.fill(digests(4), read)
    assert digests(1)[0] in first and digests(1)[0] not in second
    assert second.fill(digests(4), read).computed == 4
    assert right(first, digests(4)) and right(second, digests(4))
    assert not np.array_equal(first.image(digests(1)[0]), second.image(digests(1)[0]))


def test_images_are_found_in_any_order_across_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 4)
    pixels = PreparedPixels(tmp_path, SMALL)
    pixels.fill(digests(11), read)
    assert len(list(tmp_path.rglob("*.npy"))) == 3
    wanted = [digests(11)[place] for place in (10, 0, 7, 7, 3)]
    batch = pixels.batch(wanted)
    assert batch.shape == (5, 32, 32, 3) and batch.dtype == np.uint8
    assert np.array_equal(batch, np.stack([prepare(read(digest), SMALL) for digest in wanted]))


def resident(root: Path) -> int:
    """Kilobytes of the mapped files under a folder that this process holds."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word, *rest = line.split()
        if not word.endswith(":"):
            ours = str(root) in line
        elif ours and word == "Rss:":
            found += int(rest[0])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says which pages a process holds")
def test_a_batch_leaves_no_page_of_its_shards_behind(tmp_path: Path) -> None:
    pixels = PreparedPixels(tmp_path, SMALL)
    pixels.fill(digests(6), read)
    pixels.image(digests(6)[5]).sum()
    assert resident(tmp_path) > 0
    pixels.batch(digests(6))
    assert resident(tmp_path) == 0
    assert right(pixels, digests(6))


def test_a_batch_may_be_written_to_and_the_cache_may_not(tmp_path: Path) -> None:
    pixels = PreparedPixels(tmp_path, SMALL)
    pixels.fill(digests(2), read)
    pixels.batch(digests(2))[:] = 0
    assert right(pixels, digests(2))
    with pytest.raises(ValueError, match="read-only"):
        pixels.image(digests(1)[0])[:] = 0


def test_an_image_that_was_never_prepared_is_a_key_error(tmp_path: Path) -> None:
    pixels = PreparedPixels(tmp_path, SMALL)
    with pytest.raises(KeyError):
        pixels.image(digests(1)[0])


def test_progress_counts_from_what_was_there_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 4)
    pixels = PreparedPixels(tmp_path, SMALL)
    pixels.fill(digests(3), read)
    told: list[int] = []
    pixels.fill(digests(12), read, told.append)
    # Nine in shards of four, four and one, in any order.
    assert (told[0], told[-1]) == (3, 12)
    assert sorted(after - before for before, after in pairwise(told)) == [1, 4, 4]


def test_a_bad_image_ends_the_fill_and_leaves_no_half_shard(tmp_path: Path) -> None:
    pixels = PreparedPixels(tmp_path, SMALL)
    bad = digests(10)[6]
    with pytest.raises(UnreadableImage):
        pixels.fill(digests(10), lambda digest: b"junk" if digest == bad else read(digest))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["recipe.json"]
    assert pixels.fill(digests(10), read).computed == 10


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        "cut", "longer", "empty", "gone", "index cut", "index of another", "index without checks",
        "index of endless checks", "index of nothing but brackets",
    ],
)  # fmt: skip
def test_a_damaged_shard_is_named_and_made_again_by_the_next_fill(tmp_path: Path, damage: str) -> None:
    pixels = PreparedPixels(tmp_path, SMALL)
    pixels.fill(digests(6), read)
    (shard,), (index,) = pixels.shards.folder.glob("*.npy"), shards.indexes(pixels.shards.folder)
    record = json.loads(index.read_text())
    if damage.startswith("index"):
        changed = {
            "index cut": index.read_text()[:100],
            "index of another": json.dumps({**record, "digests": record["digests"][::-1]}),
            "index without checks": json.dumps(record["digests"]),
            "index of endless checks": json.dumps({**record, "crc32": [float("inf")] * 6}),
            "index of nothing but brackets": "[" * 100_000,
        }
        index.write_text(changed[damage])
    elif damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes({"cut": shard.read_bytes()[:1000], "longer": shard.read_bytes() + b"x", "empty": b""}[damage])
    mended = PreparedPixels(tmp_path, SMALL)
    assert digests(1)[0] not in mended
    done = mended.fill(digests(6), read)
    assert (done.computed, done.reused) == (6, 0) and right(mended, digests(6))
    (named,) = done.damaged
    assert named.startswith(str(shard)) and "\n" not in named
    assert mended.fill(digests(6), read).damaged == ()


@pytest.mark.parametrize("where", [128, 128 + 3 * 32 * 32 * 3, -1], ids=["first", "middle", "last"])
def test_a_wrong_pixel_is_found_when_its_image_is_first_used(tmp_path: Path, where: int) -> None:
    PreparedPixels(tmp_path, SMALL).fill(digests(6), read)
    (shard,) = tmp_path.rglob("*.npy")
    flip(shard, where)
    pixels = PreparedPixels(tmp_path, SMALL)
    with pytest.raises(DermaNetError) as caught:
        pixels.batch(digests(6))
    assert str(shard) in str(caught.value) and "run this again" in str(caught.value)
    mended = PreparedPixels(tmp_path, SMALL)
    assert mended.fill(digests(6), read).computed == 6 and right(mended, digests(6))


@pytest.mark.parametrize("left", [None, 1000])
def test_a_shard_that_goes_while_a_cache_is_open_is_named_in_one_line(tmp_path: Path, left: int | None) -> None:
    PreparedPixels(tmp_path, SMALL).fill(digests(3), read)
    pixels = PreparedPixels(tmp_path, SMALL)
    (shard,) = tmp_path.rglob("*.npy")
    if left is None:
        shards.set_aside(shard)
    else:
        os.truncate(shard, left)
    with pytest.raises(DermaNetError, match="run this again") as caught:
        pixels.batch(digests(3))
    assert str(shard) in str(caught.value) and "\n" not in str(caught.value)
    assert PreparedPixels(tmp_path, SMALL).fill(digests(3), read).computed == 3


def test_a_shard_that_was_made_again_meanwhile_is_not_set_aside(tmp_path: Path) -> None:
    PreparedPixels(tmp_path, SMALL).fill(digests(3), read)
    (shard,) = tmp_path.rglob("*.npy")
    sound = shard.read_bytes()
    flip(shard, 200)
    late = PreparedPixels(tmp_path, SMALL)
    late.image(digests(3)[2])
    shard.unlink()
    shard.write_bytes(sound)
    with pytest.raises(DermaNetError, match="made again"):
        late.image(digests(1)[0])
    assert right(PreparedPixels(tmp_path, SMALL), digests(3))


def test_what_killed_runs_left_goes_and_what_others_write_stays(tmp_path: Path) -> None:
    pixels = PreparedPixels(tmp_path, SMALL)
    pixels.fill(digests(2), read)
    dead, old, young = (
        pixels.shards.folder / ".dead",
        pixels.shards.folder / "old.npy",
        pixels.shards.folder / "young.npy",
    )
    for path in (dead, old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    with shards._Temporary(pixels.shards.folder) as held:
        pixels.fill(digests(4), read)
        assert held.path.exists()
    assert not dead.exists() and not old.exists() and young.exists()
    assert right(PreparedPixels(tmp_path, SMALL), digests(4))


def test_rows_whose_index_is_being_written_are_no_killed_run_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cleaned = shards._Temporary.rename, list[Path]()

    def late(self: shards._Temporary, target: Path) -> None:
        if target.suffix == ".json" and target.name != shards.ABOUT:
            removal.remove(tmp_path, [])
            cleaned.append(target)
        whole(self, target)

    monkeypatch.setattr(shards._Temporary, "rename", late)
    assert PreparedPixels(tmp_path, SMALL).fill(digests(3), read).computed == 3
    assert cleaned and right(PreparedPixels(tmp_path, SMALL), digests(3))


def test_who_begins_a_file_that_a_cleaner_looks_at_begins_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, taken = fcntl.flock, iter([True])

    def looked_at(file: Any, how: int) -> None:
        if next(taken, False):
            raise BlockingIOError
        whole(file, how)

    monkeypatch.setattr(fcntl, "flock", looked_at)
    with shards._Temporary(tmp_path) as held:
        assert list(tmp_path.iterdir()) == [held.path] and shards.left(tmp_path) == []


def test_a_full_disk_is_one_line_and_what_was_whole_is_kept(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 100)
    pixels = PreparedPixels(small_disk, SMALL)
    with pytest.raises(DermaNetError, match="no space left") as caught:
        pixels.fill(digests(400), read)
    assert "\n" not in str(caught.value) and caught.value.exit_status == 1
    kept = PreparedPixels(small_disk, SMALL)
    there = [digest for digest in digests(400) if digest in kept]
    shares = [len(set(there) & set(digests(400)[start : start + 100])) for start in range(0, 400, 100)]
    assert len(there) in {200, 300} and set(shares) == {0, 100} and right(kept, there)
    assert not [path for path in kept.shards.folder.iterdir() if path.name.startswith(".")]
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert kept.fill(digests(400), read).computed == 400 - len(there) and right(kept, digests(400))


@pytest.mark.parametrize("write", [1, 3, 5])
def test_a_disk_that_fills_at_any_write_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    pixels, left, whole = PreparedPixels(tmp_path, SMALL), [write], shards._Temporary.write

    def full(self: shards._Temporary, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        whole(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(shards._Temporary, "write", full)
        with pytest.raises(DermaNetError, match="no space left"):
            pixels.fill(digests(3), read)
    assert {path.name for path in pixels.shards.folder.iterdir()} <= {"recipe.json"}
    assert pixels.fill(digests(3), read).computed == 3


FILL = """
import sys
from pathlib import Path
import test_prepared as t
print("ready", flush=True)
sys.stdin.readline()
print(t.PreparedPixels(Path(sys.argv[1]), t.SMALL).fill(t.digests(int(sys.argv[2])), t.read))
"""


def filler(root: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FILL, str(root), str(count)]
    return subprocess.Popen(
        command, cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdout and process.stdin and process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def test_a_fill_that_is_killed_again_and_again_is_whole_in_the_end(tmp_path: Path) -> None:
    wanted = digests(1500)
    clock = time.monotonic()
    PreparedPixels(tmp_path / "undisturbed", SMALL).fill(wanted, read)
    takes = time.monotonic() - clock
    processes = [filler(tmp_path / "killed", len(wanted)) for _ in range(4)]
    chance = random.Random(1)
    for process in processes:
        start(process)
        time.sleep(chance.uniform(0, takes / 2))
        process.kill()
        process.communicate()
        between = PreparedPixels(tmp_path / "killed", SMALL)
        assert right(between, [digest for digest in wanted if digest in between])
    pixels = PreparedPixels(tmp_path / "killed", SMALL)
    there = sum(digest in pixels for digest in wanted)
    done = pixels.fill(wanted, read)
    assert (done.computed, done.reused) == (len(wanted) - there, there)
    assert right(pixels, wanted)


KILLED_AT_A_RENAME = """
import os, signal, sys
from pathlib import Path
import test_prepared as t
left, rename = [int(sys.argv[2])], os.replace
def replace(source, target):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
t.shards.SHARD, os.replace = 4, replace
t.PreparedPixels(Path(sys.argv[1]), t.SMALL).fill(t.digests(12), t.read)
"""


@pytest.mark.parametrize("rename", [1, 2, 3, 4])
def test_a_fill_that_is_killed_at_a_rename_leaves_whole_shards_alone(tmp_path: Path, rename: int) -> None:
    command = [sys.executable, "-c", KILLED_AT_A_RENAME, str(tmp_path), str(rename)]
    assert subprocess.run(command, cwd=Path(__file__).parent).returncode == -signal.SIGKILL
    pixels = PreparedPixels(tmp_path, SMALL)
    there = [digest for digest in digests(12) if digest in pixels]
    assert len(there) == 4 * max(0, (rename - 2) // 2) and right(pixels, there)
    assert pixels.fill(digests(12), read).computed == 12 - len(there) and right(pixels, digests(12))


def test_two_fills_at_once_both_end_and_agree(tmp_path: Path) -> None:
    processes = [filler(tmp_path, 600), filler(tmp_path, 900)]
    for process in processes:
        start(process)
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    pixels = PreparedPixels(tmp_path, SMALL)
    assert pixels.fill(digests(900), read).computed == 0
    assert right(pixels, digests(900))
    assert not [path for path in pixels.shards.folder.iterdir() if path.name.startswith(".")]
    for index in shards.indexes(pixels.shards.folder):
        assert len(np.load(index.with_suffix(".npy"), mmap_mode="r")) == len(json.loads(index.read_text())["digests"])
