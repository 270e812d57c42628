"""Following the champion: under load, and while everything around it breaks."""

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from installation import Installation, photo
from mlflow.exceptions import MlflowException
from variants import older, registry
from waiting import until

from dermanet.registry.shelf import Shelf
from dermanet.registry.tracking import Tracking
from dermanet.registry.versions import CHAMPION, Versions
from dermanet.serving.app import build
from dermanet.serving.follow import Following
from dermanet.serving.guard import Limits


@pytest.fixture
def following(installation: Installation) -> Iterator[Following]:
    found = Following(registry(installation), CHAMPION, 0.05, installation.home / "served")
    found.look()
    yield found
    found.stop()


def _body(folder: Path) -> dict[str, Any]:
    return {"dataframe_records": [{"image": base64.b64encode(photo(folder).read_bytes()).decode()}]}


def test_fifty_promotions_and_rollbacks_under_load(
    installation: Installation, following: Following, tmp_path: Path
) -> None:
    older(installation, tmp_path / "two")
    body, ended = _body(tmp_path), threading.Event()
    following.start()
    with TestClient(build(following, Limits(queue=100)), base_url="http://127.0.0.1") as client:
        first = client.post("/invocations", json=body).json()["predictions"][0]["age"]
        wanted = {"1": first, "2": pytest.approx(first + 10, abs=0.11)}

        def load() -> list[tuple[int, str, float]]:
            found = []
            while not ended.is_set():
                answer = client.post("/invocations", json=body)
                found.append(
                    (answer.status_code, answer.headers["x-model-version"], answer.json()["predictions"][0]["age"])
                )
            return found

        with ThreadPoolExecutor(3) as pool:
            loads = [pool.submit(load) for _ in range(3)]
            for turn in range(50):
                version = "12"[(turn + 1) % 2]
                following.versions.move(CHAMPION, version)
                until(lambda version=version: following.served is not None and following.served.version == version)
            ended.set()
            answers = [one for each in loads for one in each.result()]
    assert {status for status, _, _ in answers} == {200}
    assert {version for _, version, _ in answers} == {"1", "2"}
    # The age tells which network it was, the header which it says it was.
    assert all(age == wanted[version] for _, version, age in answers)


def test_a_request_that_waits_is_answered_by_the_version_of_its_door(
    installation: Installation, following: Following, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = older(installation, tmp_path / "two")
    body, inside, go = _body(tmp_path), threading.Event(), threading.Event()
    before, whole = following.served, Following.rows

    def slow(self: Following, *given: Any) -> Any:
        inside.set()
        go.wait(20)
        return whole(self, *given)

    monkeypatch.setattr(Following, "rows", slow)
    with TestClient(build(following), base_url="http://127.0.0.1") as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/invocations", json=body)
        inside.wait(20)
        following.versions.move(CHAMPION, two)
        following.look()
        assert following.served and following.served.version == two
        go.set()
        answer, after = waiting.result(), client.post("/invocations", json=body)
    assert before and answer.headers["x-model-digest"] == before.digest
    assert (answer.headers["x-model-version"], after.headers["x-model-version"]) == ("1", two)
    ages = [one.json()["predictions"][0]["age"] for one in (answer, after)]
    assert ages[1] == pytest.approx(ages[0] + 10, abs=0.11)


@pytest.mark.parametrize("spoilt", ["graph", "fingerprint", "golden", "gone"])
def test_a_version_that_is_broken_leaves_the_old_one_serving_and_says_why(
    installation: Installation, following: Following, tmp_path: Path, spoilt: str
) -> None:
    version = older(installation, tmp_path / "two", spoilt=spoilt)
    following.versions.move(CHAMPION, version)
    following.look()
    assert following.served and following.served.version == "1"
    assert following.trouble and following.trouble.startswith(f"version {version} does not load: ")
    assert following.trouble.endswith("version 1 stays")
    following.versions.move(CHAMPION, "1")
    following.look()
    assert following.trouble is None


def test_a_full_disk_ends_no_following_and_is_told(
    installation: Installation, following: Following, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = older(installation, tmp_path / "two")
    whole = Path.write_text

    def full(self: Path, *given: Any, **named: Any) -> int:
        if self.name.startswith("served.json"):
            raise OSError(28, "No space left on device")
        return whole(self, *given, **named)

    following.start()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        following.versions.move(CHAMPION, two)
        until(lambda: following.trouble is not None)
        assert following.served and following.served.version == two
        assert following.trouble and "a start without the registry would not find it" in following.trouble
    until(lambda: following.trouble is None)
    assert json.loads((installation.home / "served/served.json").read_text())["about"]["version"] == two
    following.versions.move(CHAMPION, "1")
    until(lambda: following.served is not None and following.served.version == "1")


def test_whatever_a_look_raises_the_next_one_comes(following: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []

    def deaf() -> None:
        heard.append(1)
        raise RuntimeError("of no interest\nand long")

    following.looked.append(deaf)
    following.start()
    until(lambda: len(heard) > 3)
    assert following.trouble == "the look at the registry failed: RuntimeError: of no interest"
    following.looked.remove(deaf)
    until(lambda: following.trouble is None)


def test_what_was_broken_is_tried_again_ever_more_rarely(
    installation: Installation, following: Following, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = older(installation, tmp_path / "two")
    away = tmp_path / "away"
    (tmp_path / "two").rename(away)
    following.versions.move(CHAMPION, version)
    tried, clock = [], [time.monotonic()]
    fetch = Versions.fetch
    monkeypatch.setattr(Versions, "fetch", lambda *words: (tried.append(clock[0]), fetch(*words)))
    monkeypatch.setattr("dermanet.serving.follow.time.monotonic", lambda: clock[0])
    for _ in range(40):
        following.look()
        clock[0] += 0.5
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert pauses == sorted(pauses)
    assert 3 <= len(pauses) <= 5
    away.rename(tmp_path / "two")
    clock[0] += 60
    following.look()
    assert following.served and following.served.version == version


def test_a_registry_that_is_away_leaves_the_version_and_says_for_how_long(
    installation: Installation, following: Following, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: Versions, alias: str) -> None:
        raise MlflowException("no route to the registry")

    with monkeypatch.context() as patch, TestClient(build(following), base_url="http://127.0.0.1") as client:
        patch.setattr(Versions, "at", away)
        time.sleep(0.2)
        following.look()
        told = client.get("/model").json()
        assert client.post("/invocations", json=_body(tmp_path)).status_code == 200
    assert told["version"] == "1"
    assert told["looked"] >= 0.2
    assert told["trouble"] == "the registry cannot be asked: MlflowException: no route to the registry"
    following.look()
    assert following.trouble is None


def test_model_says_which_version_is_served_why_and_how_old_that_word_is(
    installation: Installation, following: Following
) -> None:
    version = registry(installation).get("1")
    (snapshot,) = (installation.home / "snapshots").iterdir()
    with TestClient(build(following), base_url="http://127.0.0.1") as client:
        time.sleep(1)
        told = client.get("/model").json()
        following.look()
        after = client.get("/model").json()["looked"]
    assert following.served
    assert (told["model"], told["version"], told["digest"]) == ("dermanet", "1", following.served.digest)
    assert (told["alias"], told["aliases"], told["poll"]) == (CHAMPION, [CHAMPION], 0.05)
    assert (told["verdict"], told["registered"]) == ("pass", version.creation_timestamp)
    assert told["report"] == version.tags["dermanet.report"] and str(version.run_id) in told["report"]
    assert (told["trained_on"], told["experiment"]) == (snapshot.name, "smoke")
    assert told["looked"] >= 1 > after


def test_a_scorer_that_starts_without_the_registry_serves_what_was_served_last(
    installation: Installation, following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: Versions, alias: str) -> None:
        raise ConnectionError

    monkeypatch.setattr(Versions, "at", away)
    other = Following(following.versions, CHAMPION, 60, installation.home / "served")
    other.look()
    assert other.served and following.served
    assert (other.served.version, other.served.digest) == ("1", following.served.digest)
    assert other.trouble
    empty = Following(following.versions, CHAMPION, 60, installation.home / "elsewhere")
    empty.look()
    assert empty.served is None


@pytest.mark.parametrize("spoilt", ["gone", "graph", ""], ids=["files gone", "graph broken", "alias gone"])
def test_a_scorer_that_starts_while_there_is_no_champion_to_load_serves_what_was_served_last(
    installation: Installation, following: Following, tmp_path: Path, spoilt: str
) -> None:
    following.versions.move(CHAMPION, older(installation, tmp_path / "two", spoilt=spoilt) if spoilt else None)
    other = Following(following.versions, CHAMPION, 60, installation.home / "served")
    for one in (following, other):
        one.look()
        assert one.served and one.served.version == "1"
        assert one.trouble and one.trouble.endswith("; version 1 stays")
    following.versions.move(CHAMPION, "1")
    other.look()
    assert other.trouble is None


def test_what_was_served_last_of_another_registry_or_name_is_not_served(
    installation: Installation, following: Following, tmp_path: Path
) -> None:
    folder, elsewhere = installation.home / "served", Tracking(f"sqlite:///{tmp_path / 'other.db'}", tmp_path)
    for versions in (Versions(elsewhere.client, "dermanet"), replace(following.versions, name="others")):
        other = Following(versions, CHAMPION, 60, folder)
        other.look()
        assert other.served is None and other.trouble is None


def test_a_version_that_was_asked_for_is_not_replaced_by_what_was_served_last(
    installation: Installation, following: Following, tmp_path: Path
) -> None:
    version = older(installation, tmp_path / "two", spoilt="gone")
    pinned = Following(following.versions, CHAMPION, 60, installation.home / "served", version)
    pinned.look()
    assert pinned.served is None and pinned.trouble


def test_an_alias_that_nobody_holds_leaves_the_version_and_says_so(following: Following) -> None:
    following.versions.move(CHAMPION, None)
    following.look()
    assert following.served and following.served.version == "1"
    assert following.trouble == "no version holds champion; version 1 stays"


def test_the_bell_hastens_a_look(installation: Installation, following: Following, tmp_path: Path) -> None:
    slow = Following(following.versions, CHAMPION, 3600, installation.home / "served")
    slow.start()
    with TestClient(build(slow), base_url="http://127.0.0.1") as client:
        version = older(installation, tmp_path / "two")
        slow.versions.move(CHAMPION, version)
        time.sleep(0.3)
        assert slow.served and slow.served.version == "1"
        assert client.post("/follow").status_code == 202
        until(lambda: slow.served is not None and slow.served.version == version)
        assert client.get("/model").json()["aliases"] == [CHAMPION]
    slow.stop()


def test_what_a_model_trained_with_is_not_fetched(installation: Installation, following: Following) -> None:
    names = {path.name for path in (installation.home / "served").rglob("*") if path.is_file()}
    assert {"MLmodel", "model.onnx", "card.json", "golden.json", "served.json"} <= names
    assert "model.keras" not in names


def test_a_damaged_copy_on_disk_is_fetched_anew(installation: Installation, following: Following) -> None:
    (copy,) = (installation.home / "served").glob("1-*")
    (copy / "artifacts" / "model.onnx").write_bytes(b"")
    fresh = Following(following.versions, CHAMPION, 60, installation.home / "served")
    fresh.look()
    assert fresh.served and fresh.served.version == "1"


def test_what_killed_processes_left_is_cleared_away_and_no_version(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    for name in ("old", "new"):
        (shelf.root / f".{name}").mkdir(parents=True)
    os.utime(shelf.root / ".old", (0, 0))
    shelf.get("1-a", lambda folder: (folder / "file").write_text("whole"))
    assert {path.name for path in shelf.root.iterdir()} == {"1-a", ".new"}
    assert shelf.find("1-a") == shelf.root / "1-a"
    (shelf.root / "1-a" / "file").write_text("rot")
    assert shelf.find("1-a") is None
