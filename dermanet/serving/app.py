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
from dermanet.serving.guard import Guard, Limits
from dermanet.serving.metrics import Metrics

BODY = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["dataframe_split"],
            "properties": {
                "dataframe_split": {
                    "type": "object",
                    "required": ["columns", "data"],
                    "properties": {
                        "columns": {"type": "array", "items": {"type": "string", "enum": ["image"]}},
                        "data": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
                    },
                }
            },
        }
    },
    "text/csv": {"schema": {"type": "string"}},
}
"""The form of a request that is documented; MLflow takes `dataframe_records`, `inputs` and `instances`, too."""


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
    app.openapi = _described(app)
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


def _described(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """The description of the API, with the form of a request that MLflow's own leaves out."""
    whole = app.openapi

    def openapi() -> dict[str, Any]:
        made = whole()
        made["paths"]["/invocations"]["post"]["requestBody"] = {"required": True, "content": BODY}
        return made

    return openapi
