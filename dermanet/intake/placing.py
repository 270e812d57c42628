"""Placing: every lesion gets its side for ever, group by group; and what a person decides: torn groups, a new holdout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dermanet.database.engine import writing
from dermanet.database.schema import ALIKE, LABELS, PARTED, SIDES
from dermanet.errors import BadInput
from dermanet.intake.catalogue import Catalogue, records_in
from dermanet.intake.groups import Group, Move, Tie, grouped
from dermanet.records import Record


@dataclass(frozen=True, slots=True)
class Placement:
    """The catalogue's records, its groups, and the side of every lesion; while a group is torn, only of those that had one."""

    records: Sequence[Record]
    groups: Sequence[Group]
    sides: dict[str, str]

    @property
    def torn(self) -> list[Group]:
        """The groups whose lesions lie on different sides."""
        return [group for group in self.groups if group.torn]

    @property
    def several(self) -> list[Group]:
        """The groups of more than one lesion, and every torn one, these first."""
        found = (group for group in self.groups if len(group.lesions) > 1 or group.torn)
        return sorted(found, key=lambda group: not group.torn)


def place(catalogue: Catalogue) -> Placement:
    """Gives every lesion that has no side yet the one of its group, for ever. While a group is torn, nobody gets one."""
    with writing(catalogue.engine) as connection:
        found = _placement(connection)
        if found.torn:
            return found
        new = [
            {"lesion_id": lesion, "side": side, "because": because}
            for group in found.groups
            for side, because in (group.decided(),)
            for lesion in group.lesions
            if lesion not in group.sides
        ]
        if new:
            connection.execute(sa.insert(SIDES), new)
        sides = {str(row["lesion_id"]): str(row["side"]) for row in new}
        return Placement(found.records, found.groups, found.sides | sides)


def survey(catalogue: Catalogue) -> Placement:
    """The groups as they stand; nothing is decided."""
    with catalogue.engine.connect() as connection:
        return _placement(connection)


def part(catalogue: Catalogue, images: Sequence[str]) -> tuple[Record, Record]:
    """Keeps in mind that two images only look alike: they tie their lesions no longer. May be repeated.

    `images`: two image ids or digests. Raises BadInput where one names no image or several, or where they are not alike.
    """
    with writing(catalogue.engine) as connection:
        records = records_in(connection)
        one, other = sorted((_named(records, image) for image in images), key=lambda record: record.digest)
        pair = {"one": one.digest, "other": other.digest}
        near = sa.and_(ALIKE.c.one == one.digest, ALIKE.c.other == other.digest)
        if not connection.execute(sa.select(ALIKE).where(near)).first():
            raise BadInput(
                f"{one.image_id} and {other.image_id} are no near-duplicates, so that nothing is to be parted; "
                "`dermanet groups` lists those that are"
            )
        parted = sa.and_(PARTED.c.one == one.digest, PARTED.c.other == other.digest)
        if not connection.execute(sa.select(PARTED).where(parted)).first():
            connection.execute(sa.insert(PARTED).values(pair))
    return one, other


def settle(catalogue: Catalogue, lesion_id: str) -> Group:
    """Puts the whole group of a lesion into train, for ever, and returns it as it was. May be repeated. Raises BadInput."""
    with writing(catalogue.engine) as connection:
        group = group_of(_placement(connection), lesion_id)
        lesions = sorted({*group.lesions, *group.sides})
        connection.execute(sa.delete(SIDES).where(SIDES.c.lesion_id.in_(lesions)))
        rows = [{"lesion_id": lesion, "side": "train", "because": "settled by a person"} for lesion in lesions]
        connection.execute(sa.insert(SIDES), rows)
    return group


@dataclass(frozen=True, slots=True)
class Renewal:
    """A new holdout: the lesions that nobody has seen, in it; and those of the old one, which are trained on from now on."""

    fresh: tuple[str, ...]
    retired: tuple[str, ...]


def renewal(catalogue: Catalogue) -> Renewal:
    """What `renew` would do: of every group no lesion of which has a side, all lesions are fresh."""
    with catalogue.engine.connect() as connection:
        return _renewal(_placement(connection))


def renew(
    catalogue: Catalogue, least: int, who: str, keep: Callable[[sa.Connection, Renewal], object] = lambda *done: None
) -> Renewal:
    """Makes a holdout of the fresh lesions, for ever, and training lesions of those of the old one.

    Safe both ways: of the fresh ones no model has learned, and of the old ones none is judged by any more. `keep` notes what was done
    in the same transaction. Raises BadInput where fewer
    than `least` are fresh, since what judges must be many, and while a group is torn.
    """
    with writing(catalogue.engine) as connection:
        placement = _placement(connection)
        if placement.torn:
            lesions = ", ".join(placement.torn[0].lesions[:3])
            raise BadInput(
                f"{len(placement.torn)} groups lie on different sides ({lesions}, …); decide about them first: dermanet groups"
            )
        found = _renewal(placement)
        if len(found.fresh) < least:
            raise BadInput(
                f"{len(found.fresh)} lesions are fresh, in no snapshot yet and tied to none that is; a new holdout needs {least}: "
                "take more in, and freeze no snapshot before"
            )
        connection.execute(
            sa.update(SIDES)
            .where(SIDES.c.side == "holdout")
            .values(side="train", because=f"retired from the holdout by {who}")
        )
        rows = [{"lesion_id": lesion, "side": "holdout", "because": f"renewed by {who}"} for lesion in found.fresh]
        connection.execute(sa.insert(SIDES), rows)
        keep(connection, found)
    return found


def group_of(placement: Placement, lesion_id: str) -> Group:
    """The group that a lesion is in. Raises BadInput where the catalogue has no such lesion."""
    for group in placement.groups:
        if lesion_id in group.lesions:
            return group
    raise BadInput(f"the catalogue has no lesion {lesion_id!r}; `dermanet groups` lists those that are tied to others")


def _placement(connection: sa.Connection) -> Placement:
    records = records_in(connection)
    sides = {row.lesion_id: row.side for row in connection.execute(sa.select(SIDES))}
    parted = {(row.one, row.other) for row in connection.execute(sa.select(PARTED))}
    alike = [Tie(row.one, row.other, row.likeness) for row in connection.execute(sa.select(ALIKE))]
    ties = [tie for tie in alike if (tie.one, tie.other) not in parted]
    corrected = sa.select(LABELS.c.digest).where(LABELS.c.revision > 1)
    stated = sa.select(LABELS.c.digest, LABELS.c.lesion_id).where(LABELS.c.digest.in_(corrected)).distinct()
    moves = [Move(row.digest, row.lesion_id) for row in connection.execute(stated)]
    return Placement(records, grouped(records, ties, sides, moves), sides)


def _renewal(placement: Placement) -> Renewal:
    fresh = [lesion for group in placement.groups if not group.sides for lesion in group.lesions]
    return Renewal(tuple(fresh), tuple(sorted(lesion for lesion, side in placement.sides.items() if side == "holdout")))


def _named(records: Sequence[Record], image: str) -> Record:
    found = [record for record in records if image in (record.image_id, record.digest)]
    if len(found) != 1:
        raise BadInput(
            f"{len(found)} images are called {image!r}; give the image_id or, where several have it, the digest"
        )
    return found[0]
