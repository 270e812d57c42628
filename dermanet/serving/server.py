"""The process or processes that serve: uvicorn, with what it leaves open to slow and endless clients closed.

Several workers share one port, and each follows the alias by itself; one that dies is started anew. SIGTERM and SIGINT let requests
under way be answered first.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, cast

import httptools
import uvicorn
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from dermanet import settings
from dermanet.errors import BadInput, DermaNetError
from dermanet.monitoring.predictions import Prediction, PredictionLog
from dermanet.registry.tracking import Tracking
from dermanet.registry.versions import CHAMPION, Versions
from dermanet.serving.app import at_the_end, build
from dermanet.serving.follow import Following, Served
from dermanet.serving.guard import BEYOND, HEADERS, Limits, is_loopback
from dermanet.serving.metrics import FOLDER, Metrics
from dermanet.serving.reader import Reading, cores
from dermanet.serving.refusals import NO_HTTP, in_words

log = logging.getLogger("uvicorn.error")

HEAD_SECONDS = 10.0
"""Within so long the head of a request must have come."""

HEAD_BYTES = 32 * 1024
"""Larger heads are no heads."""

CONNECTIONS = 1000
"""At each process; more are told to come again."""

BACKLOG = 2048
"""Connections that wait to be taken."""

BIRTH = 120
"""Seconds for a worker to come up, and to answer that it is alive: its imports alone take some, and on a busy machine many."""

GRACE = 20
"""Seconds for requests under way when the server is told to end."""

LAST_IMAGE = 3.0
"""Seconds, after all else, for threads to end that still read an image for nobody."""

LAST_CALL = 1.0
"""Seconds, then, for the next request of a connection that has none under way: it may have left its client already."""

OURS = {
    # Whoever polls need not retry as well.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # Threads that each keep a heap of their own would keep several times what they use.
    "MALLOC_ARENA_MAX": "2",
}
"""Variables of libraries, unless they are set."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is served where. `poll`: seconds; `version`: one that is served whoever is champion."""

    host: str
    port: int
    poll: float
    version: str = ""
    workers: int = 1
    parent: int = 0
    """The process that starts the workers."""


@dataclass(frozen=True, slots=True)
class Door:
    """A socket that each worker makes for itself, so that the system spreads connections over them.

    From one that they share, the first that wakes takes all that have come.
    """

    host: str
    port: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _listening, (self.host, self.port)


def _listening(host: str, port: int) -> socket.socket:
    made = _bound(host, port, shared=True)
    made.listen(BACKLOG)
    return made


def _bound(host: str, port: int, shared: bool) -> socket.socket:
    """A socket at an address; `shared`: others of this user may have it, too. Raises DermaNetError where it is taken."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise DermaNetError(
            f"{host}:{port} cannot be listened at: {error.strerror}; name another with --port"
        ) from None
    return made


class Workers(Multiprocess):
    """uvicorn's supervisor, which waits for no worker's word: it hears that it is to end, or that another died, while one is born.

    What a worker that is gone told of its own state (memory, version, queue) is told no more; what it counted stays.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._heard: dict[Process, float] = {}
        """When each was last heard of."""

    def keep_subprocess_alive(self) -> None:
        """Starts those anew that have died, or have not answered for as long as a birth may take. Called twice a second."""
        for place, one in enumerate(self.processes):
            if self.should_exit.is_set() or self._lives(one):
                continue
            one.kill()
            one.join()
            if one.exitcode == STARTUP_FAILURE:
                # So would the next.
                self.should_exit.set()
                return
            log.warning("worker %d has ended; another is started", one.pid)
            self.processes[place] = Process(self.config, self.sockets)
            self.processes[place].start()
        for gone in self._heard.keys() - set(self.processes):
            mark_process_dead(gone.pid)
            del self._heard[gone]

    def _lives(self, one: Process) -> bool:
        """Whether a worker is there, and has answered not too long ago. One question at a time is on its way."""
        now = time.monotonic()
        try:
            if one not in self._heard:
                one.parent_conn.send(b"ping")
                self._heard[one] = now
            elif one.parent_conn.poll():
                one.parent_conn.recv()
                one.parent_conn.send(b"ping")
                self._heard[one] = now
        except (OSError, EOFError):
            return False
        return one.process.is_alive() and now - self._heard[one] < BIRTH


class Strict(HttpToolsProtocol):
    """uvicorn's protocol for clients who do not end what they begin: their connection is closed.

    And for those who ask for another protocol, as Java's and curl do for HTTP/2: there is none, and they are answered in this one.
    """

    parser: httptools.HttpRequestParser
    app_state: dict[str, Any]

    def connection_made(self, transport: Any) -> None:
        """Starts the clock of the first request's head. Where there is no room, the guard answers so to whatever comes."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            self.app_state = {**self.app_state, BEYOND: True}
        self._head, self._last = 0, False
        self._late = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops it."""
        self._late.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads what has come. A request with `Upgrade` is read a second time without it, and its body then (RFC 9110, 7.8)."""
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        try:
            # A loop: one packet may bring thousands of such requests.
            while rest:
                rest = self._read(rest)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")

    def eof_received(self) -> bool:
        """Whoever has asked whole and will say no more may still listen: what is under way is answered before the end."""
        listens = self.cycle is not None and not (self.cycle.more_body or self.cycle.response_complete)
        if listens:
            self.cycle.keep_alive = False
        return listens

    def send_400_response(self, msg: str) -> None:
        """In the form of every other error, and the end of the connection."""
        own, body = in_words(NO_HTTP)
        head = [b"HTTP/1.1 400 Bad Request", *(name + b": " + value for name, value in (*own, *HEADERS)), b"", b""]
        self.transport.write(b"\r\n".join(head) + body)
        self.transport.close()

    def on_message_begin(self) -> None:
        """Starts the clock of a later request's head."""
        super().on_message_begin()
        self._head = 0
        self._late.cancel()
        self._late = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def on_url(self, url: bytes) -> None:
        """Counts the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts a header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stops the clock: from here on the guard has its own."""
        if self.parser.should_upgrade():
            self._again = self._without_upgrade()
            return
        self._late.cancel()
        super().on_headers_complete()
        if self._last:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Ends a request, unless it is to be read a second time."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def shutdown(self) -> None:
        """Lets what is under way end, and takes one more request where nothing is: closed at once, one on its way would be lost."""
        self._last = True
        if self.cycle is None or self.cycle.response_complete:
            self._late.cancel()
            self._late = self.loop.call_later(LAST_CALL, self._give_up)
        else:
            super().shutdown()

    def _read(self, data: memoryview) -> memoryview:
        """Reads to the end, or to where a request with `Upgrade` has its head's end; what is left."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # What follows is another protocol's to the parser, which would go on to read a body as requests that nobody made. And it
            # takes nothing more where the connection is to be closed: hence a new one.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(self._again)
            return data[upgrade.args[0] :]
        return data[:0]

    def _without_upgrade(self) -> bytes:
        """The head that has come, without the header. Raises HttpParserError for a tunnel: none is made here."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError("no tunnel is made here")
        lines = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([method + b" " + self.url + b" HTTP/" + version, *lines, b"", b""])

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > HEAD_BYTES:
            self._give_up()

    def _give_up(self) -> None:
        if self.transport and not self.transport.is_closing():
            self.transport.close()


def serve(service: Service) -> None:
    """Serves until SIGINT or SIGTERM. Raises BadInput where there is no such version, or where strangers could ask without a token."""
    here = settings.read()
    _require_tokens(service.host, here.tokens)
    service = replace(service, parent=os.getpid())
    for name, value in OURS.items():
        os.environ.setdefault(name, value)
    _bound(service.host, service.port, shared=False).close()
    # Opened here first: MLflow's database cannot be made by several processes at once.
    versions = _versions(here)
    if service.version:
        # One that there is not would be waited for in vain.
        versions.get(service.version)
    config = uvicorn.Config(
        partial(application, service), factory=True, host=service.host, port=service.port, workers=service.workers,
        http=Strict, ws="none", log_level="warning", access_log=False, server_header=False, date_header=False,
        timeout_graceful_shutdown=GRACE, timeout_keep_alive=30,
    )  # fmt: skip
    if service.workers == 1:
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn takes both, ends in order, and then raises them again: to be asked to end is no failure.
            signal.signal(number, lambda *_: None)
        uvicorn.Server(config).run()
        return
    # Bound and not listened at: the port stays ours while workers come and go.
    with TemporaryDirectory(prefix="dermanet-metrics-") as folder, _bound(service.host, service.port, shared=True):
        os.environ[FOLDER] = folder
        Workers(config, [cast(socket.socket, Door(service.host, service.port))]).run()


def application(service: Service) -> FastAPI:
    """What one process serves: its version is loaded when this returns, if there is one."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    here = settings.read()
    # All workers together compute as many images at once as there are cores: more would only wait for one another, each on its way.
    slots = max(1, cores() // service.workers)
    limits = Limits(here.request_megabytes, here.request_images, here.request_queue, here.request_seconds, slots)
    following = Following(_versions(here), CHAMPION, service.poll, _folder(here), service.version)
    app = build(following, limits, here.tokens, hosts=not here.tokens, metrics_token=here.metrics_token)
    # What a version answers that is being tried out is nobody's prediction.
    kept = PredictionLog(here.catalogue, 0 if service.version else here.prediction_days)
    following.observers.append(partial(_keep, kept, app.state.metrics))
    following.start()

    def end() -> None:
        following.stop()
        kept.close()
        Thread(target=_end_for_good, name="end", daemon=True).start()

    at_the_end(app, end)
    if service.workers > 1:
        Thread(target=_end_with, args=(service.parent,), name="parent", daemon=True).start()
    return app


def _keep(kept: PredictionLog, metrics: Metrics, served: Served, readings: Sequence[Reading]) -> None:
    for one in readings:
        kept.put(Prediction.of(served.version, one.digest, one.row, one.seconds, look=one.look))
    metrics.unlogged.set(kept.dropped)


def _end_with(parent: int) -> None:
    """Ends this worker in order where the process that started it is gone: it would hold the port, and nobody could stop it."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _end_for_good() -> None:
    """Ends this process, whose work is done, though a thread reads an image still: Python would wait for it."""
    time.sleep(LAST_IMAGE)
    os._exit(0)


def _require_tokens(host: str, tokens: tuple[str, ...]) -> None:
    if not tokens and not is_loopback(host):
        raise BadInput(
            f"--host {host} lets other machines ask, and no token is set; set DERMANET_TOKENS to one or more, or bind to 127.0.0.1"
        )


def _versions(here: settings.Settings) -> Versions:
    return Versions(Tracking(here.tracking_uri, here.artifacts).client, here.model)


def _folder(here: settings.Settings) -> Path:
    return here.home / "served" / here.model
