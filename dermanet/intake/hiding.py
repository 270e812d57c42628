"""Ids that were forgotten, taken out of what is written of snapshots and decisions, and put in no more."""

import json
import re
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from dermanet.database.schema import DECISIONS, LABELS, SNAPSHOTS

HIDDEN = "an id that was forgotten"
NAMES = LABELS.c.image_id, LABELS.c.lesion_id, LABELS.c.patient_id


def names_of(connection: sa.Connection, images: Collection[str]) -> set[str]:
    """The ids by which any revision of some images' labels calls them, their lesions and their patients."""
    rows = connection.execute(sa.select(*NAMES).where(LABELS.c.digest.in_(images)))
    return {name for row in rows for name in row if name}


def known(connection: sa.Connection, names: Collection[str]) -> set[str]:
    """Those of some ids that labels still say."""
    return {
        name for column in NAMES for name in connection.scalars(sa.select(column).where(column.in_(names)).distinct())
    }


def forget_in_texts(connection: sa.Connection, names: Collection[str]) -> None:
    """Takes ids out of the verdicts on snapshots' data and out of the ledger's reasons."""
    if not names:
        return
    for row in connection.execute(sa.select(SNAPSHOTS)).all():
        kept = json.loads(row.statistics) if row.statistics else None
        # The rest of the statistics is counts, whose words may happen to be somebody's id.
        parts = {part: kept[part] for part in ("checks", "breaches") if part in kept} if kept else {}
        told, because = hide(parts, names), hide(row.because, names)
        if (told, because) != (parts, row.because):
            statistics = json.dumps({**kept, **told}) if kept else None
            ours = sa.update(SNAPSHOTS).where(SNAPSHOTS.c.id == row.id)
            connection.execute(ours.values(statistics=statistics, because=because))
    for row in connection.execute(sa.select(DECISIONS.c.number, DECISIONS.c.reasons)).all():
        reasons = hide(row.reasons, names)
        if reasons != row.reasons:
            ours = sa.update(DECISIONS).where(DECISIONS.c.number == row.number)
            connection.execute(ours.values(reasons=reasons))


def hide(told: Any, names: Collection[str]) -> Any:
    """The same JSON with HIDDEN for ids in its texts: whole ids, so that HAM_1 leaves HAM_12 and HAM_1-2 alone."""
    found = _pattern(names)

    def hidden(one: Any) -> Any:
        if isinstance(one, dict):
            return {key: hidden(value) for key, value in one.items()}
        if isinstance(one, list):
            return [HIDDEN if isinstance(value, str) and value in names else hidden(value) for value in one]
        return found.sub(HIDDEN, one) if isinstance(one, str) else one

    return hidden(told)


def _pattern(names: Collection[str]) -> re.Pattern[str]:
    # Where an id may be a number of the sentence, or has spaces, only its place in a list of cases tells it.
    plain = [name for name in names if re.fullmatch(r"\S*[^\W\d]\S*", name)]
    ways = [
        (plain, r"(?<![^\s(\"'])", r"(?=[,;:.)!?\"']*(?:\s|$))"),
        (set(names) - set(plain), r"(?:^|(?<=none allowed: )|(?<=, ))", r"(?=, | and \d+ more|; |\)|$)"),
    ]
    return re.compile(
        "|".join(
            f"{before}(?:{'|'.join(map(re.escape, sorted(some, key=len, reverse=True)))}){after}"
            for some, before, after in ways
            if some
        )
        or "(?!)"
    )
