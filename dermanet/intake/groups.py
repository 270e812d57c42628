"""Groups: lesions that must lie on one side of the split, because they are one patient's or because images of them look alike.

A group's side is decided once. New lesions are pulled to the side of a group that has one; an old lesion never moves, and neither
does an image whose lesion is corrected. So a group whose old lesions lie on different sides cannot be mended by a rule: it is torn,
and a person decides. `docs/decisions/0006` has the reasons.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from dermanet.records import Record
from dermanet.split import side


@dataclass(frozen=True, slots=True)
class Tie:
    """Two near-duplicate images, by digest (the smaller first), and how much they are alike, up to 1."""

    one: str
    other: str
    likeness: float


@dataclass(frozen=True, slots=True)
class Move:
    """An image, by digest, that was of another lesion before its labels were corrected."""

    digest: str
    before: str


@dataclass(frozen=True, slots=True)
class Group:
    """Lesions that belong together, in the order of their ids, with what ties them.

    `patients`: their ids, sorted. `ties`: pairs of images of two of its lesions. `sides`: of those of its lesions that have one, and
    of lesions that images of it were of before, which `moves` names.
    """

    lesions: tuple[str, ...]
    patients: tuple[str, ...]
    ties: tuple[Tie, ...]
    sides: Mapping[str, str]
    moves: tuple[Move, ...] = ()

    @property
    def torn(self) -> bool:
        """Whether its lesions lie on different sides."""
        return len(set(self.sides.values())) > 1

    def decided(self) -> tuple[str, str]:
        """The side of an untorn group for ever, and what decides it: a lesion that has one, else the hash of an id."""
        if self.sides:
            lesion = min(self.sides)
            return self.sides[lesion], f"with lesion {lesion}"
        if self.patients:
            return side(self.patients[0]), f"patient {self.patients[0]}"
        return side(self.lesions[0]), f"lesion {self.lesions[0]}"


def grouped(
    records: Sequence[Record], ties: Iterable[Tie], sides: Mapping[str, str], moves: Iterable[Move] = ()
) -> list[Group]:
    """Every lesion of `records` in its group, those of one lesion too, in the order of their first lesions.

    `ties` and `moves` of other images count for nothing. `sides`: lesion to side, of the lesions that have one. An image that was of
    another lesion which has a side lies there for ever: whatever it is called now, it was trained on or judged by.
    """
    lesion_of = {record.digest: record.labels.lesion_id for record in records}
    patients = {(record.labels.patient_id, record.labels.lesion_id) for record in records if record.labels.patient_id}
    across = [tie for tie in ties if lesion_of.get(tie.one, "") != lesion_of.get(tie.other, "")]
    across = [tie for tie in across if {tie.one, tie.other} <= lesion_of.keys()]
    moved = [move for move in moves if move.before in sides and lesion_of.get(move.digest, move.before) != move.before]
    roots = _components(
        [("lesion", lesion) for lesion in lesion_of.values()],
        [*((("patient", patient), ("lesion", lesion)) for patient, lesion in patients),
         *((("lesion", lesion_of[tie.one]), ("lesion", lesion_of[tie.other])) for tie in across),
         *((("lesion", move.before), ("lesion", lesion_of[move.digest])) for move in moved)],
    )  # fmt: skip
    parts: dict[Node, set[Node]] = defaultdict(set)
    for node, root in roots.items():
        parts[root].add(node)
    tied: dict[Node, list[Tie]] = defaultdict(list)
    for tie in across:
        tied[roots["lesion", lesion_of[tie.one]]].append(tie)
    gone: dict[Node, list[Move]] = defaultdict(list)
    for move in moved:
        gone[roots["lesion", move.before]].append(move)
    there = set(lesion_of.values())
    found = [_group(part, there, tied[root], gone[root], sides) for root, part in parts.items()]
    return sorted(found, key=lambda group: group.lesions)


Node = tuple[str, str]
"""A lesion or a patient: which of the two, and its id."""


def _group(
    part: set[Node], there: Set[str], ties: Sequence[Tie], moves: Sequence[Move], sides: Mapping[str, str]
) -> Group:
    named, patients = (tuple(sorted(name for what, name in part if what == kind)) for kind in ("lesion", "patient"))
    order = sorted(ties, key=lambda tie: (-tie.likeness, tie.one, tie.other))
    moved = sorted(moves, key=lambda move: (move.digest, move.before))
    kept = {lesion: sides[lesion] for lesion in named if lesion in sides}
    return Group(tuple(lesion for lesion in named if lesion in there), patients, tuple(order), kept, tuple(moved))


def _components(nodes: Iterable[Node], edges: Iterable[tuple[Node, Node]]) -> dict[Node, Node]:
    """Every node with one node that stands for all that hang together with it."""
    above = {node: node for node in nodes}

    def root(node: Node) -> Node:
        above.setdefault(node, node)
        while above[node] != node:
            above[node] = above[above[node]]
            node = above[node]
        return node

    for one, other in edges:
        above[root(one)] = root(other)
    return {node: root(node) for node in list(above)}
