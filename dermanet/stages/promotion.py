"""The stages that move aliases: a version becomes champion, or the one before it again. One process at a time, and none by halves.

A move is written into the ledger before its first step and after its last. Whoever has the next turn ends what a killed process
left: done, if the champion had moved; else undone, so that there is one champion and a rollback leads where it led before.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.errors import BadInput, GateRefused
from dermanet.settings import Settings
from dermanet.stages.dossier import keep_decisions
from dermanet.stages.lineage import card_of
from dermanet.stages.rooms import gates_of, ledger_of, tracking_of, versions_of, whoever_asks
from dermanet.stages.verdicts import VERDICT

if TYPE_CHECKING:
    from dermanet.ledger.decisions import Ledger
    from dermanet.registry.tracking import Tracking
    from dermanet.registry.versions import Versions


def promote(version: str, who: str = "", because: str = "") -> dict[str, Any]:
    """Makes a version the champion by a person's word, whatever was judged; the champion before it becomes `previous`.

    A second call changes nothing. Raises BadInput where there is no such version, or its files are not there.
    """
    return _promote(settings.read(), version, who or whoever_asks(), because or "asked for by hand")


def promote_judged(version: str, approval: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Makes a version the champion because its verdict says so, or a person did who was asked (`approval`, as `answered` returns it).

    Raises GateRefused where the gates want a person's yes and there is none, where another version is champion by now than the one
    that it was compared with, or where it has been champion already: rolled back or replaced, it comes back by a person's word alone.
    """
    here, asked = settings.read(), approval or {}
    if asked.get("approved"):
        return _promote(here, version, asked["who"], asked["because"], judged=True)
    no = asked.get("because") or ("nobody was asked" if asks(here) else "")
    return _promote(here, version, "", "", judged=True, no=no)


def asks(here: Settings) -> bool:
    """Whether the gates want a person to be asked. Raises BadInput where their file is wrong."""
    return gates_of(here).promotion == "approval"


def require_comparable(here: Settings) -> None:
    """Raises BadInput where the champion is a version without its files, as by an alias that was moved in MLflow."""
    from dermanet.registry.versions import CHAMPION

    champion = versions_of(here, tracking_of(here)).holder(CHAMPION)
    try:
        if champion:
            card_of(here, champion)
    except BadInput as error:
        raise BadInput(
            f"nothing can be compared with the champion, version {champion}: {error} (dermanet promote)"
        ) from None


def roll_back(who: str = "", because: str = "") -> dict[str, Any]:
    """Makes the previous champion the champion again. Raises BadInput where there was none, or its files are not there.

    `previous` stays where it is, so that a second call finds the work done instead of undoing it.
    """
    from dermanet.ledger.decisions import ROLLED_BACK, Decision
    from dermanet.registry.versions import CHAMPION, PREVIOUS

    here = settings.read()
    tracking, ledger = tracking_of(here), ledger_of(here)
    versions = versions_of(here, tracking)
    with ledger.moving():
        settle(ledger, versions)
        version, before = versions.holder(PREVIOUS), versions.holder(CHAMPION)
        if version is None:
            raise BadInput(f"{here.model} has no previous champion to go back to; `dermanet promote VERSION` takes any")
        if version != before:
            reasons = (
                because or "asked for by hand",
                f"back from version {before}" if before else "there was no champion",
            )
            card_of(here, version)
            move = Decision(
                "rollback", "", reasons, versions.get(version).run_id or "", version, who=who or whoever_asks(),
                dag_run=here.dag_run, before={"champion": before or "", "previous": version},
            )  # fmt: skip
            move = ledger.begin(move)
            versions.move(CHAMPION, version)
            ledger.finish(move, ROLLED_BACK)
    if left := versions.existing(before or ""):
        # Why it is champion no more belongs to its dossier.
        keep_decisions(here, tracking, versions.get(left).run_id)
    return {"model": here.model, "champion": version, "before": before}


def why_not(
    tracking: "Tracking", ledger: "Ledger", run_id: str, version: str, champion: str | None, approved: bool = False
) -> str:
    """What keeps a run's version, which is not champion, from becoming so by its verdict; empty where nothing does.

    `champion`: who it is now. `approved`: by a person who was asked.
    """
    verdict = tracking.read_json(run_id, VERDICT)
    if verdict["verdict"] != "pass":
        return f"the verdict on version {version} is {verdict['verdict']}"
    compared = verdict["champion_version"]
    if champion != compared:
        beside = f"version {compared}" if compared else "no champion"
        now = f"version {champion} is champion now" if champion else "there is no champion now"
        return f"version {version} was compared with {beside}, and {now}; evaluate and judge run {run_id} again"
    left = ledger.last_move_of(version)
    if left and not approved:
        back = f"only a person brings it back: dermanet promote {version}"
        if left.version != version:
            return f"version {version} was rolled back by {left.who} ({left.reasons[0]}); {back}"
        # An old run that is cleared must not put the old model in the place of what came after it.
        return f"version {version} was champion already, from {left.at}, and is no more; {back}"
    return ""


def settle(ledger: "Ledger", versions: "Versions") -> None:
    """Ends a move that a killed process left under way, and takes note of a champion that was made outside DermaNet."""
    from dermanet.ledger.decisions import FOUND, PROMOTED, ROLLED_BACK, UNDER_WAY, UNDONE, Decision
    from dermanet.registry.versions import CHAMPION, PREVIOUS

    last, holder = ledger.last_move(), versions.holder(CHAMPION) or ""
    if last and last.outcome == UNDER_WAY:
        if holder == last.version:
            done = PROMOTED if last.kind == "promotion" else ROLLED_BACK
            ledger.finish(last, done, "its process ended before it could say that it was done")
        else:
            if last.kind == "promotion" and versions.holder(PREVIOUS) == (last.before["champion"] or None):
                versions.move(PREVIOUS, versions.existing(last.before["previous"]))
            ledger.finish(last, UNDONE, "its process ended before the champion had moved")
            last = ledger.last_move()
    if last and holder != last.version:
        had = f"version {last.version}" if last.version else "nobody"
        has = f"version {holder}" if holder else "nobody"
        reason = f"{has} is champion, and was not made so by DermaNet: {had} was"
        ledger.add(Decision("found", FOUND, (reason,), version=holder))


def _promote(
    here: Settings, version: str, who: str, because: str, judged: bool = False, no: str = ""
) -> dict[str, Any]:
    """Moves the aliases, if they are not there already. `judged`: only if its verdict lets it, and unless there is a `no`."""
    from dermanet.ledger.decisions import PROMOTED, Decision
    from dermanet.registry.versions import CHAMPION, PREVIOUS

    tracking, ledger = tracking_of(here), ledger_of(here)
    versions = versions_of(here, tracking)
    run_id = versions.get(version).run_id or ""
    with ledger.moving():
        settle(ledger, versions)
        before, previous = versions.holder(CHAMPION), versions.holder(PREVIOUS)
        if before != version:
            if judged and (reason := no or why_not(tracking, ledger, run_id, version, before, approved=bool(who))):
                raise GateRefused(f"version {version} does not become champion: {reason}")
            # Nobody could serve what has no files, and no retrain be compared with it.
            card_of(here, version)
            instead = f"instead of version {before}" if before else "there was no champion"
            move = Decision(
                "promotion", "", (because or "its verdict is a pass", instead), run_id, version, who=who, dag_run=here.dag_run,
                before={"champion": before or "", "previous": previous or ""},
            )  # fmt: skip
            move = ledger.begin(move)
            versions.tag(version, approver=who or "the gates", approved_because=because or "its verdict is a pass")
            if before:
                versions.move(PREVIOUS, before)
            versions.move(CHAMPION, version)
            ledger.finish(move, PROMOTED)
    keep_decisions(here, tracking, run_id)
    return {"model": here.model, "champion": version, "before": before}
