"""What is sent to the letter: requests that ask for another protocol, as Java's and curl's do for HTTP/2, are answered in this one,
each once, with its own body; what is no request is told so; who will say no more is answered, and so is who finds no room."""

import asyncio
import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest
import uvicorn
from installation import Installation, photo
from variants import champion
from waiting import until

from dermanet.serving import server as serving
from dermanet.serving.app import build
from dermanet.serving.guard import Limits
from dermanet.serving.server import HEAD_BYTES, Strict

ASKS = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
HIDDEN = b"GET /model HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
"""What looks like a request, and is a body."""


@pytest.fixture(scope="module")
def port(trained: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the scorer listens, in this process."""
    app = build(champion(trained, tmp_path_factory.mktemp("served")), Limits(megabytes=1, images=4))
    server = uvicorn.Server(uvicorn.Config(app, http=Strict, ws="none", log_level="warning", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        until(lambda: server.started)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    cell = base64.b64encode(photo(tmp_path_factory.mktemp("photo")).read_bytes()).decode()
    return json.dumps({"dataframe_records": [{"image": cell}]}).encode()


class Connection:
    """A connection on which what is sent is sent to the letter."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)

    def send(self, *pieces: bytes) -> None:
        """Each in a packet of its own."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, piece in enumerate(pieces):
            time.sleep(0.05 if number else 0)
            self.socket.sendall(piece)

    def answer(self) -> tuple[int, Any]:
        """The next answer's status, and what it tells."""
        # Nothing of the next may be taken with it.
        answer = HTTPResponse(_Unbuffered(self.socket))  # type: ignore[arg-type]
        answer.begin()
        text = answer.read()
        return answer.status, json.loads(text) if text.strip() else None

    def silent(self) -> bool:
        """Whether it stays open and there is no further answer."""
        self.socket.settimeout(0.5)
        try:
            self.socket.recv(1)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(20)
        return False

    def closed(self) -> bool:
        """Whether it is closed without a further answer."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


class _Unbuffered:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def makefile(self, mode: str) -> Any:
        return self.connection.makefile(mode, buffering=0)


def _head(line: str, *headers: str, asks: str = ASKS) -> bytes:
    return "".join(
        [f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n", asks, *(f"{one}\r\n" for one in headers), "\r\n"]
    ).encode()


def _post(body: bytes, path: str = "/invocations", asks: str = ASKS) -> bytes:
    return _head(f"POST {path}", "Content-Type: application/json", f"Content-Length: {len(body)}", asks=asks) + body


def _chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


@pytest.fixture
def connection(port: int) -> Iterator[Connection]:
    made = Connection(port)
    yield made
    made.socket.close()


@pytest.mark.parametrize(
    "asks",
    [ASKS, "upgrade: websocket\r\nconnection: keep-alive, upgrade\r\n", "Upgrade: h2c\r\n" + ASKS],
    ids=["h2c", "websocket", "twice"],
)
def test_a_body_is_read(connection: Connection, body: bytes, asks: str) -> None:
    for _ in range(2):
        connection.send(_post(body, asks=asks))
        status, told = connection.answer()
        assert (status, told["predictions"][0]["error"]) == (200, None)
    connection.send(_head("GET /model", asks=""))
    assert connection.answer()[1]["version"] == "1"


def test_a_body_in_pieces_is_read_and_so_is_one_whose_head_comes_in_pieces(connection: Connection, body: bytes) -> None:
    large = body + b" " * 700_000
    whole = _post(large)
    end = len(whole) - len(large)
    for at in (end, end - 1, 40, end + 1):
        connection.send(whole[:at], whole[at : at + 100_000], whole[at + 100_000 : -1], whole[-1:])
        assert connection.answer()[0] == 200
    connection.send(*(bytes([one]) for one in whole[:12]), whole[12:])
    assert connection.answer()[0] == 200
    assert connection.silent()


def test_a_chunked_body_is_read(connection: Connection, body: bytes) -> None:
    head = _head("POST /invocations", "Content-Type: application/json", "Transfer-Encoding: chunked")
    chunks = _chunked(body[:10], body[10:5000], body[5000:])
    connection.send(head + chunks + head, chunks[:20], chunks[20:])
    assert [connection.answer()[0] for _ in range(2)] == [200, 200]
    assert connection.silent()


def test_without_a_body_and_with_one_request_behind_another(connection: Connection, body: bytes) -> None:
    connection.send(_head("GET /model"))
    assert connection.answer()[0] == 200
    connection.send(
        _head("GET /nothing") + _post(body) + _head("GET /model", asks="") + _post(b"") + _head("GET /model")
    )
    assert [connection.answer()[0] for _ in range(5)] == [404, 200, 200, 400, 200]
    assert connection.silent()


@pytest.mark.parametrize("path", ["/invocations", "/nothing", "/follow"])
def test_a_body_that_looks_like_a_request_is_none(connection: Connection, path: str) -> None:
    statuses = {"/invocations": 400, "/nothing": 404, "/follow": 202}
    connection.send(_post(HIDDEN, path))
    assert connection.answer()[0] == statuses[path]
    assert connection.silent()
    whole = _post(HIDDEN, path)
    connection.send(whole[: -len(HIDDEN)], HIDDEN)
    assert connection.answer()[0] == statuses[path]
    connection.send(
        _head(f"POST {path}", "Content-Type: application/json", "Transfer-Encoding: chunked") + _chunked(HIDDEN)
    )
    assert connection.answer()[0] == statuses[path]
    assert connection.silent()
    connection.send(_head("GET /model", asks=""))
    assert connection.answer()[0] == 200


@pytest.mark.parametrize("line", ["CONNECT /model", "CONNECT 127.0.0.1:80", "CONNECT http://127.0.0.1/model"])
def test_no_tunnel_is_made_and_nothing_read_in_it(connection: Connection, line: str) -> None:
    connection.send(_head(line, f"Content-Length: {len(HIDDEN)}", asks="") + HIDDEN)
    said = b"".join(iter(lambda: connection.socket.recv(4096), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") and json.loads(body)["error_code"] == "BAD_REQUEST"


def test_a_connection_to_be_closed_is_closed_after_the_one_answer(port: int, body: bytes) -> None:
    closing = [
        _post(body, asks="Connection: close, Upgrade\r\nUpgrade: h2c\r\n"),
        _post(body).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    ]
    for whole in closing:
        connection = Connection(port)
        connection.send(whole[:-50], whole[-50:] + HIDDEN)
        assert connection.answer()[0] == 200
        assert connection.closed()


def test_the_guard_s_limits_hold(port: int) -> None:
    stated, counted, endless = (Connection(port) for _ in range(3))
    stated.send(_head("POST /invocations", f"Content-Length: {2**31}"))
    assert stated.answer()[0] == 413
    assert stated.closed()
    counted.send(_head("POST /invocations", "Transfer-Encoding: chunked") + b"100001\r\n" + b" " * 0x100001)
    assert counted.answer()[0] == 413
    endless.send(_head("GET /model", *(f"X-{number}: {'x' * 1000}" for number in range(HEAD_BYTES // 1000 + 1))))
    assert endless.closed()


def test_a_flood_of_them_in_one_packet_ends(connection: Connection) -> None:
    sent = b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" * 1200
    threading.Thread(target=connection.socket.sendall, args=(sent,)).start()
    assert [connection.answer()[0] for _ in range(1200)] == [200] * 1200


@pytest.mark.parametrize("pieces", [1, 3])
def test_who_says_no_more_and_listens_is_answered(connection: Connection, body: bytes, pieces: int) -> None:
    connection.send(_post(body, asks="") * pieces)
    connection.socket.shutdown(socket.SHUT_WR)
    assert [connection.answer()[0] for _ in range(pieces)] == [200] * pieces
    assert connection.closed()


def test_who_ends_in_the_middle_of_a_request_is_closed(connection: Connection, body: bytes) -> None:
    connection.send(_post(body, asks="")[:-1])
    connection.socket.shutdown(socket.SHUT_WR)
    assert connection.closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        _head("POST /invocations", "Content-Length: -1", asks=""),
        _head("POST /invocations", "Transfer-Encoding: chunked", asks="") + b"ZZ\r\n",
    ],
    ids=["a word", "TLS", "a length", "a chunk"],
)
def test_what_is_no_request_is_told_as_every_error_is(connection: Connection, sent: bytes) -> None:
    connection.send(sent)
    status, told = connection.answer()
    assert (status, told["error_code"]) == (400, "BAD_REQUEST")
    assert "no HTTP/1.1" in told["message"]
    assert connection.closed()


def test_who_finds_no_room_is_told_when_to_come_again_and_the_others_are_answered(
    connection: Connection, port: int, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.send(_post(body, asks=""))
    assert connection.answer()[0] == 200
    monkeypatch.setattr(serving, "CONNECTIONS", 1)
    beyond = Connection(port)
    beyond.send(_head("GET /model", asks=""))
    head, _, told = beyond.socket.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert b"\r\nretry-after: 2\r\n" in head
    assert json.loads(told or beyond.socket.recv(65536))["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert beyond.closed()
    connection.send(_post(body, asks=""))
    assert connection.answer()[0] == 200
