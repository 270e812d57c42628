"""The stages of the registry: a verdict into a version, a version into the champion, a version into a file."""

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dermanet import settings
from dermanet.errors import BadInput, DermaNetError, GateRefused, no_space_left
from dermanet.stages.dossier import compile_dossier
from dermanet.stages.lineage import STARTED_FROM
from dermanet.stages.pages import PAGE
from dermanet.stages.rooms import ledger_of, tracking_of, versions_of
from dermanet.stages.verdicts import VERDICT

CARRIED = (
    "dermanet.snapshot",
    "dermanet.holdout",
    "dermanet.version",
    "dermanet.revision",
    "dermanet.verdict",
    "dermanet.gates",
    STARTED_FROM,
)
"""Tags that a version has from its run."""


def register(run_id: str) -> dict[str, Any]:
    """Registers a run's model after a pass, or where the gates only watch. Returns the version. Raises GateRefused otherwise."""
    here = settings.read()
    tracking = tracking_of(here)
    verdict = tracking.read_json(run_id, VERDICT)
    if not verdict["registers"]:
        raise GateRefused(
            f"run {run_id} is not registered: the verdict is {verdict['verdict']} ({'; '.join(verdict['told'])})"
        )
    tags = tracking.run(run_id).data.tags
    carried = {name: tags[name] for name in CARRIED if name in tags}
    carried |= {"dermanet.report": tracking.address(run_id, PAGE), "dermanet.dag_run": here.dag_run}
    with ledger_of(here).moving():
        # Asked for in this turn, in which upkeep removes models that are no version's.
        version = versions_of(here, tracking).register(run_id, tracking.model_of(run_id), carried)
    return {"run_id": run_id, **compile_dossier(version)}


def keep_champion(run_id: str, verdict: dict[str, Any]) -> list[str]:
    """Why a run's model does not become champion, a line a check; where the gates only watch, it is registered all the same."""
    lines = [*verdict["told"], *_refusals(run_id)]
    if verdict["verdict"] == "pass" or not verdict["registers"]:
        return lines
    version = register(run_id)["version"]
    return [
        *lines,
        f"gates: {verdict['mode']}; registered as version {version}, not served until you promote it",
    ]


def _refusals(run_id: str) -> list[str]:
    """What was said against promoting a run's version, last of all."""
    found = [one for one in ledger_of(settings.read()).about(run_id) if one.kind in ("promotion", "approval")]
    last = found[-1] if found else None
    if last is None or last.outcome in ("promoted", "approved"):
        return []
    return [f"{last.kind}, {last.outcome}{f' by {last.who}' if last.who else ''}: {last.reasons[0]}"]


def champion(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Which version serves and which run it comes from; `version` is None where there is none."""
    here = settings.read(environ)
    versions = versions_of(here, tracking_of(here))
    version = versions.holder("champion")
    return {"model": here.model, "version": version, "run_id": versions.get(version).run_id if version else None}


def export(version: str, path: str) -> dict[str, Any]:
    """Writes a version as `.keras`, `.h5` (DermaNet's published form) or `.onnx`, told by the path's ending. Raises BadInput."""
    from dermanet.registry.tracking import model_at_hand

    target, known = Path(path), (".keras", ".h5", ".onnx")
    if target.suffix not in known:
        raise BadInput(f"{path}: the ending {target.suffix!r} names no form; allowed are {', '.join(known)}")
    here = settings.read()
    known_version = versions_of(here, tracking_of(here)).get(version)
    kept = "model.keras" if target.suffix == ".h5" else f"model{target.suffix}"
    with model_at_hand(f"models:/{here.model}/{known_version.version}", kept) as file:
        if target.suffix == ".h5":
            from dermanet.learning.model import export_published_form, load

            _put(target, partial(export_published_form, load(file)))
        else:
            _put(target, partial(shutil.copyfile, file))
    return {"version": version, "path": str(target), "bytes": target.stat().st_size}


def _put(target: Path, write: Callable[[Path], Any]) -> None:
    """Has a file written beside its place, which it takes once it is whole. Raises BadInput where there can be none."""
    half = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(half)
            os.replace(half, target)
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        if no_space_left(error):
            raise DermaNetError(f"no space left for {target}; make room and run this again") from error
        raise BadInput(f"{target} cannot be written: {error.strerror or error}; name another file") from None
