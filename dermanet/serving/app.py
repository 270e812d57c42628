"""The scorer over HTTP: MLflow's own scoring application over a model that follows the champion, behind a guard.

POST /invocations   MLflow's payload forms, a column `image` of base64 text; one row an image in return
GET  /ping /health  alive
GET  /version       MLflow's version
and what `dermanet.serving.routes` adds. For research use; not a medical device.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from dermanet.serving import plain, routes
from dermanet.serving.follow import Following
from dermanet.serving.guard import OPEN, Guard, Limits
from dermanet.serving.metrics import Metrics

CELL = {"type": "string", "description": "a JPEG or PNG in base64, or a data URI of one"}
BODY = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["dataframe_split"],
            "additionalProperties": False,
            "properties": {
                "dataframe_split": {
                    "type": "object",
                    "required": ["columns", "data"],
                    "additionalProperties": False,
                    "properties": {
                        "columns": {
                            "type": "array",
                            "items": {"type": "string", "enum": ["image"]},
                            "minItems": 1,
                            "maxItems": 1,
                        },
                        "data": {
                            "type": "array",
                            "items": {"type": "array", "items": CELL, "minItems": 1, "maxItems": 1},
                        },
                    },
                }
            },
        }
    },
    "text/csv": {"schema": {"type": "string", "pattern": "^image\\n"}},
}
"""The form of a request that is documented; MLflow takes `dataframe_records`, `inputs` and `instances`, too."""

REFUSED = {
    "description": "What was seen, what is allowed, and what to do",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error_code", "message"],
                "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
            }
        }
    },
}
"""What every error is, at every address."""


def build(
    following: Following, limits: Limits | None = None, tokens: tuple[str, ...] = (), hosts: bool = True, metrics_token: str = ""
) -> FastAPI:  # fmt: skip
    """MLflow's scoring application over `following`, guarded. `hosts`: whether it may only be asked for by names of this machine."""
    from mlflow.pyfunc import scoring_server

    limits, metrics = limits or Limits(), Metrics()
    app: FastAPI = scoring_server.init(following)
    # MLflow's own time limit: the guard has one that knows which slot is still taken, and costs a tenth of it.
    app.user_middleware.clear()
    app.title = "DermaNet scorer"
    app.state.metrics = metrics
    app.description = "Age, sex and diagnosis from dermoscopic images. For research use; not a medical device."
    routes.add(app, following, metrics, limits.bytes)
    plain.add(app, following)
    app.openapi = _described(app, bool(tokens))
    following.observers.append(lambda served, readings: metrics.read(readings))
    following.swapped.append(lambda served: metrics.serve(served.version, served.about.get("registered")))
    following.looked.append(lambda: metrics.look(following.staleness))
    door = {"tokens": tokens, "hosts": hosts, "metrics_token": metrics_token}
    app.add_middleware(Guard, following=following, limits=limits, metrics=metrics, **door)
    return app


def at_the_end(app: FastAPI, close: Callable[[], None]) -> None:
    """Has `close` called when the application is shut down, after its last answer."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        close()

    app.router.lifespan_context = life


def _described(app: FastAPI, tokens: bool) -> Callable[[], dict[str, Any]]:
    """The description of the API: with the form of a request that MLflow's own leaves out, errors, and where a token is wanted."""
    whole = app.openapi

    def openapi() -> dict[str, Any]:
        made = whole()
        made["paths"]["/invocations"]["post"]["requestBody"] = {"required": True, "content": BODY}
        for path, operations in made["paths"].items():
            for operation in operations.values():
                operation["responses"] = {"4XX": REFUSED, "5XX": REFUSED} | operation["responses"]
                if tokens and path not in OPEN:
                    operation["security"] = [{"token": []}]
        if tokens:
            made["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        return made

    return openapi
