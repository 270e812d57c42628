"""The log of predictions: written beside the answers, whatever happens to the database, and never for longer than wanted."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import postgres as postgresql
import pytest
import samples
import sqlalchemy as sa
from storeroom import Installation
from waiting import until

from dermanet.database import turns
from dermanet.database.engine import open_database, writing
from dermanet.database.schema import PREDICTIONS
from dermanet.intake.forgetting import forget, forget_patient
from dermanet.monitoring import predictions
from dermanet.monitoring.predictions import BATCH, Prediction, PredictionLog, between, expire

ROW: dict[str, Any] = {
    "age": 47.1, "age_low": 30.0, "age_high": 60.0, "sex": "male", "diagnosis": "nv",
    "sex_probabilities": {"male": 0.7, "female": 0.3}, "diagnosis_probabilities": {"nv": 0.9, "mel": 0.1},
    "differentials": ["nv", "mel"], "quality": "good", "novelty": 0.4, "refer": None, "error": None,
}  # fmt: skip
REFUSED = {**dict.fromkeys(ROW), "error": "truncated: the file of Anna Must ends early"}
NOW = datetime(2026, 11, 16, 12, tzinfo=UTC)


def prediction(number: int = 0, at: datetime | None = None, **row: Any) -> Prediction:
    return Prediction.of("3", f"{number:064x}", {**ROW, **row}, 0.0123, at)


def count(url: str) -> int:
    with sa.create_engine(url).connect() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(PREDICTIONS)) or 0)


def kept(url: str) -> list[Prediction]:
    moment = datetime.now(UTC)
    return list(between(open_database(url), moment - timedelta(days=36500), moment + timedelta(days=1)))


def test_what_was_answered_comes_back_as_it_was(new_database: Callable[[], str]) -> None:
    url = new_database()
    given = [prediction(1), Prediction.of("4", "f" * 64, REFUSED, 0.001)]
    log = PredictionLog(url, 90)
    for one in given:
        log.put(one)
    log.close()
    assert kept(url) == given
    assert (log.written, log.dropped, log.trouble) == (2, 0, None)
    assert given[0].probabilities == {"sex": ROW["sex_probabilities"], "diagnosis": ROW["diagnosis_probabilities"]}
    assert (given[0].milliseconds, given[1].error, given[1].probabilities) == (12.3, "truncated", None)


def test_a_row_is_written_within_a_second(new_database: Callable[[], str]) -> None:
    url = new_database()
    open_database(url)
    log = PredictionLog(url, 90)
    log.put(prediction())
    until(
        lambda: log.written == 1, 1 + 4
    )  # Slow machines open a database in seconds; the row's own wait is the next one's.
    clock = time.monotonic()
    log.put(prediction(1))
    until(lambda: log.written == 2, 5)
    assert time.monotonic() - clock < 2 * predictions.EVERY + 0.5
    log.close()


def test_rows_are_read_in_the_order_of_time_without_the_end(new_database: Callable[[], str]) -> None:
    url = new_database()
    log = PredictionLog(url, 36500)
    moments = [NOW + timedelta(minutes=number % 700) for number in range(3 * BATCH + 7)]
    for number, at in enumerate(moments):
        log.put(prediction(number, at))
    log.close(30)
    engine = open_database(url)
    found = list(between(engine, NOW, NOW + timedelta(minutes=600)))
    assert [one.at for one in found] == sorted(at for at in moments if at < NOW + timedelta(minutes=600))
    assert len({one.id for one in found}) == len(found)
    assert list(between(engine, NOW + timedelta(days=1), NOW + timedelta(days=2))) == []


def test_a_full_queue_drops_and_counts_and_nobody_waits(new_database: Callable[[], str]) -> None:
    url = new_database()
    engine = open_database(url)
    with writing(engine):
        log = PredictionLog(url, 90, room=50)
        clock = time.monotonic()
        for number in range(200):
            log.put(prediction(number))
        assert time.monotonic() - clock < 0.5
        assert log.dropped == 150
    log.close(30)
    assert (log.written, count(url)) == (50, 50)
    log.put(prediction())
    assert log.dropped == 151


def test_several_processes_write_to_one_database(new_database: Callable[[], str]) -> None:
    url = new_database()
    script = (
        "import sys; from test_predictions import *\nlog = PredictionLog(sys.argv[1], 90)\n"
        "for number in range(1200):\n    log.put(prediction(number)); time.sleep(0.0005)\n"
        "log.close(60); assert (log.written, log.dropped) == (1200, 0), log.trouble"
    )
    command = [sys.executable, "-c", script, url]
    writers = [subprocess.Popen(command, cwd=Path(__file__).parent) for _ in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert count(url) == 3600


def test_a_killed_process_loses_at_most_its_last_second(new_database: Callable[[], str]) -> None:
    url = new_database()
    script = (
        "import sys; from test_predictions import *\nlog = PredictionLog(sys.argv[1], 90); log.put(prediction())\n"
        "until(lambda: log.written == 1)\n"
        "for number in range(100_000):\n    log.put(prediction(number)); print(time.time(), flush=True); time.sleep(0.002)"
    )
    command = [sys.executable, "-c", script, url]
    writer = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    put = [float(writer.stdout.readline()) for _ in range(800)]
    os.kill(writer.pid, signal.SIGKILL)
    put += [float(line) for line in writer.communicate()[0].splitlines()]
    assert count(url) >= 1 + sum(moment < put[-1] - 1 for moment in put)


def test_old_rows_are_removed_at_the_start_in_small_batches_by_turns(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database()
    engine = open_database(url)
    now = datetime.now(UTC)
    old = [prediction(number, now - timedelta(days=8, minutes=number)) for number in range(2 * BATCH + 1)]
    assert predictions._add(engine, [*old, prediction(1, now - timedelta(days=6))]) == 0
    with turns.turn(engine, predictions.TURN):
        log = PredictionLog(url, 7)
        log.put(prediction(2))
        until(lambda: log.written == 1)
        time.sleep(0.2)
        log.close()
        assert log.trouble is None and count(url) == len(old) + 2
    monkeypatch.setattr(predictions, "SWEEP", 0.2)
    log = PredictionLog(url, 7)
    until(lambda: count(url) == 2)
    predictions._add(engine, old[:3])
    until(lambda: count(url) == 2)
    log.close()
    assert expire(engine, now) == 1


def test_switched_off_it_touches_nothing(tmp_path: Path) -> None:
    log = PredictionLog(f"sqlite:///{tmp_path}/none/catalogue.db", 0)
    log.put(prediction())
    log.close()
    assert (log.written, log.dropped) == (0, 0) and not (tmp_path / "none").exists()


def test_a_database_that_is_away_at_the_start_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "AGAIN", 0.05)
    (tmp_path / "place").touch()
    url = f"sqlite:///{tmp_path}/place/catalogue.db"
    with caplog.at_level(logging.WARNING):
        log = PredictionLog(url, 90)
        log.put(prediction())
        until(lambda: log.trouble is not None)
        time.sleep(0.3)
        (tmp_path / "place").unlink()
        until(lambda: log.written == 1)
        until(lambda: log.trouble is None)
        log.close()
    assert [record.message.split(",")[0].split(";")[0] for record in caplog.records] == [
        "predictions cannot be written", "predictions are written again",
    ]  # fmt: skip


def test_closing_gives_up_on_a_database_that_stays_away(tmp_path: Path) -> None:
    (tmp_path / "place").touch()
    log = PredictionLog(f"sqlite:///{tmp_path}/place/catalogue.db", 90)
    log.put(prediction())
    clock = time.monotonic()
    log.close(0.5)
    assert time.monotonic() - clock < 3 and log.written == 0


def test_a_restart_of_postgresql_loses_no_row_and_doubles_none(own_postgres: postgresql.Server) -> None:
    url = postgresql.make_database(own_postgres.folder)
    log = PredictionLog(url, 90)
    put = threading.Thread(target=lambda: [(log.put(prediction(n)), time.sleep(0.002)) for n in range(1500)])
    put.start()
    for _ in range(2):
        time.sleep(0.7)
        own_postgres.stop()
        time.sleep(0.3)
        own_postgres.start()
    put.join()
    log.close(30)
    assert (log.written, log.dropped, log.trouble) == (1500, 0, None)
    assert count(url) == 1500


def test_a_commit_whose_answer_was_lost_is_not_written_twice(new_database: Callable[[], str]) -> None:
    engine = open_database(new_database())
    some = [prediction(number) for number in range(3)]
    for _ in range(2):
        assert predictions._add(engine, some) == 0
    assert count(engine.url.render_as_string(hide_password=False)) == 3


def test_a_row_that_no_database_takes_is_dropped_alone(new_database: Callable[[], str]) -> None:
    url = new_database()
    log = PredictionLog(url, 90)
    for number in range(20):
        log.put(prediction(number, quality="\ud800" if number == 7 else "good"))
    log.close(30)
    assert (log.written, log.dropped, count(url)) == (19, 1, 19)


def test_opening_a_current_database_imports_no_alembic(new_database: Callable[[], str]) -> None:
    url = new_database()
    open_database(url)
    script = (
        "import sys; from dermanet.monitoring.predictions import *\nlog = PredictionLog(sys.argv[1], 90)\n"
        "log.put(Prediction.of('1', 'a', dict.fromkeys(('age', 'sex', 'diagnosis', 'sex_probabilities', 'quality', 'novelty',\n"
        "    'refer', 'error')), 0.1)); log.close(30); assert log.written == 1\n"
        "print(*{'alembic', 'mlflow', 'pandas', 'tensorflow', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_what_is_forgotten_leaves_the_log_and_stays_out(here: Installation, ham10000: Callable[..., Path]) -> None:
    marked = samples.jpeg(1)[:2] + b"\xff\xe1\x00\x11Exif\0\0Anna Must" + samples.jpeg(1)[2:]
    rows = {number: {"patient_id": "P3" if number == 3 else ""} for number in range(5)}
    here.ingest(ham10000(5, rows=rows, files={"ISIC_0000001.jpg": marked}))
    digests = [hashlib.sha256(data).hexdigest() for data in (samples.jpeg(1), marked, samples.jpeg(3), samples.jpeg(4))]

    def ask() -> list[str]:
        log = PredictionLog(here.url, 90)
        for digest in digests:
            log.put(Prediction.of("1", digest, ROW, 0.1))
        log.close(30)
        return sorted(one.digest for one in kept(here.url))

    assert ask() == sorted(digests)
    forget("HAM_0000001", here.catalogue, here.objects)
    assert sorted(one.digest for one in kept(here.url)) == sorted(digests[2:])
    forget_patient("P3", here.catalogue, here.objects)
    assert [one.digest for one in kept(here.url)] == digests[3:]
    assert ask() == [digests[3]] * 2
