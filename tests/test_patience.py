"""PostgreSQL goes away in the middle of an ingest: the ingest waits, goes on, and counts as if nothing had been."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import postgres as postgresql
import pytest
import sqlalchemy as sa
from storeroom import Installation, dump

from dermanet import taxonomy
from dermanet.database import patience
from dermanet.errors import DermaNetError
from dermanet.intake import ingest as room
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.ingest import Outcome
from dermanet.intake.sources import open_source
from dermanet.storage import Folder


@pytest.fixture
def here(own_postgres: postgresql.Server, tmp_path: Path) -> Installation:
    return Installation(tmp_path / "here", postgresql.make_database(own_postgres.folder))


def test_an_ingest_outlives_restarts_of_the_database(
    here: Installation, own_postgres: postgresql.Server, ham10000: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(room, "BATCH", 10)
    rows = {number: {"age": "-3"} for number in range(0, 300, 30)}
    folder = ham10000(300, rows=rows)
    undisturbed = Installation(tmp_path / "undisturbed", postgresql.make_database(own_postgres.folder))
    clock = time.monotonic()
    expected = undisturbed.ingest(folder)
    takes = time.monotonic() - clock
    assert expected == Outcome(accepted=290, quarantined=Counter({"impossible age": 10}))
    catalogue = here.catalogue
    ends: list[Outcome | BaseException] = []

    def take_in() -> None:
        try:
            ends.append(room.ingest(open_source(str(folder)), catalogue, here.objects, taxonomy.load()))
        except BaseException as error:
            ends.append(error)

    worker = threading.Thread(target=take_in)
    worker.start()
    chance, restarts = random.Random(4), 0
    while restarts < 4 and worker.is_alive():
        time.sleep(takes * chance.uniform(0.05, 0.3))
        if worker.is_alive():
            own_postgres.stop()
            time.sleep(chance.uniform(0, 0.4))
            own_postgres.start()
            restarts += 1
    worker.join(120)
    assert ends == [expected] and restarts >= 2
    assert dump(here) == dump(undisturbed)
    assert here.objects.listing() == undisturbed.objects.listing()


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "rolled back"])
def test_a_commit_whose_answer_was_lost_counts_as_what_it_was(
    here: Installation, ham10000: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    monkeypatch.setattr(room, "BATCH", 4)
    folder, lost = ham10000(12), [2, 4]
    catalogue = Catalogue(here.url)
    commit, writes = catalogue.engine.dialect.do_commit, [0]

    def lose_the_answer(connection: Any) -> None:
        writes[0] += 1
        if writes[0] in lost:
            if committed:
                commit(connection)
            connection.dbapi_connection.close()
            raise catalogue.engine.dialect.dbapi.OperationalError("server closed the connection unexpectedly")
        commit(connection)

    monkeypatch.setattr(catalogue.engine.dialect, "do_commit", lose_the_answer)
    outcome = room.ingest(open_source(str(folder)), catalogue, here.objects, taxonomy.load())
    assert outcome == Outcome(accepted=12) and writes[0] > max(lost)
    assert len(dump(here)["labels"]) == 12


def test_a_database_that_stays_away_is_one_line_and_the_next_ingest_goes_on(
    here: Installation, own_postgres: postgresql.Server, ham10000: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.5)
    monkeypatch.setattr(room, "BATCH", 5)
    folder = ham10000(60)
    write, written = Folder.write, [0]

    def write_and_stop(self: Folder, name: str, data: bytes) -> None:
        write(self, name, data)
        written[0] += 1
        if written[0] == 40:
            own_postgres.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", write_and_stop)
        clock = time.monotonic()
        with pytest.raises(DermaNetError, match="has not come back for 0 s") as caught:
            here.ingest(folder)
        assert time.monotonic() - clock < 20
    assert "\n" not in str(caught.value) and caught.value.exit_status == 1
    with pytest.raises(DermaNetError, match="cannot be opened") as closed:
        Catalogue(here.url)
    assert "\n" not in str(closed.value)
    own_postgres.start()
    outcome = here.ingest(folder)
    assert outcome.accepted + outcome.known == 60 and outcome.known >= 5


def test_what_is_wrong_with_the_work_itself_is_not_waited_for(here: Installation) -> None:
    clock = time.monotonic()
    with pytest.raises(sa.exc.ProgrammingError):
        patience.write(
            here.catalogue.engine, lambda connection: connection.exec_driver_sql("SELECT nothing FROM nowhere")
        )
    assert time.monotonic() - clock < 10
