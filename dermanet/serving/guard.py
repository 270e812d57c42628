"""What stands before the scoring application: who may ask, how much, how long, and what is never said back.

Every request passes here before anything of it is parsed. In order: the host, the token, the size of the body (by its header, then
counted), the time that it takes to come, a place in a bounded queue, and the time that the answer takes. A refusal is one JSON object
in MLflow's form, {"error_code", "message"}: it tells what was seen, what is allowed and what to do, and repeats nothing that was sent.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from dermanet import memory
from dermanet.serving.follow import AT_THE_DOOR, Following, Visit
from dermanet.serving.metrics import Metrics
from dermanet.serving.reader import cores
from dermanet.serving.refusals import CLOSE, MEANINGS, Refused, busy, encoded, ending, in_words, too_large

log = logging.getLogger("dermanet.access")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

READS = frozenset({"/invocations", "/predict", "/explain"})
"""What reads images: takes a place in the queue and needs a version."""

EXPLAINS = "/explain"
"""Reads one image many times over."""

OPEN = frozenset({
    "/", "/ping", "/health", "/ready", "/version", "/page.css", "/page.js", "/docs", "/docs.js", "/openapi.json", "/follow",
    "/swagger-ui.css", "/swagger-ui.js",
})  # fmt: skip
"""What needs no token: whether it is alive, pages, which ask for the token themselves, and the bell, which MLflow's webhooks ring."""

SMALL = 64 * 1024
"""Bytes of the body of a request that reads no image."""

LARGE = 4 * 1024 * 1024
"""Bytes of a body after which memory is given back: what its parts took, the C library would keep for the next."""

LONG = 1024 * 1024
"""Bytes of a body from which a request is computed among the long ones: it brings many images or a very large one."""

AT_ONCE = 2
"""Bodies of the largest size that may be held at once; more than that in sum is put off."""

BEYOND = "beyond"
"""In the state of a connection that there is no room for."""

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy",
     b"default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; connect-src 'self'; "
     b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What is asked of a request. `megabytes`: of its body; `images`: in it; `queue`: how many short ones may wait, and how many long
    ones; `seconds`: for its body, and for its answer; `slots`: how many short ones are computed at once, beside one long one."""

    megabytes: int = 32
    images: int = 256
    queue: int = 64
    seconds: float = 60.0
    slots: int = field(default_factory=cores)

    @property
    def bytes(self) -> int:
        """Of a body that brings images."""
        return self.megabytes * 1024 * 1024


class Guard:
    """An ASGI application before another one."""

    def __init__(
        self, app: App, following: Following, limits: Limits, metrics: Metrics, tokens: tuple[str, ...] = (), hosts: bool = True,
        metrics_token: str = "",
    ) -> None:  # fmt: skip
        """`tokens`: any of them lets in; none: everybody. `hosts`: whether only names of this machine may be asked for.

        `metrics_token`: lets in at /metrics alone.
        """
        self.app, self.following, self.limits, self.metrics = app, following, limits, metrics
        self.tokens = tuple(token.encode() for token in tokens)
        self.metrics_tokens = (*self.tokens, *([metrics_token.encode()] if metrics_token else []))
        self.hosts = hosts
        self._held = 0
        self._short, self._long = _Lane(limits.slots), _Lane(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            # There is no socket of any other kind here.
            return await send({"type": "websocket.close", "code": 1008})
        answer = _Answer(scope, send, time.perf_counter())
        try:
            await self._let_in(scope, receive, answer)
        except Refused as refusal:
            await answer.refuse(refusal)
        except asyncio.CancelledError:
            # The server ends, and has waited long enough. Not raised again: to uvicorn it would be a fault, with a traceback.
            await answer.give_up(ending())
        finally:
            self._note(answer)

    async def _let_in(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        reads = scope["method"] == "POST" and scope["path"] in READS
        if scope.get("state", {}).get(BEYOND):
            raise busy("more connections are open than are taken", CLOSE)
        self._check_host(scope)
        self._check_token(scope)
        answer.visit = visit = Visit(self.following.served, self.limits.images, self.limits.bytes)
        # What needs no token tells a stranger nothing of what is served.
        answer.named = not self.tokens or scope["path"] not in OPEN
        if reads and visit.served is None:
            raise Refused(
                503, "TEMPORARILY_UNAVAILABLE",
                f"no version of {self.following.versions.name} is {self.following.alias} yet", {"Retry-After": "5"},
            )  # fmt: skip
        if reads and _header(scope, b"content-encoding").strip().lower() not in (b"", b"identity"):
            raise encoded()
        body = await self._body(scope, receive, reads)
        try:
            AT_THE_DOOR.set(visit)
            if reads:
                await self._in_turn(scope, body, receive, answer)
            else:
                await self._ask(scope, body, receive, answer)
        finally:
            self._held -= len(body)
            if len(body) > LARGE:
                memory.give_back()

    def _check_host(self, scope: Scope) -> None:
        host = _header(scope, b"host").decode("latin-1").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self.hosts and not is_loopback(name[1:-1] if name.startswith("[") else name):
            # A page elsewhere may have its own name lead here, and would then read the answers. No name is an address, though.
            raise Refused(
                421, "BAD_REQUEST",
                "this scorer answers to localhost and loopback's addresses, such as 127.0.0.1; others need DERMANET_TOKENS",
            )  # fmt: skip

    def _check_token(self, scope: Scope) -> None:
        if not self.tokens or scope["path"] in OPEN:
            return
        scheme, _, given = _header(scope, b"authorization").partition(b" ")
        # All are compared, so that the time tells nothing of which was nearly right.
        tokens = self.metrics_tokens if scope["path"] == "/metrics" else self.tokens
        fits = [hmac.compare_digest(given.strip(), token) for token in tokens]
        if scheme.lower() != b"bearer" or not any(fits):
            raise Refused(
                401, "UNAUTHENTICATED", "a token is needed: send the header `Authorization: Bearer TOKEN`",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    async def _body(self, scope: Scope, receive: Receive, reads: bool) -> bytes:
        most = self.limits.bytes if reads else SMALL
        stated = _header(scope, b"content-length")
        if stated.isdigit() and int(stated) > most:
            raise too_large(most, reads)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "BAD_REQUEST", "the request ended early")
                    part = message.get("body", b"")
                    size += len(part)
                    self._held += len(part)
                    if size > most:
                        raise too_large(most, reads)
                    if self._held > AT_ONCE * self.limits.bytes:
                        raise busy("so many large requests are under way that this one is put off")
                    parts.append(part)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            self._held -= size
            raise Refused(
                408, "BAD_REQUEST", f"the request has not come whole within {self.limits.seconds:g} s", CLOSE
            ) from None
        except BaseException:
            self._held -= size
            raise

    async def _in_turn(self, scope: Scope, body: bytes, receive: Receive, answer: "_Answer") -> None:
        """Computes once there is a slot; refuses where too many wait for one, or where the answer takes too long."""
        lane = self._long if len(body) > LONG or scope["path"] == EXPLAINS else self._short
        if lane.slots.locked() and lane.waiting >= self.limits.queue:
            raise busy(f"{lane.waiting} requests wait already")
        until = asyncio.get_running_loop().time() + self.limits.seconds
        await self._slot(lane, until)
        task = asyncio.ensure_future(self._ask(scope, body, receive, answer))
        # A thread cannot be stopped: its slot is free when it has ended, whoever has given up waiting.
        task.add_done_callback(lambda _: lane.slots.release())
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        done, _ = await asyncio.wait({task}, timeout=max(0.0, until - asyncio.get_running_loop().time()))
        if not done:
            return await answer.give_up(Refused(504, *MEANINGS[504]))
        return task.result()

    async def _slot(self, lane: "_Lane", until: float) -> None:
        self._wait(lane, 1)
        try:
            async with asyncio.timeout_at(until):
                await lane.slots.acquire()
        except TimeoutError:
            raise busy(f"nothing was free within {self.limits.seconds:g} s") from None
        finally:
            self._wait(lane, -1)

    def _wait(self, lane: "_Lane", more: int) -> None:
        lane.waiting += more
        self.metrics.waiting.set(self._short.waiting + self._long.waiting)

    async def _ask(self, scope: Scope, body: bytes, receive: Receive, answer: "_Answer") -> None:
        replayed = False

        async def again() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        # What GET gets, but for the body, which stays behind on its way out (RFC 9110, 9.3.2): for checks of health above all.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self.app(inner, again, answer.pass_on)
        except Exception as error:
            # What it says may repeat what was sent: only its kind and its place are kept.
            log.error("%s at %s", type(error).__name__, _place(error))
            answer.broken = True
        await answer.finish()

    def _note(self, answer: "_Answer") -> None:
        seconds = time.perf_counter() - answer.start
        self.metrics.request(answer.path, answer.status, seconds)
        served = answer.visit.served if answer.visit else None
        log.info(
            "%s %s %s %d B %.1f ms version %s", answer.method, answer.path, answer.status, answer.size, 1000 * seconds,
            served.version if served else "-",
        )  # fmt: skip


class _Lane:
    """Requests that are computed side by side, and those that wait for a slot, first come, first served.

    Long ones have a lane of their own: where they shared one, the answer to a single image would take as long as theirs. And no more
    short ones are computed at once than there are cores: side by side on one, each takes as long as all of them.
    """

    def __init__(self, slots: int) -> None:
        self.slots, self.waiting = asyncio.Semaphore(slots), 0


class _Answer:
    """The way back: headers are added, errors are told anew, and what came is counted."""

    def __init__(self, scope: Scope, send: Send, start: float) -> None:
        self.send, self.start = send, start
        self.method, self.path = str(scope["method"])[:8], _known(str(scope["path"]))
        self.visit: Visit | None = None
        self.status, self.size = 0, 0
        self.allowed = ""
        self.named = self.late = self.broken = False
        self._begun = False

    async def pass_on(self, message: Message) -> None:
        """What the inner application sends; an error's own words are kept back."""
        if self.late:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status == 405:
                self.allowed = _methods(message)
            if self.status < 400 or (self.visit and self.visit.in_rows):
                self._begun = True
                await self.send({**message, "headers": [*message.get("headers", ()), *self._headers()]})
        elif self._begun:
            await self._send_body(message)

    async def finish(self) -> None:
        """Says what is to be said of an error, once the inner application is done."""
        if self._begun or self.late:
            return None
        visit = self.visit
        if visit and visit.refusal:
            status, message = visit.refusal
            return await self.refuse(Refused(status, "BAD_REQUEST", message))
        status = 500 if self.broken or (visit and visit.broken) else self.status
        if status >= 500 and status != 504 and self.path in READS and visit and not visit.reached:
            # It never came to an image: what could not be taken apart is the request.
            status = 400
        code, message = MEANINGS.get(
            status, ("BAD_REQUEST" if status < 500 else "INTERNAL_ERROR", "the request was refused")
        )
        await self.refuse(Refused(status, code, message, {"Allow": self.allowed} if status == 405 else None))

    async def give_up(self, refusal: Refused) -> None:
        """Answers before the inner application does, whose threads go on to the end of the image that they are at."""
        self.late = True
        if self.visit:
            self.visit.given_up = True
        await self.refuse(refusal)

    async def refuse(self, refusal: Refused) -> None:
        """Answers with an error."""
        if self._begun:
            return
        self._begun = True
        headers, body = in_words(refusal)
        self.status = refusal.status
        with suppress(OSError):
            await self.send(
                {"type": "http.response.start", "status": refusal.status, "headers": [*headers, *self._headers()]}
            )
            await self._send_body({"type": "http.response.body", "body": body})

    async def _send_body(self, message: Message) -> None:
        if self.method == "HEAD":
            message = {**message, "body": b""}
        self.size += len(message.get("body", b""))
        await self.send(message)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        served = self.visit.served if self.visit and self.named else None
        if served is None:
            return list(HEADERS)
        return [*HEADERS, (b"x-model-version", served.version.encode()), (b"x-model-digest", served.digest.encode())]


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and nobody else's: `localhost`, or any address of loopback."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((bytes(value) for name, value in scope["headers"] if name == wanted), b"")


def _methods(message: Message) -> str:
    """The methods that an inner application names as those of an address. It knows nothing of HEAD, which is answered as GET is."""
    told = next((value.decode("latin-1") for name, value in message.get("headers", ()) if name.lower() == b"allow"), "")
    names = {name.strip() for name in told.split(",")} - {""}
    return ", ".join(sorted(names | ({"HEAD"} if "GET" in names else set())))


def _known(path: str) -> str:
    """An address for the log: a mistyped one may hold anything."""
    return path if path in KNOWN else "elsewhere"


KNOWN = READS | OPEN | {"/model", "/metrics"}


def _place(error: Exception) -> str:
    """Where an exception was raised: file and line, and nothing of what was in them."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "an unknown place"
