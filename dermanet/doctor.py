"""What is configured, reachable and missing on this machine, as findings for people and programs."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
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


AIRFLOW = """
import json
from airflow.configuration import conf
from airflow.models.pool import Pool
try:
    pools = [pool.pool for pool in Pool.get_pools()]
except Exception:
    pools = None
print("RESULT" + json.dumps({
    "executor": conf.get("core", "executor"),
    "token": conf.getint("execution_api", "jwt_expiration_time"),
    "redelivered": conf.getint("celery_broker_transport_options", "visibility_timeout", fallback=86400),
    "pools": pools,
}))
"""
"""What Airflow's own configuration says, asked in a process of its own: imported here, it would log and write files."""


class Doubt(Exception):
    """Nothing is missing, but something may go wrong."""


def examine(environ: Mapping[str, str]) -> dict[str, Any]:
    """Every finding, and whether all are `ok`."""
    found = list(findings(environ))
    return {"ok": all(finding["ok"] for finding in found), "findings": found}


def findings(environ: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Finding by finding, `ok` or not or a `warning`, with what was seen; nothing is changed but folders that a first use makes."""
    here = settings.read(environ)
    looks: dict[str, Callable[[], str]] = {
        "settings": lambda: _known(environ),
        "home": lambda: _writable(here.home),
        "packages": _packages,
        "taxonomy": lambda: f"{len(taxonomy.load(here.taxonomy).codes)} diagnoses in {here.taxonomy}",
        "experiment": lambda: stages.experiment_summary(here),
        "gates": lambda: stages.gates_summary(here),
        "validation": lambda: stages.limits_summary(here),
        "monitoring": lambda: stages.monitoring_summary(here),
        "object store": lambda: f"{_stored(here)} images in {here.objects}",
        "catalogue": lambda: f"{stages.catalogued(here)} images in {_hidden(here.catalogue)}",
        "MLflow": lambda: _champion(environ, here),
        "Airflow": lambda: _airflow(environ, here),
    }
    for what, look in looks.items():
        yield _try(what, look)


def _try(what: str, look: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"what": what, "ok": True, "warning": False, "detail": look()}
    except Doubt as doubt:
        return {"what": what, "ok": True, "warning": True, "detail": str(doubt)}
    except Exception as error:
        # A doctor reports whatever is wrong and goes on to the next organ.
        return {"what": what, "ok": False, "warning": False, "detail": f"{type(error).__name__}: {error}"}


def _known(environ: Mapping[str, str]) -> str:
    strange = settings.unknown(environ)
    if strange:
        raise ValueError(f"no setting is called {', '.join(strange)}")
    return "every DERMANET_ variable is known"


def _writable(home: Path) -> str:
    settings.make_private(home)
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
    stages.require_comparable(here)
    return f"{_hidden(here.tracking_uri)}; " + (f"version {version} is champion" if version else "no champion yet")


def _airflow(environ: Mapping[str, str], here: Settings) -> str:
    """Executor, pool and tokens where this environment is Airflow's. Raises Doubt, and ValueError for a pool that is not there."""
    if not any(name == "AIRFLOW_HOME" or name.startswith("AIRFLOW__") for name in environ):
        return "no variable of Airflow is set here, and its configuration was not looked at"
    told = _asked_airflow(environ)
    pools = told["pools"]
    for pool, slots, variable in ((here.training_pool, 1, "TRAINING"), (here.prepare_pool, "SLOTS", "PREPARE")):
        if pools is not None and pool not in pools:
            raise ValueError(
                f"there is no pool {pool!r} (DERMANET_{variable}_POOL), and its tasks would wait for ever; make it with: "
                f"airflow pools set {pool} {slots} '{variable.lower()}'"
            )
    doubts = _short_times(told)
    if doubts:
        raise Doubt("; ".join(doubts))
    seen = (
        f"trainings take a slot of the pool {here.training_pool}" if pools else "its database cannot be asked from here"
    )
    return f"{told['executor']}, {seen}, tokens of {told['token']:,} s"


def _asked_airflow(environ: Mapping[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", AIRFLOW], env=dict(environ), capture_output=True, text=True, check=False, timeout=120
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise RuntimeError(f"Airflow's configuration cannot be read: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT")))


def _short_times(told: Mapping[str, Any]) -> list[str]:
    """What would end before a training does."""
    training = settings.TRAINING_HOURS * 3600
    doubts = []
    if told["token"] < training:
        doubts.append(
            f"a task's token is good for {told['token']:,} s, a training may take {training:,} s, and a worker that stands still for "
            "long would lose it: set AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME=86400 for scheduler and API server"
        )
    if "Celery" in told["executor"] and told["redelivered"] < training:
        doubts.append(
            f"Redis hands a task out again after {told['redelivered']:,} s, and a training may take {training:,} s: set "
            "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT=86400"
        )
    return doubts
