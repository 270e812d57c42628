"""Talking to an S3 server: a body that breaks off goes on where it stopped, a server that is away is waited for, and then given up."""

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import SupportsIndex

import pytest
from seaweed import Seaweed

from dermanet import transfer
from dermanet.errors import BadInput, Changed, DermaNetError
from dermanet.storage import Place, place

DATA = Random(1).randbytes(3_000_000)


@dataclass
class Wire:
    """A server between a client and the S3 server that lets so many bytes of an answer pass and then cuts the connection."""

    port: int
    turns: list[int | bytes] = field(default_factory=list)
    """What happens to the next requests: cut after so many bytes of the answer, or answered with these bytes instead of asking."""
    asked: list[str] = field(default_factory=list)
    """The head of every request that came."""

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def ranges(self) -> list[int]:
        """The first bytes that were asked for by a range, in order."""
        return [int(found) for head in self.asked for found in re.findall(r"(?i)range: bytes=(\d+)-", head)]

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._carry, args=(self.listener.accept()[0],), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            request = _request(client)
            self.asked.append(request.partition(b"\r\n\r\n")[0].decode())
            turn = self.turns.pop(0) if self.turns else len(DATA) * 2
            if isinstance(turn, bytes):
                return client.sendall(turn)
            with socket.create_connection(("127.0.0.1", self.port)) as server:
                # One request a connection, so that each has its turn.
                server.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
                while turn > 0 and (answer := server.recv(1 << 16)):
                    client.sendall(answer[:turn])
                    turn -= len(answer)


def _request(client: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        request += client.recv(1 << 16)
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(body) < int(length[1]):
        body += client.recv(1 << 16)
    return head + b"\r\n\r\n" + body


def answer(status: str, body: bytes, length: int | None = None) -> bytes:
    """An answer of a server that closes the connection after it."""
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode() + body


@pytest.fixture
def direct(bucket: str, s3: str) -> Place:
    """A place with one object, reached without the wire."""
    there = place(bucket)
    there.write("x", DATA)
    return there


@pytest.fixture
def wire(direct: Place, s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """A wire to the S3 server, which is the endpoint from now on; pauses are short."""
    wire = Wire(int(s3.rpartition(":")[2]))
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", wire.endpoint)
    yield wire
    wire.listener.close()


@pytest.fixture
def there(bucket: str, wire: Wire) -> Place:
    """The same place over the wire."""
    return place(bucket)


def test_a_body_that_breaks_off_goes_on_where_it_stopped(there: Place, wire: Wire) -> None:
    wire.turns += [1_200_000, 40, 500_000]
    assert there.read("x") == DATA
    first, second, third = wire.ranges()
    assert 1_000_000 < first == second < 1_200_000, "the second try was cut before its first byte"
    assert first < third < first + 500_000
    assert all("if-match" in head.lower() for head in wire.asked[1:])


def test_what_broke_off_comes_in_pieces_of_a_megabyte(there: Place, wire: Wire) -> None:
    wire.turns += [1_200_000, 500_000]
    pieces = list(there.chunks("x"))
    assert b"".join(pieces) == DATA and max(map(len, pieces)) <= transfer.CHUNK and len(wire.asked) == 3


def test_an_answer_cut_in_its_head_is_not_an_empty_object(there: Place, wire: Wire) -> None:
    wire.turns += [20, 40, 150]
    assert there.read("x") == DATA


def test_the_start_of_an_object_outlasts_a_cut_as_well(there: Place, wire: Wire) -> None:
    wire.turns += [1_200_000]
    assert there.start("x", 2_000_000) == DATA[:2_000_000]
    assert wire.ranges()


def test_an_object_replaced_in_between_is_not_glued_together(direct: Place, there: Place, wire: Wire) -> None:
    wire.turns += [1_200_000]
    pieces = there.chunks("x")
    next(pieces)
    direct.write("x", DATA[::-1])
    with pytest.raises(Changed, match="replaced while it was read; run this again"):
        list(pieces)


def test_whoever_wants_it_whole_gets_the_one_that_replaced_it(direct: Place, there: Place, wire: Wire) -> None:
    class Replacing(list[int | bytes]):
        def pop(self, index: SupportsIndex = -1) -> int | bytes:
            direct.write("x", DATA[::-1] if len(self) == 1 else DATA)
            return super().pop(index)

    wire.turns = Replacing([1_200_000, 1_200_000])
    assert there.read("x") == DATA[::-1]


def test_errors_of_the_server_are_asked_again(there: Place, wire: Wire) -> None:
    busy = answer("503 Slow Down", b"")
    wire.turns += [busy, busy]
    assert there.read("x") == DATA and len(wire.asked) == 3
    wire.turns += [busy, 0]
    there.write("y", b"y")
    wire.turns += [answer("500 Internal Server Error", b"<html>"), 0]
    assert there.exists("y")
    wire.turns += [busy, 0]
    assert there.listing() == {"x": len(DATA), "y": 1}


def test_a_listing_cut_short_is_not_an_empty_one(there: Place, wire: Wire) -> None:
    wire.turns += [answer("200 OK", b"", 90), 100, 400]
    assert there.listing() == {"x": len(DATA)}
    assert len(wire.asked) == 4


def test_a_server_that_knows_no_ranges_may_send_all_of_it_once_more(there: Place, wire: Wire) -> None:
    wire.turns += [answer("200 OK", DATA[:1_500_000], len(DATA)), answer("200 OK", DATA)]
    assert there.read("x") == DATA
    wire.turns += [answer("200 OK", DATA[:1_500_000], len(DATA)), answer("200 OK", DATA[:-1])]
    with pytest.raises(Changed, match="x changed while it was read"):
        list(there.chunks("x"))


def test_an_object_s_own_refusal_is_told_at_once(bucket: str, s3: str) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        place(bucket).read("absent")


def test_a_server_that_is_away_is_given_up_with_one_line_that_names_it(
    bucket: str, s3: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transfer, "PATIENCE", 1.0)
    there = place(bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    took = list[float]()
    calls: list[Callable[[], object]] = [
        lambda: there.read("x"),
        lambda: there.listing(),
        lambda: there.write("x", b""),
    ]
    for call in calls:
        begun = time.monotonic()
        with caplog.at_level(logging.WARNING), pytest.raises(DermaNetError) as caught:
            call()
        assert "http://127.0.0.1:9 has not answered for 1 seconds" in str(caught.value)
        assert "\n" not in str(caught.value) and "nothing is lost" in str(caught.value)
        took.append(time.monotonic() - begun)
        assert not isinstance(caught.value, BadInput), "what is away may come back: it is a fault, and tried again"
    assert took[0] > 1 and sum(took[1:]) < took[0], (
        "whoever asks a server that was given up does not wait for it all over again"
    )
    assert caplog.messages[0].startswith(bucket) and "trying again for 1 seconds" in caplog.messages[0]


def test_a_server_that_comes_back_is_asked_as_if_nothing_had_been(own_s3: Seaweed) -> None:
    there = place("s3://tests/x")
    there.write("x", DATA)
    time.sleep(1)
    own_s3.kill()
    threading.Timer(2, own_s3.start).start()
    assert there.read("x") == DATA
    there.write("y", b"y")
    assert there.listing() == {"x": len(DATA), "y": 1}
