"""`dermanet ingest` and `dermanet prepare`, killed twenty times each at random moments: the end is that of an unbroken run."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import samples
from commands import Commands
from storeroom import Installation, dump

from dermanet import settings, stages
from dermanet.intake import inventory

KILLS = 20
IMAGES, BAD = 120, 6
SHARD = 8


@pytest.fixture(scope="module")
def small_steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Something to run commands with, whose batches and shards are small: a kill shall fall between two of them."""
    running = Commands(tmp_path_factory.mktemp("commands"), f"ingest.BATCH, shards.SHARD = 10, {SHARD}")
    yield running
    running.close()


def told(commands: Commands, words: Sequence[str], environ: dict[str, str], after: float | None = None) -> Any:
    """What a command prints as JSON; None where it was killed, `after` seconds, before it had ended."""
    done = commands.run([*words, "--json"], {**os.environ, **environ}, after=after)
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder(ham10000: Callable[..., Path]) -> Path:
    """A set of images large enough for their pixels to be work, a bad record in every twenty."""
    files = {f"ISIC_{number:07d}.jpg": samples.jpeg(number, 300, 225) for number in range(IMAGES)}
    every = IMAGES // BAD
    files |= {f"ISIC_{number:07d}.jpg": b"" for number in range(0, IMAGES, 2 * every)}
    return ham10000(IMAGES, files=files, rows={number: {"age": "-3"} for number in range(every, IMAGES, 2 * every)})


def moments(takes: float, seed: int) -> Iterator[float]:
    """When to kill: one moment in each twentieth of the time that it takes, in no order."""
    chance = random.Random(seed)
    print(f"seed {seed}: {KILLS} kills within {takes:.2f} s")
    parts = list(range(KILLS))
    chance.shuffle(parts)
    return iter([takes * (part + chance.random()) / KILLS for part in parts])


def environ_of(here: Installation) -> dict[str, str]:
    return {"DERMANET_HOME": str(here.folder), "DERMANET_CATALOGUE": here.url}


def test_an_ingest_killed_twenty_times(
    small_steps: Commands, folder: Path, new_installation: Callable[[str], Installation]
) -> None:
    whole = new_installation("whole")
    clock = time.monotonic()
    expected = told(small_steps, ["ingest", str(folder)], environ_of(whole))
    takes = time.monotonic() - clock
    assert expected and expected["accepted"] == IMAGES - BAD
    homes, here = 1, new_installation("killed 1")
    for moment in moments(takes, seed=20):
        while told(small_steps, ["ingest", str(folder)], environ_of(here), after=moment):
            # It was quicker than its killer: all is there, and the next one, killed earlier, begins with nothing.
            as_if_nothing_had_been(here, whole)
            homes, moment = homes + 1, moment * 0.9
            here = new_installation(f"killed {homes}")
        assert inventory.survey(here.catalogue, here.objects).missing == ()
    done = told(small_steps, ["ingest", str(folder)], environ_of(here))
    assert done and done["accepted"] + done["known"] == IMAGES - BAD and done["quarantined"] == expected["quarantined"]
    as_if_nothing_had_been(here, whole)


def as_if_nothing_had_been(here: Installation, whole: Installation) -> None:
    """The same catalogue, and exactly its files; what was left half-written does not count and goes when it is pruned."""
    assert dump(here) == dump(whole)
    assert here.objects.listing() == whole.objects.listing()
    assert inventory.check(here.catalogue, here.objects) == []
    for name in here.objects.unfinished(time.time() + 60):
        here.objects.remove(name)
    files = [{path.relative_to(one.folder) for path in (one.folder / "objects").rglob("*")} for one in (here, whole)]
    assert files[0] == files[1]


def test_a_preparation_killed_twenty_times(
    small_steps: Commands, folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"DERMANET_HOME": str(home)}
    told(small_steps, ["ingest", str(folder)], environ)
    arguments = ["prepare", stages.snapshot()["snapshot"], "--experiment", "demo"]
    clock = time.monotonic()
    whole = told(small_steps, arguments, environ)
    takes = time.monotonic() - clock
    images = IMAGES - BAD
    assert whole and whole["computed"] == images
    cache, unbroken = settings.read().home / "prepared", tmp_path / "unbroken"
    cache.rename(unbroken)
    before: set[str] = set()
    for moment in moments(takes, seed=21):
        while told(small_steps, arguments, environ, after=moment):
            assert contents(cache) == contents(unbroken)
            shutil.rmtree(cache)
            before, moment = set(), moment * 0.9
        shards = set(contents(cache))
        assert before <= shards, "a whole shard is never lost, nor made again under another name"
        before = shards
    # Shards are made in no order, and one of them is smaller.
    there = sum(len(json.loads(path.read_bytes())["digests"]) for path in cache.glob("*/*.json") if path.stem in before)
    done = told(small_steps, arguments, environ)
    assert done and done["computed"] == images - there and done["damaged"] == []
    assert contents(cache) == contents(unbroken)
    assert stages.check_cache() == {"damaged": []}


def contents(cache: Path) -> dict[str, bytes]:
    """Every whole shard of a cache, its pixels by its name."""
    return {
        path.stem: path.with_suffix(".npy").read_bytes() for path in cache.glob("*/*.json") if path.stem != "recipe"
    }
