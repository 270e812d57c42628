"""How a holdout wears, and how it is renewed: by lesions that no model has seen, while the old ones are trained on."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Commands
from installation import GATES, Installation

from dermanet import settings, stages
from dermanet.errors import BadInput, GateRefused
from dermanet.intake import snapshots
from dermanet.judging.gates import HoldoutWear
from dermanet.judging.wear import wear
from dermanet.ledger.decisions import Ledger
from dermanet.records import Snapshot
from dermanet.stages.rooms import snapshot_place

LIMITS = HoldoutWear(warn_after=2, refuse_after=4)
FRESH = "synthetic:lesions=100,seed=3"


@pytest.mark.parametrize(
    ("given", "outcome"), [(0, "pass"), (1.9, "pass"), (2, "warning"), (3.99, "warning"), (4, "fail"), (90, "fail")]
)
def test_a_holdout_warns_and_then_refuses(given: float, outcome: str) -> None:
    check = wear(given, int(given), LIMITS, 100)
    assert (check.metric, check.outcome, check.value, check.limit) == ("holdout_wear", outcome, given, 4)
    assert ("renew it" in check.reason) == (outcome != "pass")


def _frozen() -> Snapshot:
    return snapshots.read(stages.snapshot()["snapshot"], snapshot_place(settings.read()))


def _lesions(frozen: Snapshot, side: str) -> set[str]:
    return {record.labels.lesion_id for record in getattr(frozen, side)}


def _check(verdict: dict[str, Any]) -> str:
    (found,) = (one["outcome"] for one in verdict["checks"] if one["metric"] == "holdout_wear")
    return str(found)


def _lost(*words: Any) -> None:
    raise RuntimeError("killed")


def test_what_has_decided_too_often_decides_no_more_until_it_is_renewed(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> None:
    gates = installation.root / "wear.yaml"
    gates.write_text("holdout_wear: {warn_after: 1, refuse_after: 2}\nminimum_support: {lesions: 8}\n" + GATES["open"])
    monkeypatch.setenv("DERMANET_GATES", str(gates))
    first = stages.champion()["run_id"]
    assert _check(stages.judge(first)) == "pass", "its own verdict does not wear for itself"
    second = stages.retrain([], "smoke:epochs=1,patience=1,seed=2")
    assert second["verdict"] == "pass" and _check(second) == "warning"
    third = stages.retrain([], "smoke:epochs=1,patience=1,seed=3")
    assert (third["verdict"], third["version"]) == ("fail", None) and _check(third) == "fail"
    with pytest.raises(GateRefused, match="have taken part in 2 verdicts on average, 2 of them on this very holdout"):
        stages.register(third["run_id"])
    assert any("2 verdicts" in reason for reason in stages.why(third["run_id"])[-1]["reasons"])

    old = _frozen()
    told = stages.holdout()
    assert (told["lesions"], told["verdicts"], told["fresh"]) == (len(_lesions(old, "holdout")), 3, 0)
    with pytest.raises(BadInput, match=r"0 lesions are fresh, .* a new holdout needs 8: take more in"):
        stages.renew_holdout("worn")
    stages.ingest(FRESH)
    with pytest.raises(BadInput, match="say it with --because"):
        stages.renew_holdout("")
    environ = {**installation.environment(), "DERMANET_GATES": str(gates)}
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Ledger, "add_within", _lost)
        stages.renew_holdout("worn")
    assert stages.holdout()["verdicts"] == 3, "no renewal without its record"
    shown = json.loads(commands.run(["holdout", "--renew", "--because", "worn", "--json"], environ).stdout)
    assert shown["fresh"] == 40 and stages.holdout()["verdicts"] == 3, "without --yes nothing is done"
    done = json.loads(commands.run(["holdout", "--renew", "--because", "worn", "--yes", "--json"], environ).stdout)
    assert done == {"fresh": 40, "fresh_needed": 8, "retired": len(_lesions(old, "holdout"))}

    new = _frozen()
    assert not _lesions(new, "holdout") & {record.labels.lesion_id for record in old.records}
    assert _lesions(new, "train") == _lesions(old, "train") | _lesions(old, "holdout")
    assert _lesions(new, "validation") == _lesions(old, "validation")
    assert stages.holdout()["verdicts"] == 0
    fourth = stages.retrain([], "smoke:epochs=1,patience=1,seed=4", accept_data="the test renews its holdout")
    integrity = {one["metric"]: one["outcome"] for one in fourth["checks"] if one["kind"] == "integrity"}
    assert fourth["verdict"] == "pass" and integrity["holdout_wear"] == integrity["leaked_images"] == "pass"
    assert [one["outcome"] for one in stages.why(limit=100) if one["kind"] == "renewal"] == ["renewed"]
    assert Path(stages.evaluation_page(fourth["run_id"])).exists()
