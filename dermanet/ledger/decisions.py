"""Decisions, each recorded once: retrain or not, pass or not, promoted or not; and how often they have used a holdout.

A verdict wears the holdout that it was given on: who tries often enough passes by chance. What is counted is each lesion's share in
verdicts, so that a holdout in which a few lesions are new is nearly as worn as it was.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa

from dermanet.database import patience
from dermanet.database.engine import open_database
from dermanet.database.schema import DECISIONS, SIDES
from dermanet.database.turns import turn

Kind = Literal[
    "retrain", "data", "verdict", "smoke test", "approval", "promotion", "rollback", "found", "renewal", "monitoring"
]
"""What is decided. `found`: somebody moved an alias outside DermaNet. `monitoring`: drift asked for a retrain."""

UNDER_WAY, UNDONE = "under way", "undone"
PROMOTED, ROLLED_BACK, FOUND = "promoted", "rolled back", "moved"
MOVES = (UNDER_WAY, PROMOTED, ROLLED_BACK, FOUND)
"""Outcomes after which another version, or none, is champion, or soon may be."""

ALIASES = "aliases"
"""Whose turn a move is."""

SUBJECTS = ("run_id", "version", "snapshot", "holdout", "dag_run")
"""What a decision is about, as far as it is known."""

SOME = 500
"""Lesions in one statement."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about what, why and by whom. `number` and `at` are given by the ledger.

    `outcome`: a word. `who`: a person; empty where a rule decided. `before`: alias to version ("" for none) before a move.
    """

    kind: Kind
    outcome: str
    reasons: tuple[str, ...]
    run_id: str = ""
    version: str = ""
    snapshot: str = ""
    holdout: str = ""
    who: str = ""
    dag_run: str = ""
    before: Mapping[str, str] = field(default_factory=dict)
    wore: bool = False
    number: int = 0
    at: str = ""


class Ledger:
    """The decisions of one installation. Any number of processes may write and read."""

    def __init__(self, url: str) -> None:
        """`url`: SQLAlchemy's, of the installation's database."""
        self.engine = open_database(url)

    def record(self, decision: Decision, lesions: Collection[str] = ()) -> Decision:
        """Keeps a decision and returns it numbered; taken again by a stage that runs again, it is returned as it was.

        `lesions`: those of the holdout, which a decision that `wore` it uses up by one, once for each run.
        """

        def kept(connection: sa.Connection) -> Decision:
            last = _latest_about(connection, decision)
            if last and replace(last, number=0, at="") == decision:
                return last
            if decision.wore and not _wore_before(connection, decision):
                _wear(connection, lesions)
            return _inserted(connection, decision)

        return patience.write(self.engine, kept)

    def add(self, decision: Decision) -> Decision:
        """Keeps a decision and returns it numbered, however often the same was taken before."""
        kept: list[Decision] = []

        def once(connection: sa.Connection) -> Decision:
            # Done again where the answer of a commit was lost: what stands there by then is ours.
            if not kept or _numbered(connection, kept[-1].number) != kept[-1]:
                kept.append(_inserted(connection, decision))
            return kept[-1]

        return patience.write(self.engine, once)

    def add_within(self, connection: sa.Connection, decision: Decision) -> Decision:
        """Keeps a decision in the transaction of what was decided, so that neither is there without the other."""
        return _inserted(connection, decision)

    @contextmanager
    def moving(self) -> Iterator[None]:
        """The turn of whoever moves aliases."""
        with turn(self.engine, ALIASES):
            yield

    def begin(self, decision: Decision) -> Decision:
        """Keeps a move before its first step."""
        return self.add(replace(decision, outcome=UNDER_WAY))

    def finish(self, decision: Decision, outcome: str, *reasons: str) -> Decision:
        """Says how a move ended that was `under way`."""
        ended = replace(decision, outcome=outcome, reasons=(*decision.reasons, *reasons))
        change = sa.update(DECISIONS).where(DECISIONS.c.number == decision.number)
        values = {"outcome": ended.outcome, "reasons": list(ended.reasons)}
        patience.write(self.engine, lambda connection: connection.execute(change.values(values)))
        return ended

    def last(self, kind: Kind) -> Decision | None:
        """The latest decision of a kind."""
        found = self._found(DECISIONS.c.kind == kind, limit=1)
        return found[0] if found else None

    def after(self, number: int) -> list[Decision]:
        """All that was decided after a decision, in order."""
        return self._found(DECISIONS.c.number > number)

    def last_move(self) -> Decision | None:
        """The latest move of aliases, under way or ended, but none that was undone."""
        found = self._found(DECISIONS.c.outcome.in_(MOVES), limit=1)
        return found[0] if found else None

    def last_move_of(self, version: str) -> Decision | None:
        """The latest move that made a version champion, or rolled back from it."""
        moves = self._found(DECISIONS.c.outcome.in_((PROMOTED, ROLLED_BACK)))
        left = (ROLLED_BACK, version)
        ours = [one for one in moves if one.version == version or (one.outcome, one.before["champion"]) == left]
        return ours[-1] if ours else None

    def latest(self, limit: int) -> list[Decision]:
        """The latest decisions, the oldest of them first."""
        return self._found(limit=limit)

    def about(self, name: str) -> list[Decision]:
        """Every decision on the way of a run, in order. `name`: an MLflow run, a version, a snapshot, a holdout or a DAG run."""
        first = self._found(sa.or_(*(DECISIONS.c[column] == name for column in SUBJECTS)))
        ways: list[sa.ColumnElement[bool]] = [
            DECISIONS.c[column].in_(names)
            for column in ("run_id", "version", "dag_run")
            if (names := {getattr(one, column) for one in first} - {""})
        ]
        versions = {one.version for one in first} - {""}
        # A rollback is about the version that it leaves, too.
        ways.append(
            sa.and_(DECISIONS.c.outcome == ROLLED_BACK, DECISIONS.c.before["champion"].as_string().in_(versions))
        )
        return self._found(sa.or_(*ways, DECISIONS.c.number.in_([one.number for one in first]))) if first else []

    def runs(self) -> set[str]:
        """Every MLflow run that a decision names."""
        query = sa.select(DECISIONS.c.run_id).where(DECISIONS.c.run_id != "").distinct()
        return set(patience.read(self.engine, lambda connection: connection.scalars(query).all()))

    def uses(self, holdout: str, run_id: str) -> int:
        """How many other runs have had a verdict on this very holdout."""
        ours = DECISIONS.c.wore, DECISIONS.c.holdout == holdout, DECISIONS.c.run_id != run_id
        query = sa.select(sa.func.count(sa.distinct(DECISIONS.c.run_id))).where(*ours)
        return int(patience.read(self.engine, lambda connection: connection.scalar(query)) or 0)

    def wear(self, lesions: Collection[str], holdout: str = "", run_id: str = "") -> float:
        """How many verdicts the lesions of a holdout have taken part in, on average; one of this very run on it does not count."""
        chosen = sorted(set(lesions))

        def read(connection: sa.Connection) -> float:
            total = 0
            for start in range(0, len(chosen), SOME):
                some = SIDES.c.lesion_id.in_(chosen[start : start + SOME])
                total += int(connection.scalar(sa.select(sa.func.sum(SIDES.c.worn)).where(some)) or 0)
            own = DECISIONS.c.wore, DECISIONS.c.holdout == holdout, DECISIONS.c.run_id == run_id
            counted = connection.execute(sa.select(DECISIONS.c.number).where(*own)).first()
            return total / max(len(chosen), 1) - (1 if counted else 0)

        return max(patience.read(self.engine, read), 0.0)

    def _found(self, *where: sa.ColumnElement[bool], limit: int | None = None) -> list[Decision]:
        query = sa.select(DECISIONS).where(*where).order_by(DECISIONS.c.number.desc()).limit(limit)
        rows = patience.read(self.engine, lambda connection: connection.execute(query).all())
        return [_decision(row) for row in reversed(rows)]


def _latest_about(connection: sa.Connection, decision: Decision) -> Decision | None:
    """The latest decision of the same kind on the same subject."""
    same = [DECISIONS.c[name] == getattr(decision, name) for name in ("kind", *SUBJECTS)]
    row = connection.execute(sa.select(DECISIONS).where(*same).order_by(DECISIONS.c.number.desc()).limit(1)).first()
    return _decision(row) if row else None


def _numbered(connection: sa.Connection, number: int) -> Decision | None:
    row = connection.execute(sa.select(DECISIONS).where(DECISIONS.c.number == number)).first()
    return _decision(row) if row else None


def _inserted(connection: sa.Connection, decision: Decision) -> Decision:
    number = 1 + int(connection.scalar(sa.select(sa.func.max(DECISIONS.c.number))) or 0)
    numbered = replace(decision, number=number, at=datetime.now(UTC).isoformat(timespec="seconds"))
    connection.execute(sa.insert(DECISIONS).values({**asdict(numbered), "reasons": list(numbered.reasons)}))
    return numbered


def _wore_before(connection: sa.Connection, decision: Decision) -> bool:
    ours = DECISIONS.c.wore, DECISIONS.c.holdout == decision.holdout, DECISIONS.c.run_id == decision.run_id
    return connection.execute(sa.select(DECISIONS.c.number).where(*ours)).first() is not None


def _wear(connection: sa.Connection, lesions: Collection[str]) -> None:
    chosen = sorted(set(lesions))
    for start in range(0, len(chosen), SOME):
        some = SIDES.c.lesion_id.in_(chosen[start : start + SOME])
        connection.execute(sa.update(SIDES).where(some).values(worn=SIDES.c.worn + 1))


def _decision(row: sa.Row[Any]) -> Decision:
    return Decision(**{**row._mapping, "reasons": tuple(row.reasons)})
