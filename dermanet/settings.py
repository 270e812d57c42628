"""Where am I running: environment variables, read once, at the door. What is being tried is an `experiment`, not a setting."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from dermanet import taxonomy
from dermanet.errors import BadInput, no_space_left

GATES = Path(__file__).with_name("gates.yaml")
VALIDATION = Path(__file__).with_name("validation.yaml")
MONITORING = Path(__file__).with_name("monitoring.yaml")
DEMO_GATES = Path(__file__).with_name("gates-demo.yaml")
EXPERIMENT = "probe"
POOL = "default_pool"
"""Airflow's own pool, which is always there."""

PROCESSES = 4096
"""More processes than this are a typing error."""

TRAINING_HOURS = 12
"""A training in Airflow that takes longer than this is ended, and resumed by the task's next try."""

MOST, YEAR, CENTURY = 10**9, 24 * 366, 36_525
"""Images, hours and days: more than these are typing errors."""

SHORTEST_TOKEN = 16
"""Characters of a token: fewer could be guessed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Each field is read from the variable `DERMANET_` and the field's name in capitals, unless its comment says otherwise."""

    home: Path
    """`DERMANET_HOME`: the root of all that a local installation keeps. Default `.dermanet` in the current folder."""
    gates: Path
    """`DERMANET_GATES`: the gates file. Default: the reviewed `gates.yaml` of the package."""
    validation: Path
    """`DERMANET_VALIDATION`: the limits that data keep to. Default: the reviewed `validation.yaml` of the package."""
    monitoring: Path
    """`DERMANET_MONITORING`: the limits that a served model is watched by. Default: the reviewed `monitoring.yaml` of the package."""
    taxonomy: Path
    """`DERMANET_TAXONOMY`: the list of diagnoses. Default: HAM10000's seven, `taxonomy.yaml` of the package."""
    source: str
    """`DERMANET_SOURCE`: what the scheduled ingest reads: folders, CSVs, `s3://bucket/prefix` or `synthetic:`, side by side."""
    experiment: str
    """`DERMANET_EXPERIMENT`: what the scheduled retrain tries. Default `probe`."""
    catalogue: str
    """`DERMANET_CATALOGUE`: SQLAlchemy URL of the catalogue. Default: SQLite in the home."""
    objects: str
    """`DERMANET_OBJECTS`: where images are kept, by content: a folder or `s3://bucket/prefix`. Default: a folder in the home."""
    model: str
    """`DERMANET_MODEL`: the name of the registered model: letters, digits and `. _ -`. Default `dermanet`."""
    processes: int
    """`DERMANET_PROCESSES`: how many processes train together, on JAX. Default 0: the stage trains itself, on its own Keras."""
    coordinator: str
    """`DERMANET_COORDINATOR`: host:port of the first of them. Default: none, all are on this machine and started by the stage."""
    process: int
    """`DERMANET_PROCESS`: which of them is this machine's, from 0. Read with `DERMANET_COORDINATOR` alone, and needed there."""
    training_pool: str
    """`DERMANET_TRAINING_POOL`: the pool of Airflow that trainings take a slot of. Default `default_pool`."""
    prepare_pool: str
    """`DERMANET_PREPARE_POOL`: the pool whose slots the parts of pixels and features take. Default `default_pool`."""
    training_queue: str
    """`DERMANET_TRAINING_QUEUE`: the queue whose workers train, under Celery. Default `default`."""
    training_pod: str
    """`DERMANET_TRAINING_POD`: the pod template of trainings, under Kubernetes. Default: that of every other task."""
    minimum_new: int
    """`DERMANET_MINIMUM_NEW`: how many images must be new or labelled anew before the scheduled retrain trains. Default 1."""
    approval_hours: float
    """`DERMANET_APPROVAL_HOURS`: how long a promotion waits for a person before the answer is no. Default 72."""
    deadline_hours: float
    """`DERMANET_DEADLINE_HOURS`: how long a scheduled retrain may take before people are told. Default 24."""
    notify: tuple[str, ...]
    """`DERMANET_NOTIFY`: who is told of failed and late runs: Apprise addresses (`mailtos://…`, `json://…`), side by side."""
    prediction_days: int
    """`DERMANET_PREDICTION_DAYS`: how many days the log of predictions goes back. Default 90; 0: nothing is logged."""
    keep_days: int
    """`DERMANET_KEEP_DAYS`: how many days upkeep keeps what nothing names any more, from its last use. Default 90."""
    log_days: int
    """`DERMANET_LOG_DAYS`: how many days Airflow's task logs and runs go back. Default 30."""
    data_licence: str
    """`DERMANET_DATA_LICENCE`: under which licence the images are, for the dossiers of versions. Default: none stated."""
    revision: str
    """`DERMANET_REVISION`: which revision of the code this is, where no Git checkout says so. Default: none."""
    tokens: tuple[str, ...]
    """`DERMANET_TOKENS`: who asks the scorer must show one of these, side by side. Default: none, and then it listens here alone."""
    metrics_token: str
    """`DERMANET_METRICS_TOKEN`: lets in at the scorer's `/metrics` alone, beside `DERMANET_TOKENS`. Default: none."""
    request_megabytes: int
    """`DERMANET_REQUEST_MEGABYTES`: the size of a request to the scorer, at most. Default 32."""
    request_images: int
    """`DERMANET_REQUEST_IMAGES`: the images in a request to the scorer, at most. Default 256."""
    request_queue: int
    """`DERMANET_REQUEST_QUEUE`: how many short requests, and how many long ones, may wait at each process of the
    scorer. Default 64."""
    request_seconds: int
    """`DERMANET_REQUEST_SECONDS`: how long a request may take to come, and its answer to be made. Default 60."""
    dag_run: str
    """`AIRFLOW_CTX_DAG_ID` and `AIRFLOW_CTX_DAG_RUN_ID`, which Airflow sets in a task: DAG/run. Empty elsewhere."""
    mlflow_pages: str
    """`DERMANET_MLFLOW_PAGES`: where people's browsers find MLflow, for links. Default: where the programs find it."""
    tracking_uri: str
    """`MLFLOW_TRACKING_URI`, MLflow's own variable. Default: SQLite in the home."""
    backend_store: str
    """`MLFLOW_BACKEND_STORE_URI`, MLflow's own variable: its server's database. Default: the tracking URI if it is one."""
    artifact_store: str
    """`MLFLOW_ARTIFACTS_DESTINATION`, MLflow's own variable: where its server keeps files. Default: a folder in the home."""
    airflow_database: str
    """`DERMANET_AIRFLOW_DATABASE`: SQLAlchemy URL of Airflow's database, for upkeep and backups. Default: SQLite in the home."""
    airflow_logs: Path
    """`AIRFLOW__LOGGING__BASE_LOG_FOLDER`, Airflow's own variable: its task logs. Default: a folder in the home."""

    @property
    def artifacts(self) -> Path:
        """Where MLflow keeps artifacts when no server decides."""
        return self.home / "mlartifacts"


def read(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process. Touches nothing: no folder is made and no service is asked.

    Raises BadInput where one of them cannot be, or those of several processes contradict one another.
    """
    environ = os.environ if environ is None else environ
    processes, coordinator, process = _processes(environ)
    home = _home(environ.get("DERMANET_HOME") or ".dermanet")
    tracking_uri = environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"
    elsewhere = not tracking_uri.startswith(("sqlite:", "postgresql"))
    return Settings(
        home=home,
        gates=Path(environ.get("DERMANET_GATES") or GATES).absolute(),
        validation=Path(environ.get("DERMANET_VALIDATION") or VALIDATION).absolute(),
        monitoring=Path(environ.get("DERMANET_MONITORING") or MONITORING).absolute(),
        taxonomy=Path(environ.get("DERMANET_TAXONOMY") or taxonomy.DEFAULT).absolute(),
        source=environ.get("DERMANET_SOURCE", ""),
        experiment=environ.get("DERMANET_EXPERIMENT") or EXPERIMENT,
        catalogue=environ.get("DERMANET_CATALOGUE") or f"sqlite:///{home / 'catalogue.db'}",
        objects=environ.get("DERMANET_OBJECTS") or str(home / "objects"),
        model=_name("DERMANET_MODEL", environ.get("DERMANET_MODEL") or "dermanet"),
        processes=processes,
        coordinator=coordinator,
        process=process,
        training_pool=environ.get("DERMANET_TRAINING_POOL") or POOL,
        prepare_pool=environ.get("DERMANET_PREPARE_POOL") or POOL,
        training_queue=environ.get("DERMANET_TRAINING_QUEUE") or "default",
        training_pod=environ.get("DERMANET_TRAINING_POD", ""),
        minimum_new=_number("DERMANET_MINIMUM_NEW", environ.get("DERMANET_MINIMUM_NEW") or "1", 1, MOST),
        approval_hours=_hours("DERMANET_APPROVAL_HOURS", environ, 72),
        deadline_hours=_hours("DERMANET_DEADLINE_HOURS", environ, 24),
        notify=tuple(environ.get("DERMANET_NOTIFY", "").split()),
        prediction_days=_number(
            "DERMANET_PREDICTION_DAYS", environ.get("DERMANET_PREDICTION_DAYS") or "90", 0, CENTURY
        ),
        keep_days=_number("DERMANET_KEEP_DAYS", environ.get("DERMANET_KEEP_DAYS") or "90", 1, CENTURY),
        log_days=_number("DERMANET_LOG_DAYS", environ.get("DERMANET_LOG_DAYS") or "30", 1, CENTURY),
        data_licence=environ.get("DERMANET_DATA_LICENCE", ""),
        revision=environ.get("DERMANET_REVISION", ""),
        tokens=_tokens("DERMANET_TOKENS", environ),
        metrics_token="".join(_tokens("DERMANET_METRICS_TOKEN", environ)[:1]),
        request_megabytes=_number(
            "DERMANET_REQUEST_MEGABYTES", environ.get("DERMANET_REQUEST_MEGABYTES") or "32", 1, 1024
        ),
        request_images=_number("DERMANET_REQUEST_IMAGES", environ.get("DERMANET_REQUEST_IMAGES") or "256", 1, 100_000),
        request_queue=_number("DERMANET_REQUEST_QUEUE", environ.get("DERMANET_REQUEST_QUEUE") or "64", 0, 100_000),
        request_seconds=_number("DERMANET_REQUEST_SECONDS", environ.get("DERMANET_REQUEST_SECONDS") or "60", 1, 3600),
        dag_run="/".join(filter(None, (environ.get("AIRFLOW_CTX_DAG_ID"), environ.get("AIRFLOW_CTX_DAG_RUN_ID")))),
        tracking_uri=tracking_uri,
        backend_store=environ.get("MLFLOW_BACKEND_STORE_URI") or ("" if elsewhere else tracking_uri),
        artifact_store=environ.get("MLFLOW_ARTIFACTS_DESTINATION") or str(home / "mlartifacts"),
        airflow_database=environ.get("DERMANET_AIRFLOW_DATABASE") or f"sqlite:///{home / 'airflow' / 'airflow.db'}",
        airflow_logs=Path(environ.get("AIRFLOW__LOGGING__BASE_LOG_FOLDER") or home / "airflow" / "logs").absolute(),
        mlflow_pages=environ.get("DERMANET_MLFLOW_PAGES", "").rstrip("/"),
    )


def _home(text: str) -> Path:
    home = Path(text).absolute()
    # In a database's address one begins its options and the other a sign's number: the file would be another one.
    if re.search("[?%]", str(home)):
        raise BadInput(
            f"DERMANET_HOME={str(home)!r}; a path with ? or % is none for databases: take another, or a link to it"
        )
    return home


def make_private(folder: Path) -> None:
    """Makes a folder for its owner's eyes, for patients' images; one that is there keeps the rights that it has. Raises BadInput."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if no_space_left(error):
            raise
        raise BadInput(
            f"{folder} cannot be made: {error.strerror}; set DERMANET_HOME to a folder that can be written"
        ) from None


def _processes(environ: Mapping[str, str]) -> tuple[int, str, int]:
    """How many train together, where the first of them is, and which one this machine has."""
    coordinator = environ.get("DERMANET_COORDINATOR", "")
    if not coordinator:
        return _number("DERMANET_PROCESSES", environ.get("DERMANET_PROCESSES") or "0", 0, PROCESSES), "", 0
    host, _, port = coordinator.rpartition(":")
    if not host or not _digits(port):
        raise BadInput(f"DERMANET_COORDINATOR={coordinator!r}; host:port of the first process is needed")
    processes = _number("DERMANET_PROCESSES", environ.get("DERMANET_PROCESSES", ""), 1, PROCESSES)
    return processes, coordinator, _number("DERMANET_PROCESS", environ.get("DERMANET_PROCESS", ""), 0, processes - 1)


def _tokens(name: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    tokens = tuple(environ.get(name, "").split())
    short = [token for token in tokens if len(token) < SHORTEST_TOKEN or not token.isascii()]
    if short:
        raise BadInput(
            f"{name}: {len(short)} of {len(tokens)} have fewer than {SHORTEST_TOKEN} characters, or others than ASCII's; "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return tokens


def _name(name: str, text: str) -> str:
    # It stands in addresses and in queries: MLflow takes no slash, and a quote would end a query.
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise BadInput(f"{name}={text!r}; allowed are letters, digits and the signs . _ -")
    return text


def _number(name: str, text: str, low: int, high: int) -> int:
    if not _digits(text) or not low <= int(text) <= high:
        raise BadInput(f"{name}={text!r}; allowed are {low} to {high}")
    return int(text)


def _digits(text: str) -> bool:
    """Whether it is a number to `int`, too: a superscript is a digit by `isdigit` alone."""
    return text.isascii() and text.isdecimal()


def _hours(name: str, environ: Mapping[str, str], default: float) -> float:
    text = environ.get(name) or str(default)
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= YEAR:
        raise BadInput(f"{name}={text!r}; needed are hours, more than 0 and at most {YEAR:,}")
    return hours


def unknown(environ: Mapping[str, str]) -> list[str]:
    """The `DERMANET_` variables that nothing reads: typing errors, most likely. The command line reads `DERMANET_TRACEBACK`."""
    known = {f"DERMANET_{field.name.upper()}" for field in fields(Settings)} - {
        "DERMANET_TRACKING_URI", "DERMANET_DAG_RUN", "DERMANET_BACKEND_STORE", "DERMANET_ARTIFACT_STORE", "DERMANET_AIRFLOW_LOGS",
    }  # fmt: skip
    known.add("DERMANET_TRACEBACK")
    return sorted(name for name in environ if name.startswith("DERMANET_") and name not in known)
