"""Groups: what belongs together lies on one side, for ever; a torn group blocks the snapshot until a person decides."""

import io
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import samples
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import binom

from dermanet import settings, stages
from dermanet.database.schema import ALIKE, FORGOTTEN, METADATA, SIDES
from dermanet.errors import BadInput
from dermanet.imagefile import Header
from dermanet.intake import placing, sheets
from dermanet.intake.admission import Arrival
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.forgetting import forget_patient
from dermanet.intake.groups import Move, Tie, grouped
from dermanet.records import Record
from dermanet.split import BOUNDS, side
from dermanet.storage import Folder

some_images = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from(["", "", "P1", "P2", "P3"])), min_size=1, max_size=14
)
some_pairs = st.lists(st.tuples(st.integers(0, 13), st.integers(0, 13)), max_size=5)


def records_of(images: list[tuple[int, str]]) -> list[Record]:
    return [samples.record(n, lesion_id=f"L{lesion}", patient_id=patient) for n, (lesion, patient) in enumerate(images)]


def ties_of(records: list[Record], pairs: list[tuple[int, int]]) -> list[Tie]:
    chosen = {tuple(sorted((records[a % len(records)].digest, records[b % len(records)].digest))) for a, b in pairs}
    return [Tie(one, other, 0.9) for one, other in sorted(chosen) if one != other]


def placed(records: list[Record], ties: list[Tie], kept: dict[str, str]) -> dict[str, str]:
    """The sides after a freezing that no torn group blocks: those of torn groups stay as they are."""
    found = [group for group in grouped(records, ties, kept) if not group.torn]
    return kept | {lesion: group.decided()[0] for group in found for lesion in group.lesions}


@given(some_images, some_pairs, st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order(
    images: list[tuple[int, str]], pairs: list[tuple[int, int]], chance: random.Random
) -> None:
    records = records_of(images)
    ties = ties_of(records, pairs)
    shuffled = grouped(chance.sample(records, len(records)), chance.sample(ties, len(ties)), {})
    assert shuffled == grouped(records, ties, {})
    lesions = [lesion for group in shuffled for lesion in group.lesions]
    assert sorted(lesions) == sorted({record.labels.lesion_id for record in records})


@given(some_images, some_pairs)
def test_all_lesions_of_a_group_get_one_side(images: list[tuple[int, str]], pairs: list[tuple[int, int]]) -> None:
    records = records_of(images)
    ties = ties_of(records, pairs)
    sides, lesion_of = placed(records, ties, {}), {record.digest: record.labels.lesion_id for record in records}
    assert all(sides[lesion_of[tie.one]] == sides[lesion_of[tie.other]] for tie in ties)
    for one in records:
        for other in records:
            if one.labels.patient_id and one.labels.patient_id == other.labels.patient_id:
                assert sides[one.labels.lesion_id] == sides[other.labels.lesion_id]


@given(some_images, some_pairs, st.integers(1, 14))
def test_more_records_never_move_a_lesion(
    images: list[tuple[int, str]], pairs: list[tuple[int, int]], first: int
) -> None:
    records = records_of(images)
    ties = ties_of(records, pairs)
    before = placed(records[:first], ties, {})
    after = placed(records, ties, before)
    assert before.items() <= after.items()


@given(some_images, some_pairs)
def test_a_group_is_what_hangs_together_and_no_more(
    images: list[tuple[int, str]], pairs: list[tuple[int, int]]
) -> None:
    records = records_of(images)
    ties = ties_of(records, pairs)
    place = {record.digest: n for n, record in enumerate(records)}
    edges = [(place[tie.one], place[tie.other]) for tie in ties]
    for attribute in ("lesion_id", "patient_id"):
        first: dict[str, int] = {}
        for n, record in enumerate(records):
            name = getattr(record.labels, attribute)
            edges += [(first.setdefault(name, n), n)] if name else []
    ones, others = zip(*edges, strict=True)
    together = connected_components(coo_array(([1] * len(edges), (ones, others)), shape=(len(records),) * 2))[1]
    expected: dict[int, set[str]] = {}
    for record, number in zip(records, together.tolist(), strict=True):
        expected.setdefault(number, set()).add(record.labels.lesion_id)
    assert sorted(sorted(lesions) for lesions in expected.values()) == sorted(
        list(group.lesions) for group in grouped(records, ties, {})
    )


@given(some_images, some_pairs, st.integers(1, 20))
def test_lesions_that_have_nothing_to_do_with_others_are_placed_as_without_them(
    images: list[tuple[int, str]], pairs: list[tuple[int, int]], count: int
) -> None:
    records = records_of(images)
    ties = ties_of(records, pairs)
    strangers = [
        samples.record(100 + n, lesion_id=f"S{n // 2}", patient_id="" if n % 3 else f"Q{n}") for n in range(count)
    ]
    apart = {**placed(records, ties, {}), **placed(strangers, [], {})}
    assert placed([*strangers, *records], ties, {}) == apart
    assert grouped([*records, *strangers], ties, {}) == sorted(
        [*grouped(records, ties, {}), *grouped(strangers, [], {})], key=lambda group: group.lesions
    )


@given(some_images, some_pairs)
def test_placing_again_changes_nothing(images: list[tuple[int, str]], pairs: list[tuple[int, int]]) -> None:
    records = records_of(images)
    ties = ties_of(records, pairs)
    sides = placed(records, ties, {})
    assert placed(records, ties, sides) == sides and not any(group.torn for group in grouped(records, ties, sides))


def test_patients_with_several_lesions_leave_the_sides_their_shares() -> None:
    records = [samples.record(n, patient_id=f"P{n // 3}") for n in range(6000)]
    sides = list(placed(records, [], {}).values())
    for name, low, high in zip(("train", "validation", "holdout"), (0.0, *BOUNDS), BOUNDS, strict=False):
        # Three lesions fall together: the luck is that of 2,000 patients.
        fewest, most = 3 * binom.ppf([1e-6, 1 - 1e-6], 2000, high - low)
        assert fewest <= sides.count(name) <= most


def test_a_lesion_alone_has_its_own_side_and_a_patient_has_one() -> None:
    records = [samples.record(1), samples.record(2, patient_id="P9"), samples.record(3, patient_id="P9")]
    sides = placed(records, [], {})
    assert sides == {"L1": side("L1"), "L2": side("P9"), "L3": side("P9")}


TRAIN, HELD_OUT = "L1", next(f"L{n}" for n in range(2, 99) if side(f"L{n}") == "holdout")
"""Two lesions whose own sides are train and holdout."""


def take(catalogue: Catalogue, *records: Record) -> None:
    words = catalogue.take("clinic", [Arrival(record, Header("jpeg", 64, 48)) for record in records])
    assert set(words) <= {"accepted", "corrected"}


def tie(catalogue: Catalogue, one: Record, other: Record) -> None:
    pair = dict(zip(("one", "other"), sorted((one.digest, other.digest)), strict=True))
    with catalogue.engine.begin() as connection:
        connection.execute(sa.insert(ALIKE).values(**pair, likeness=0.9))


@pytest.fixture
def catalogue(new_database: Callable[[], str]) -> Catalogue:
    return Catalogue(new_database())


FIRST, SECOND, THIRD = (
    samples.record(1, lesion_id=TRAIN),
    samples.record(2, lesion_id=HELD_OUT),
    samples.record(3, lesion_id="A3"),
)


def test_a_new_lesion_is_pulled_to_the_side_of_its_group(catalogue: Catalogue) -> None:
    take(catalogue, SECOND)
    assert placing.place(catalogue).sides == {HELD_OUT: "holdout"}
    take(catalogue, FIRST)
    tie(catalogue, FIRST, SECOND)
    for _ in range(2):
        found = placing.place(catalogue)
        assert found.sides == {HELD_OUT: "holdout", TRAIN: "holdout"} and not found.torn


@pytest.mark.parametrize("seed", [1, 2])
def test_in_whatever_order_images_come_into_the_catalogue_the_sides_are_the_same(
    new_database: Callable[[], str], seed: int
) -> None:
    records = [
        samples.record(n, lesion_id=f"L{n // 2}", diagnosis="nv", patient_id=f"P{n // 2 % 7}" if n % 4 < 2 else "")
        for n in range(40)
    ]
    placements = []
    for order in (records, random.Random(seed).sample(records, len(records))):
        catalogue = Catalogue(new_database())
        for start in range(0, 40, 7):
            take(catalogue, *order[start : start + 7])
        tie(catalogue, records[3], records[30])
        placements.append(placing.place(catalogue).sides)
        assert placing.place(catalogue).sides == placements[-1]
    assert placements[0] == placements[1] and len(placements[0]) == 20


def test_a_torn_group_gives_nobody_a_side_until_a_person_decides(catalogue: Catalogue) -> None:
    take(catalogue, FIRST, SECOND)
    placing.place(catalogue)
    take(catalogue, THIRD)
    tie(catalogue, FIRST, SECOND)
    found = placing.place(catalogue)
    assert [group.lesions for group in found.torn] == [tuple(sorted((TRAIN, HELD_OUT)))]
    assert "A3" not in placing.survey(catalogue).sides
    for _ in range(2):
        placing.part(catalogue, (SECOND.image_id, FIRST.digest))
    found = placing.place(catalogue)
    assert found.sides == {TRAIN: "train", HELD_OUT: "holdout", "A3": side("A3")} and found.several == []


@pytest.mark.parametrize("another", ["B0", HELD_OUT], ids=["a new lesion", "a lesion of the holdout"])
def test_an_image_whose_lesion_is_corrected_stays_on_the_side_where_it_was(catalogue: Catalogue, another: str) -> None:
    take(catalogue, FIRST, SECOND)
    placing.place(catalogue)
    take(catalogue, replace(FIRST, labels=replace(SECOND.labels, lesion_id=another)))
    found = placing.place(catalogue)
    if another == "B0":
        assert found.sides == {TRAIN: "train", HELD_OUT: "holdout", "B0": "train"} and found.several == []
        # And the old lesion, should it come back, is tied to what has become of it.
        take(catalogue, samples.record(7, lesion_id=TRAIN))
        (group,) = placing.place(catalogue).several
        assert group.lesions == ("B0", TRAIN) and [move.before for move in group.moves] == [TRAIN]
    else:
        (torn,) = found.torn
        assert torn.lesions == (HELD_OUT,) and torn.sides == {TRAIN: "train", HELD_OUT: "holdout"}
        text = str(Image.open(io.BytesIO(sheets.draw(torn, found.records, lambda digest: samples.jpeg(1)))).info)
        assert f"was of {TRAIN}, train" in text
        placing.settle(catalogue, HELD_OUT)
        assert placing.place(catalogue).sides == {TRAIN: "train", HELD_OUT: "train"}


@given(some_images, st.integers(1, 14), st.lists(st.tuples(st.integers(0, 13), st.integers(0, 9)), max_size=5))
def test_no_correction_of_a_lesion_moves_an_image(
    images: list[tuple[int, str]], first: int, corrections: list[tuple[int, int]]
) -> None:
    records = records_of(images)
    before = placed(records[:first], [], {})
    lies = {record.digest: before[record.labels.lesion_id] for record in records[:first]}
    moves = [Move(record.digest, record.labels.lesion_id) for record in records]
    for place, lesion in corrections:
        record = records[place % len(records)]
        records[place % len(records)] = replace(record, labels=replace(record.labels, lesion_id=f"L{lesion}"))
    groups = grouped(records, [], before, moves)
    for group in groups:
        ours = {record.digest for record in records if record.labels.lesion_id in group.lesions}
        sides = {lies[digest] for digest in ours & lies.keys()}
        assert group.torn or (not sides or sides == {group.decided()[0]})


def test_a_settled_group_lies_in_train_for_ever(catalogue: Catalogue) -> None:
    take(catalogue, FIRST, SECOND)
    placing.place(catalogue)
    tie(catalogue, FIRST, SECOND)
    for _ in range(2):
        placing.settle(catalogue, HELD_OUT)
        assert placing.place(catalogue).sides == {TRAIN: "train", HELD_OUT: "train"}
    with pytest.raises(BadInput, match="no lesion 'nobody'"):
        placing.settle(catalogue, "nobody")
    with pytest.raises(BadInput, match="0 images are called"):
        placing.part(catalogue, ("nobody", FIRST.image_id))
    take(catalogue, THIRD)
    with pytest.raises(BadInput, match="no near-duplicates"):
        placing.part(catalogue, (THIRD.image_id, FIRST.image_id))


def test_a_forgotten_patient_leaves_digests_alone_and_stays_out(catalogue: Catalogue, tmp_path: Path) -> None:
    ours = [samples.record(n, lesion_id=f"PATIENTS{n}", patient_id="P-SECRET") for n in (5, 6)]
    take(catalogue, *ours, FIRST)
    placing.place(catalogue)
    take(catalogue, samples.record(6, lesion_id="PATIENTS6", patient_id="", age=51.0))
    tie(catalogue, ours[0], FIRST)
    objects = Folder(tmp_path)
    for record in ours:
        objects.write(f"{record.digest[:2]}/{record.digest}", b"x")
    for lesions in (["PATIENTS5", "PATIENTS6"], []):
        assert forget_patient("P-SECRET", catalogue, objects) == (lesions, sorted(record.digest for record in ours))
    assert objects.listing() == {} and [record.image_id for record in catalogue.records()] == [FIRST.image_id]
    with catalogue.engine.connect() as connection:
        rows = [str(row) for table in METADATA.sorted_tables for row in connection.execute(sa.select(table))]
        assert len(connection.execute(sa.select(FORGOTTEN)).all()) >= 5
        assert connection.scalars(sa.select(SIDES.c.lesion_id)).all() == [TRAIN]
    assert not any("SECRET" in row or "PATIENTS" in row for row in rows)
    words = catalogue.take("clinic", [Arrival(samples.record(8, patient_id="P-SECRET"), Header("jpeg", 64, 48))])
    assert [getattr(word, "reason", word) for word in words] == ["forgotten"]
    with pytest.raises(BadInput, match="nothing is known of a patient"):
        forget_patient("P-OTHER", catalogue, objects)


def test_a_contact_sheet_is_an_image_that_names_its_lesions() -> None:
    records = [FIRST, SECOND, THIRD]
    ties = [Tie(*sorted((FIRST.digest, SECOND.digest)), 0.87)]
    group = grouped(records, ties, {TRAIN: "train"})[-1 if TRAIN > "A3" else 0]
    files = {FIRST.digest: samples.jpeg(1), SECOND.digest: samples.jpeg(2)}
    drawn = Image.open(io.BytesIO(sheets.draw(group, records, lambda digest: files[digest])))
    drawn.load()
    text = str(drawn.info["Description"])
    assert drawn.size == (2 * sheets.TILE, sheets.TILE + sheets.LINES)
    assert f"lesion {TRAIN}, train" in text and f"lesion {HELD_OUT}, no side yet" in text
    assert text.count("likeness 0.87") == 2 and "A3" not in text
    assert drawn.crop((0, sheets.TILE, sheets.TILE, drawn.height)).getextrema() != ((255, 255),) * 3


def test_a_torn_group_blocks_the_snapshot_with_a_sheet_and_one_line(home: Path) -> None:
    here = settings.read()
    catalogue = Catalogue(here.catalogue)
    take(catalogue, FIRST, SECOND)
    assert stages.snapshot()["groups"] == 0
    tie(catalogue, FIRST, SECOND)
    with pytest.raises(BadInput) as caught:
        stages.snapshot()
    assert caught.value.exit_status == 2 and type(caught.value) is BadInput, "which the DAG does not try again"
    line, sheet = str(caught.value), home / "sheets" / f"{min(TRAIN, HELD_OUT)}.png"
    assert "\n" not in line and f"{TRAIN} (train)" in line and str(sheet) in line
    assert Image.open(sheet).size[0] == 2 * sheets.TILE
    assert stages.groups()["torn"] == 1 and json.dumps(stages.groups())
    assert stages.group_sheet(TRAIN)["sheet"] == str(sheet)
    assert stages.settle_group(TRAIN)["side"] == "train"
    done = stages.snapshot()
    assert (done["groups"], done["train"], done["images"]) == (1, 2, 2)
    manifest = json.loads((home / "snapshots" / done["snapshot"] / "manifest.json").read_text())
    assert manifest["groups"] == 1 and sum(manifest["lesions_by_side"]["train"]["diagnosis"].values()) == 2
    assert any(line.endswith("has no lesion in holdout") for line in done["warnings"])
