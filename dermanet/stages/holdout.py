"""The stages of the holdout: how worn it is, and a new one of lesions that no model has seen."""

from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.errors import BadInput
from dermanet.stages.rooms import gates_of, ledger_of, whoever_asks

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dermanet.intake.placing import Renewal
    from dermanet.judging.gates import Gates

LEAST = 80
"""Lesions of a new holdout, where the gates name no smallest number."""


def holdout() -> dict[str, Any]:
    """How many lesions the holdout has, in how many verdicts they took part, what is allowed, and what a renewal would do."""
    from dermanet.intake.catalogue import Catalogue
    from dermanet.intake.placing import renewal, survey

    here = settings.read()
    limits, catalogue = gates_of(here), Catalogue(here.catalogue)
    lesions = {lesion for lesion, side in survey(catalogue).sides.items() if side == "holdout"}
    would = renewal(catalogue)
    return {
        "lesions": len(lesions), "verdicts": round(ledger_of(here).wear(lesions), 3), "warn_after": limits.holdout_wear.warn_after,
        "refuse_after": limits.holdout_wear.refuse_after, **_told(would, _least(limits)),
    }  # fmt: skip


def renew_holdout(because: str, who: str = "") -> dict[str, Any]:
    """Makes a new holdout of fresh lesions; kept in the ledger. Raises BadInput without a reason, or where too few are fresh."""
    from dermanet.intake.catalogue import Catalogue
    from dermanet.intake.placing import renew
    from dermanet.ledger.decisions import Decision

    if not because:
        raise BadInput("a holdout is renewed for a reason; say it with --because")
    here, person = settings.read(), who or whoever_asks()
    least = _least(gates_of(here))
    ledger = ledger_of(here)

    def keep(connection: "Connection", done: "Renewal") -> None:
        told = f"{len(done.fresh)} fresh lesions judge from now on, {len(done.retired)} are trained on"
        decision = Decision("renewal", "renewed", (because, told), who=person, dag_run=here.dag_run)
        ledger.add_within(connection, decision)

    return _told(renew(Catalogue(here.catalogue), least, person, keep), least)


def _told(found: "Renewal", least: int) -> dict[str, int]:
    return {"fresh": len(found.fresh), "fresh_needed": least, "retired": len(found.retired)}


def _least(limits: "Gates") -> int:
    return limits.minimum_support.get("lesions", LEAST)
