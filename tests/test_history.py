"""The history of snapshots: numbers without gaps, given once; verdicts that a second call and a person's word leave standing."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import samples
from sqlalchemy import text

from dermanet.imagefile import Header
from dermanet.intake import history
from dermanet.intake.admission import Arrival
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.look import Look


def test_a_number_is_given_once_however_many_ask(new_database: Callable[[], str]) -> None:
    url, together = new_database(), Barrier(6)
    Catalogue(url)

    def enter(number: int) -> tuple[str, int]:
        catalogue = Catalogue(url)
        together.wait()
        found = history.enter(catalogue, f"s{number % 3}")
        return found.id, found.number

    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(enter, range(6)))
    assert sorted(number for _, number in found) == [1, 2, 3]
    assert len({name for name, _ in found}) == 3


def test_the_one_before_is_the_last_that_is_sound_and_earlier(new_database: Callable[[], str]) -> None:
    catalogue = Catalogue(new_database())
    for name in ("a", "b", "c", "d"):
        history.enter(catalogue, name)
    assert history.before(catalogue, 4) is None
    history.conclude(catalogue, "a", {"whole": 1}, "passed", "")
    history.conclude(catalogue, "b", {"whole": 2}, "anomalous", "too dark")
    found = history.before(catalogue, 4)
    assert found and (found.id, found.number, found.statistics, found.sound) == ("a", 1, {"whole": 1}, True)
    history.conclude(catalogue, "b", {"whole": 2}, "accepted", "a night clinic")
    history.conclude(catalogue, "d", {"whole": 4}, "passed", "")
    assert [found.id if (found := history.before(catalogue, number)) else None for number in (1, 2, 3, 4, 5)] == [
        None, "a", "b", "b", "d",
    ]  # fmt: skip


def test_what_a_person_accepted_stays_so_for_the_reason_first_given(new_database: Callable[[], str]) -> None:
    catalogue = Catalogue(new_database())
    history.enter(catalogue, "a")
    assert history.conclude(catalogue, "a", {"try": 1}, "anomalous", "dark").sound is False
    history.conclude(catalogue, "a", {"try": 2}, "accepted", "Eve: a night clinic")
    kept = history.conclude(catalogue, "a", {"try": 3}, "anomalous", "dark")
    assert (kept.verdict, kept.because, kept.statistics) == ("accepted", "Eve: a night clinic", {"try": 2})
    assert history.entry(catalogue, "a") == kept and history.entry(catalogue, "b") is None


def test_what_images_look_like_and_which_world_they_are_of(new_database: Callable[[], str]) -> None:
    catalogue = Catalogue(new_database())
    seen = Look(120.0, 90.0, 60.0, "0" * 64, bytes(64 * 64), 41.5)
    records = [samples.record(number) for number in range(3)]
    catalogue.take("/real.csv", [Arrival(records[0], Header("jpeg", 64, 48), look=seen)])
    catalogue.take("/real.csv", [Arrival(records[1], Header("jpeg", 640, 480))])
    catalogue.take("synthetic:seed=1", [Arrival(records[2], Header("jpeg", 64, 48), look=seen)])
    found = history.measured(catalogue)
    looks = {"width": 64, "height": 48, "brightness": 120.0, "contrast": 90.0, "detail": 60.0, "ita": 41.5}
    assert found[records[0].digest] == {"world": "", **looks}
    assert found[records[1].digest]["detail"] is None and found[records[1].digest]["width"] == 640
    assert found[records[2].digest]["world"] == "synthetic:seed=1"
    with catalogue.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM snapshots")).scalar() == 0
