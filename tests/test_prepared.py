"""Prepared pixels: made once, shared by everyone, whole after any kill."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import samples

from dermanet.errors import DermaNetError, UnreadableImage
from dermanet.pixels import prepared
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import prepare, recipe

SMALL = recipe("dermanet@32")
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


def test_only_what_is_new_is_prepared(tmp_path: Path) -> None:
    pixels = PreparedPixels(tmp_path, SMALL)
    pixels.fill(digests(5), read)
    asked: Counter[str] = Counter()
    done = pixels.fill(digests(9) + digests(3), lambda digest: asked.update([digest]) or read(digest))
    assert (done.computed, done.reused) == (4, 5)
    assert asked == Counter(digests(9)[5:])
    assert right(pixels, digests(9))


def test_each_recipe_keeps_its_own(tmp_path: Path) -> None:
    first, second = PreparedPixels(tmp_path, SMALL), PreparedPixels(tmp_path, recipe("plain@32"))
    first.fill(digests(4), read)
    assert digests(1)[0] in first and digests(1)[0] not in second
    assert second.fill(digests(4), read).computed == 4
    assert right(first, digests(4)) and right(second, digests(4))
    assert not np.array_equal(first.image(digests(1)[0]), second.image(digests(1)[0]))


def test_images_are_found_in_any_order_across_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "SHARD", 4)
    pixels = PreparedPixels(tmp_path, SMALL)
    pixels.fill(digests(11), read)
    assert len(list(tmp_path.rglob("*.npy"))) == 3
    wanted = [digests(11)[place] for place in (10, 0, 7, 7, 3)]
    batch = pixels.batch(wanted)
    assert batch.shape == (5, 32, 32, 3) and batch.dtype == np.uint8
    assert np.array_equal(batch, np.stack([prepare(read(digest), SMALL) for digest in wanted]))


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
    monkeypatch.setattr(prepared, "SHARD", 4)
    pixels = PreparedPixels(tmp_path, SMALL)
    pixels.fill(digests(3), read)
    told: list[int] = []
    pixels.fill(digests(12), read, told.append)
    assert told == [3, 7, 11, 12]


def test_a_bad_image_ends_the_fill_and_leaves_no_half_shard(tmp_path: Path) -> None:
    pixels = PreparedPixels(tmp_path, SMALL)
    bad = digests(10)[6]
    with pytest.raises(UnreadableImage):
        pixels.fill(digests(10), lambda digest: b"junk" if digest == bad else read(digest))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert pixels.fill(digests(10), read).computed == 10


@pytest.mark.parametrize("damage", ["shape", "cut", "empty", "gone"])
def test_a_damaged_shard_is_named_and_the_remedy_works(tmp_path: Path, damage: str) -> None:
    pixels = PreparedPixels(tmp_path, SMALL)
    pixels.fill(digests(6), read)
    (shard,), (index,) = pixels.folder.glob("*.npy"), pixels.folder.glob("*.json")
    if damage == "shape":
        np.save(shard, np.zeros((5, 32, 32, 3), np.uint8))
    elif damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[: 1000 if damage == "cut" else 0])
    with pytest.raises(DermaNetError) as caught:
        PreparedPixels(tmp_path, SMALL)
    assert str(shard) in str(caught.value) and f"delete {index} and prepare again" in str(caught.value)
    index.unlink()
    mended = PreparedPixels(tmp_path, SMALL)
    assert mended.fill(digests(6), read).computed == 6 and right(mended, digests(6))


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
t.prepared.SHARD, os.replace = 4, replace
t.PreparedPixels(Path(sys.argv[1]), t.SMALL).fill(t.digests(12), t.read)
"""


@pytest.mark.parametrize("rename", [1, 2, 3])
def test_a_fill_that_is_killed_at_a_rename_leaves_whole_shards_alone(tmp_path: Path, rename: int) -> None:
    command = [sys.executable, "-c", KILLED_AT_A_RENAME, str(tmp_path), str(rename)]
    assert subprocess.run(command, cwd=Path(__file__).parent).returncode == -signal.SIGKILL
    pixels = PreparedPixels(tmp_path, SMALL)
    there = [digest for digest in digests(12) if digest in pixels]
    assert len(there) == 4 * ((rename - 1) // 2) and right(pixels, there)
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
    assert not [path for path in pixels.folder.iterdir() if path.name.startswith(".")]
    for index in pixels.folder.glob("*.json"):
        assert len(np.load(index.with_suffix(".npy"), mmap_mode="r")) == len(json.loads(index.read_text()))
