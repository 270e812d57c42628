"""Asking an S3 server with patience: a body that breaks off goes on where it stopped, a server that is away is waited for.

Every request of every thread goes through here. What may pass (no connection, a timeout, an answer of 5xx, a body cut short) is asked
again after a growing pause; what does not pass is told in one line.
"""

import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import cache
from typing import Any

from dermanet.errors import Changed, DermaNetError

PATIENCE = 90.0
"""Seconds that a server may be away before it is given up: three times what a restart takes."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
"""Seconds between two tries; each pause is twice the one before, less up to a half by chance, so that threads do not ask in step."""

ANSWER_WITHIN = 20.0
"""Seconds for a connection, and for the next bytes of an answer."""

CHUNK = 1 << 20
"""Bytes of a body that are held at once."""

BUSY = frozenset(
    {"RequestTimeout", "RequestTimeTooSkewed", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"}
)
"""Error codes that mean: later. Some servers say them with a status of 4xx."""

MISSING, FORBIDDEN = frozenset({"NoSuchKey", "404"}), frozenset({"AccessDenied", "403", "InvalidObjectState"})
"""Error codes about one object, which is refused while the others go on. Any other code is about the bucket or the keys."""

NEEDED = {"get_object": "ContentLength", "list_objects_v2": "IsTruncated"}
"""What a whole answer has."""

_log = logging.getLogger(__name__)


class Unreachable(DermaNetError):
    """The server was away for longer than `PATIENCE`."""


class Refused(DermaNetError):
    """The server answers, and refuses the bucket or the credentials."""


class Server:
    """An S3 server as one place asks it, from any number of threads."""

    def __init__(self, place: str, connect: Callable[[], Any]) -> None:
        self.place = place
        self.connect = connect
        self.away_since: float | None = None
        """When the first of the requests failed since the last that was answered."""

    def ask(self, operation: str, **parameters: Any) -> Any:
        """The answer to one request that may be repeated.

        Raises FileNotFoundError and PermissionError for one object, Refused for the bucket or the keys, Unreachable.
        """
        waiting = _Waiting(self, parameters.get("Key", ""))
        while True:
            try:
                answer = getattr(self.connect(), operation)(**parameters)
            except _faults() as error:
                waiting.after(error)
                continue
            self.away_since = None
            # Of an answer that broke off in its head or before its first byte, HTTP cannot tell that it is none.
            if NEEDED.get(operation, "ResponseMetadata") in answer:
                return answer
            waiting.after("the answer broke off")

    def chunks(self, **parameters: Any) -> Iterator[bytes]:
        """An object's bytes in order, whatever breaks in between. Raises as `ask`, and Changed where it is replaced meanwhile."""
        waiting = _Waiting(self, parameters["Key"])
        done, tag = 0, ""
        length: int | None = None
        while True:
            answer = self.ask("get_object", **parameters, **_rest(done, tag))
            if length not in (None, _whole_length(answer, done)):
                raise Changed(f"{self.place}: {parameters['Key']} changed while it was read; run this again")
            length, tag = _whole_length(answer, done), answer.get("ETag", tag)
            try:
                for chunk in _body(answer, done):
                    done += len(chunk)
                    waiting.over()
                    yield chunk
                return
            except _faults() as error:
                # A body that ends too early is one: botocore compares it with the length that was announced.
                waiting.after(error)


class _Waiting:
    """How long one request has been failing, and its next pause."""

    def __init__(self, server: Server, key: str) -> None:
        self.server = server
        self.key = key
        self.over()

    def over(self) -> None:
        """Something came."""
        self.since: float | None = None
        self.pause = FIRST_PAUSE

    def after(self, fault: Exception | str) -> None:
        """Waits before the next try. Raises what the fault is called where trying again does not help, or no longer."""
        if isinstance(fault, Exception) and not _passes(fault):
            raise _told(fault, f"{self.server.place}: {self.key}".removesuffix(": ")) from None
        now = time.monotonic()
        self.since = self.since or now
        if self.server.away_since is None:
            self.server.away_since = now
            _log.warning("%s: %s; trying again for %.0f seconds", self.server.place, _line(fault), PATIENCE)
        # The server's own time as well: of requests that stood in line while it was away, each would wait anew.
        if now - min(self.since, self.server.away_since or now) > PATIENCE:
            raise Unreachable(
                f"{self.server.place}: {self.server.connect().meta.endpoint_url} has not answered for {PATIENCE:.0f} seconds "
                f"({_line(fault)}); nothing is lost, run this again when it is up"
            ) from None
        time.sleep(self.pause * random.uniform(0.5, 1))
        self.pause = min(2 * self.pause, LONGEST_PAUSE)


def _whole_length(answer: Mapping[str, Any], done: int) -> int:
    """The bytes of the whole object by an answer from byte `done` on."""
    return int(answer["ContentLength"]) + (done if "ContentRange" in answer else 0)


def _rest(done: int, tag: str) -> dict[str, str]:
    """What asks for the bytes from `done` on, of the very object that was begun."""
    if not done:
        return {}
    return {"Range": f"bytes={done}-", **({"IfMatch": tag} if tag else {})}


def _body(answer: Mapping[str, Any], done: int) -> Iterator[bytes]:
    """The body from byte `done` of the object on; a server that knows no ranges sends what came before once more."""
    found = re.match(r"bytes (\d+)-", answer.get("ContentRange", ""))
    left_out = done - (int(found[1]) if found else 0)
    with closing(answer["Body"]) as body:
        while chunk := body.read(CHUNK):
            if left_out < len(chunk):
                yield chunk[left_out:] if left_out else chunk
            left_out = max(0, left_out - len(chunk))


@cache
def _faults() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    return BotoCoreError, ClientError, ResponseParserError, HTTPError


def _passes(fault: Exception) -> bool:
    """Whether asking again may help."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if isinstance(fault, exceptions.ClientError):
        status, code = _status(fault)
        return (status >= 500 and status != 501) or status in (408, 429) or code in BUSY
    broken = (
        exceptions.HTTPClientError,
        exceptions.ConnectionError,
        exceptions.IncompleteReadError,
        ResponseParserError,
    )
    return isinstance(fault, (*broken, HTTPError))


def _told(fault: Exception, what: str) -> Exception:
    """A fault that does not pass, as what it is called here."""
    status, code = _status(fault)
    if code in MISSING:
        return FileNotFoundError(what)
    if code in FORBIDDEN:
        return PermissionError(f"{what} may not be read or written ({code})")
    if status in (412, 416):
        return Changed(f"{what} was replaced while it was read; run this again")
    return Refused(f"{what}: {_line(fault)}")


def _status(fault: Exception) -> tuple[int, str]:
    response: Mapping[str, Any] = getattr(fault, "response", {})
    return (
        int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
        str(response.get("Error", {}).get("Code", "")),
    )


def _line(fault: Exception | str) -> str:
    return " ".join(str(fault).split())
