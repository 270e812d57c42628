"""The scorer over HTTP: MLflow's own scoring application over a model that follows the champion.

POST /invocations   MLflow's payload forms, a column `image` of base64 text; one row an image in return
GET  /ping /health  alive;  503 until there is a champion
GET  /model         which version is served, and what is wrong with the registry if something is
GET  /version       MLflow's version
"""

import logging
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from dermanet import settings
from dermanet.registry.tracking import Tracking
from dermanet.registry.versions import CHAMPION, Versions
from dermanet.serving.follow import Following

WAITS = frozenset({"/invocations", "/ping", "/health"})


def build(following: Following) -> FastAPI:
    """MLflow's scoring application over `following`, with the address that says what is served."""
    from mlflow.pyfunc import scoring_server

    app: FastAPI = scoring_server.init(following)
    app.title = "DermaNet scorer"
    app.description = "Age, sex and diagnosis from dermoscopic images. For research use; not a medical device."

    @app.get("/model")
    def model() -> dict[str, str | None]:
        """The served version."""
        version = following.served.version if following.served else None
        return {
            "model": following.versions.name,
            "alias": following.alias,
            "version": version,
            "trouble": following.trouble,
        }

    @app.middleware("http")
    async def wait_for_a_champion(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if following.served is None and request.url.path in WAITS:
            return JSONResponse(
                {"error": f"no version of {following.versions.name} is {following.alias} yet"},
                503,
                {"Retry-After": "5"},
            )
        return await answer(request)

    return app


def serve(host: str, port: int, poll: float, version: str = "") -> None:
    """Serves the champion, or always one `version`, until SIGINT or SIGTERM; requests under way are answered first.

    Raises BadInput where there is no such version.
    """
    import uvicorn

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    here = settings.read()
    tracking = Tracking(here.tracking_uri, here.artifacts)
    versions = Versions(tracking.client, here.model)
    if version:
        # One that there is not would be waited for in vain.
        versions.get(version)
    following = Following(versions, CHAMPION, poll, version)
    following.start()
    try:
        uvicorn.run(build(following), host=host, port=port, log_level="warning", timeout_graceful_shutdown=10)
    finally:
        following.stop()
