"""The addresses of the scorer beside MLflow's own: files by multipart, what is served, metrics, and the page of the API.

POST /predict   multipart/form-data, one or more files named `image`; one row an image in return, in order
POST /explain   multipart/form-data, one file named `image`; what the network sees of it, and where it looks
                Both answer 422, with the same body, where no image could be read.
POST /follow    look at the registry at once: for a webhook of MLflow, or whoever has just promoted
GET  /ready     200 once a version is served, 503 before
GET  /model     which version, by which word, on what it was trained, and how stale the registry's word is
GET  /metrics   Prometheus
GET  /docs      this list as a page, and /openapi.json
GET  /          the page: one photograph after another, for people
"""

import asyncio
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.formparsers import MultiPartException, MultiPartParser

from dermanet.serving import saliency
from dermanet.serving.follow import AT_THE_DOOR, Following, Visit
from dermanet.serving.metrics import Metrics
from dermanet.webpage import STYLES

SWAGGER = files("fastapi_offline") / "static"
HERE = Path(__file__).parent
PAGES = {
    "/": ("text/html", [HERE / "page.html"]),
    # The style of all pages, and what this one has besides.
    "/page.css": ("text/css", [STYLES / "page.css", HERE / "page.css"]),
    "/page.js": ("text/javascript", [HERE / "page.js"]),
    "/docs": ("text/html", [HERE / "docs.html"]),
    "/docs.js": ("text/javascript", [HERE / "docs.js"]),
    "/swagger-ui.css": ("text/css", [Path(str(SWAGGER / "swagger-ui.css"))]),
    "/swagger-ui.js": ("text/javascript", [Path(str(SWAGGER / "swagger-ui-bundle.js"))]),
}  # fmt: skip
"""The page, that of the API, and all they need, from this server alone: type, and the files one after another."""

USE = "For research use; not a medical device."
FIELDS = 16
"""So many fields of text may stand beside the files of a form, for clients that send some; none is read."""

FILE = {"type": "string", "format": "binary"}
UNREAD: dict[int | str, dict[str, Any]] = {422: {"description": "No image could be read; `error` says why, of each"}}


def _form(image: dict[str, Any]) -> dict[str, Any]:
    """How the page of the API describes a form with a field `image`."""
    schema = {"type": "object", "required": ["image"], "properties": {"image": image}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


class InMemory(MultiPartParser):
    """Parts stay in memory, whose sum the guard has bounded: no photograph is written to a disk on its way."""

    spool_max_size = 2**31


async def images_of(request: Request, visit: Visit) -> list[bytes]:
    """The files named `image` of a multipart request. Marks the visit as refused, and gives none, where there is none."""
    visit.reached = True
    try:
        form = await InMemory(request.headers, request.stream(), max_files=visit.most, max_fields=FIELDS).parse()
    except (MultiPartException, KeyError, ValueError, AssertionError) as error:
        visit.refusal = _refusal(error, visit.most)
        return []
    found = [await part.read() for part in form.getlist("image") if not isinstance(part, str)]
    if not found:
        visit.refusal = 400, "no file named `image`; send one or more, as multipart/form-data"
    return found


def _refusal(error: Exception, most: int) -> tuple[int, str]:
    """What is said of a form that could not be taken apart; which of its limits it was, the parser's words alone tell."""
    words = error.message if isinstance(error, MultiPartException) else ""
    if words.startswith("Too many files"):
        return 413, f"more than {most:,} images in one request; send the others in another"
    if words.startswith("Too many fields"):
        return 400, f"more than {FIELDS} fields of text in one request; send files named `image`, which alone are read"
    if words.startswith("Part exceeded"):
        return 400, "a field of text is larger than 1 MiB; send images as files named `image`, not as text"
    return 400, "the body is no multipart/form-data; send one or more files named `image`"


def add(app: FastAPI, following: Following, metrics: Metrics, largest: int) -> None:
    """Adds the addresses to MLflow's application, whose own page of the API would ask another server for its looks.

    `largest`: how many bytes a request may have.
    """
    app.router.routes = [one for one in app.router.routes if getattr(one, "path", "") not in {"/docs", "/redoc"}]
    _add_reading(app, following)
    _add_state(app, following, metrics, largest)
    for path, (kind, pieces) in PAGES.items():
        app.get(path, include_in_schema=False)(_page(kind, pieces))


def _add_reading(app: FastAPI, following: Following) -> None:
    @app.post("/predict", openapi_extra=_form({"type": "array", "items": FILE, "minItems": 1}), responses=UNREAD)
    async def predict(request: Request) -> Response:
        """Age, sex and diagnosis of the images in a form, a row each."""
        visit = AT_THE_DOOR.get()
        assert visit and visit.served, "the guard lets nobody in before there is a version"
        found = await images_of(request, visit)
        if not found:
            return Response(status_code=400)
        readings = await asyncio.to_thread(visit.served.reader.read_files, found, lambda: not visit.given_up)
        rows = following.told(visit.served, readings)
        return _answer(following, visit, {"predictions": rows}, rows)

    @app.post("/explain", openapi_extra=_form(FILE), responses=UNREAD)
    async def explain(request: Request) -> Response:
        """What the network sees of one image, and which places its diagnosis depends on, both as pictures."""
        visit = AT_THE_DOOR.get()
        assert visit and visit.served, "the guard lets nobody in before there is a version"
        found = await images_of(request, visit)
        if len(found) > 1:
            visit.refusal = 400, f"{len(found)} images; one is explained at a time, send each in a request of its own"
        if visit.refusal:
            return Response(status_code=400)
        told = await asyncio.to_thread(saliency.explain, visit.served.reader, found[0], lambda: not visit.given_up)
        return _answer(following, visit, told, [told])


def _add_state(app: FastAPI, following: Following, metrics: Metrics, largest: int) -> None:
    @app.get("/ready", responses={503: {"description": "There is no version yet"}})
    async def ready() -> Response:
        """Whether there is a version to answer with."""
        return JSONResponse({"ready": following.served is not None}, 200 if following.served else 503)

    @app.get("/model")
    async def model() -> dict[str, Any]:
        """Which version is served, and what is wrong with the registry if something is."""
        return {**state(following), "largest": largest}

    @app.post("/follow", status_code=202)
    async def follow() -> dict[str, str]:
        """Look at the registry at once."""
        following.noticeboard.ring()
        return {"told": "every process looks at the registry now"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metric_text() -> Response:
        """What Prometheus collects."""
        metrics.look(following.staleness)
        text, kind = metrics.text()
        return Response(text, media_type=kind)


def state(following: Following) -> dict[str, Any]:
    """What /model tells."""
    served = following.served
    about: Mapping[str, Any] = served.about if served else {"aliases": [], "tags": {}, "registered": None}
    card: Mapping[str, Any] = served.reader.network.card if served else {}
    tags, staleness, diagnoses = about["tags"], following.staleness, card.get("taxonomy", ())
    return {
        "model": following.versions.name, "alias": following.alias, "version": served.version if served else None,
        "digest": served.digest if served else None, "aliases": about["aliases"], "verdict": tags.get("verdict"),
        "report": tags.get("report"), "registered": about["registered"], "trained_on": card.get("snapshot"),
        "experiment": card.get("experiment", {}).get("name"), "holdout": card.get("holdout"),
        "diagnoses": {entry["code"]: entry["name"] for entry in diagnoses},
        "malignant": [entry["code"] for entry in diagnoses if entry["malignant"]],
        "looked": None if staleness is None else round(staleness, 1), "poll": following.poll, "trouble": following.trouble,
        "use": USE,
    }  # fmt: skip


def _answer(following: Following, visit: Visit, told: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Response:
    """What is told of images, beside what told it: 422 where each row has an `error`, since nothing was answered then."""
    assert visit.served
    visit.in_rows = all(row["error"] for row in rows)
    by = {"model": following.versions.name, "version": visit.served.version, "digest": visit.served.digest, "use": USE}
    return JSONResponse({**by, **told}, 422 if visit.in_rows else 200)


def _page(kind: str, pieces: Sequence[Path]) -> Any:
    text = "\n".join(piece.read_text(encoding="utf-8") for piece in pieces)

    async def sent() -> Response:
        return Response(text, media_type=kind)

    return sent
