"""What is configured, reachable and missing on this machine, as findings for people and programs."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dermanet import settings, stages, taxonomy
from dermanet.settings import Settings
from dermanet.storage import place

PACKAGES = (
    "airflow",
    "mlflow",
    "tensorflow",
    "keras",
    "onnxruntime",
    "cv2",
    "simplejpeg",
    "pandas",
    "sklearn",
    "boto3",
)


def examine(environ: Mapping[str, str]) -> dict[str, Any]:
    """Every finding, `ok` or not, with what was seen; nothing is changed but for folders a first use would make."""
    here = settings.read(environ)
    findings = [
        _try("settings", lambda: _known(environ)),
        _try("home", lambda: _writable(here.home)),
        _try("packages", _packages),
        _try("taxonomy", lambda: f"{len(taxonomy.load(here.taxonomy).codes)} diagnoses in {here.taxonomy}"),
        _try("gates", lambda: stages.gates_summary(here)),
        _try("validation", lambda: stages.limits_summary(here)),
        _try("object store", lambda: f"{_stored(here)} images in {here.objects}"),
        _try("catalogue", lambda: f"{stages.catalogued(here)} images in {_hidden(here.catalogue)}"),
        _try("MLflow", lambda: _champion(environ, here)),
    ]
    return {"ok": all(finding["ok"] for finding in findings), "findings": findings}


def _try(what: str, look: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"what": what, "ok": True, "detail": look()}
    except Exception as error:
        # A doctor reports whatever is wrong and goes on to the next organ.
        return {"what": what, "ok": False, "detail": f"{type(error).__name__}: {error}"}


def _known(environ: Mapping[str, str]) -> str:
    strange = settings.unknown(environ)
    if strange:
        raise ValueError(f"no setting is called {', '.join(strange)}")
    return "every DERMANET_ variable is known"


def _writable(home: Path) -> str:
    home.mkdir(parents=True, exist_ok=True)
    probe = home / ".probe"
    probe.write_text("")
    probe.unlink()
    return f"{home} is writable"


def _packages() -> str:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"not installed: {', '.join(missing)}")
    return f"{len(PACKAGES)} libraries are installed"


def _made(here: Settings) -> str:
    if not here.objects.startswith("s3://"):
        Path(here.objects).mkdir(parents=True, exist_ok=True)
    return here.objects


def _stored(here: Settings) -> int:
    return sum(not name.startswith("quarantine/") for name in place(_made(here)).listing())


def _hidden(url: str) -> str:
    """A database URL without its password."""
    scheme, _, rest = url.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _champion(environ: Mapping[str, str], here: Settings) -> str:
    version = stages.champion(environ)["version"]
    return f"{_hidden(here.tracking_uri)}; " + (f"version {version} is champion" if version else "no champion yet")
