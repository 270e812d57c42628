"""What is told a request that is not let in: a JSON object in MLflow's form, {"error_code", "message"}; nothing that was sent."""

import json
from collections.abc import Mapping

PATIENCE = 2.0
"""Seconds after which a client that was put off may come again."""

CLOSE = {"Connection": "close"}
"""Headers of the last answer on a connection."""

FORM = '{"dataframe_split": {"columns": ["image"], "data": [["<base64 of a JPEG or PNG>"]]}}'
MEANINGS = {
    400: ("BAD_REQUEST", f"the request is in none of MLflow's forms with a column `image` of text; send, as application/json, {FORM}"),
    404: ("RESOURCE_DOES_NOT_EXIST", "there is nothing at this address; /docs lists what there is"),
    405: ("BAD_REQUEST", "this address takes another method; /docs lists them"),
    415: ("BAD_REQUEST", "no content type that is taken; send application/json or text/csv, or files to /predict"),
    422: ("BAD_REQUEST", "a field is missing; send multipart/form-data with one or more files named `image`"),
    500: ("INTERNAL_ERROR", "the scorer has a fault; its log says when and where"),
    504: ("TEMPORARILY_UNAVAILABLE", "the answer took longer than is allowed; send fewer images at once"),
}  # fmt: skip
"""What is said instead of an inner application's own words, which may repeat what was sent."""


class Refused(Exception):
    """A request that is not let in: status, MLflow's error code, what to say, and headers."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = dict(headers or {})


NO_HTTP = Refused(
    400, "BAD_REQUEST", "this is no HTTP/1.1 that can be read; look at the line, the headers and the lengths of the request", CLOSE
)  # fmt: skip
"""What is said where nothing can be made of what comes."""


def in_words(refusal: Refused) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """What an error says: headers of its own, and a body in MLflow's form."""
    body = json.dumps({"error_code": refusal.code, "message": refusal.message}).encode()
    own = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    return [(name.lower().encode(), value.encode()) for name, value in own.items()], body


def too_large(most: int, reads: bool) -> Refused:
    """Of a body of more bytes than `most`; `reads`: whether images are read at the address that it came to."""
    # Whoever mistyped an address is not to look for a smaller photograph.
    remedy = (
        "send fewer images at once, or smaller ones"
        if reads
        else "images are taken by POST at /invocations, /predict and /explain alone, send them there"
    )
    return Refused(413, "BAD_REQUEST", f"the request is larger than {most:,} bytes; {remedy}", CLOSE)


def encoded() -> Refused:
    """Of a body that would have to be unpacked first: nobody knows how large it is."""
    return Refused(
        415, "BAD_REQUEST", "no Content-Encoding is taken; send the body as it is, without that header", CLOSE
    )


def ending() -> Refused:
    """Of a request that was under way for longer than a server that ends waits for it."""
    return busy("the scorer ends before this is answered", CLOSE)


def busy(why: str, more: Mapping[str, str] | None = None) -> Refused:
    """Of a request that may come again soon; `more`: headers besides."""
    headers = {"Retry-After": f"{PATIENCE:.0f}", **(more or {})}
    return Refused(503, "TEMPORARILY_UNAVAILABLE", f"{why}; come again in {PATIENCE:g} s", headers)
