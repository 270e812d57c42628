"""The split: by lesion, for ever, in the stated shares; and the holdout's identity."""

import csv
import dataclasses
import random
from collections import Counter
from itertools import product
from pathlib import Path

import samples
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from dermanet.records import SIDES
from dermanet.split import BOUNDS, holdout_digest, side, side_of

SHARES = dict(zip(SIDES, (BOUNDS[0], BOUNDS[1] - BOUNDS[0], BOUNDS[2] - BOUNDS[1]), strict=True))
RECORDS = [samples.record(number, age=None if number % 9 == 0 else 30.0 + number % 50) for number in range(200)]
HELD_OUT = [record for record in RECORDS if side(record.labels.lesion_id) == "holdout"]


def test_a_lesion_stays_where_it_always_was() -> None:
    # Written down once: a change here moves every lesion, and makes every comparison with an earlier model worthless.
    known = {
        "HAM_0000001": "holdout", "HAM_0000003": "validation", "HAM_0000010": "train", "HAM_0000012": "holdout",
        "SYN_L0000001": "train", "L1": "train", "ä": "train",
    }  # fmt: skip
    assert {lesion: side(lesion) for lesion in known} == known


@given(st.text())
def test_every_lesion_has_one_side(lesion: str) -> None:
    assert side(lesion) in SIDES and side(lesion) == side(str(lesion))


def test_the_sides_have_the_stated_shares() -> None:
    found = Counter(side(f"HAM_{number:07d}") for number in range(20_000))
    for name, share in SHARES.items():
        assert abs(found[name] / 20_000 - share) < 0.01, name


def test_neighbouring_names_fall_on_independent_sides() -> None:
    pairs = Counter((side(f"L{number}"), side(f"L{number + 1}")) for number in range(20_000))
    assert abs(pairs["holdout", "holdout"] / 20_000 - 0.2**2) < 0.006


@given(st.text(max_size=8), st.text(max_size=3), st.integers(0, 12), st.integers(1, 1000))
def test_however_lesions_are_named_the_sides_have_their_shares_but_for_luck(
    before: str, after: str, width: int, step: int
) -> None:
    count = 2000
    found = Counter(side(f"{before}{number * step:0{width}}{after}") for number in range(count))
    for name, share in SHARES.items():
        low, high = binom.ppf([1e-6, 1 - 1e-6], count, share)
        assert low <= found[name] <= high, name


def test_of_every_diagnosis_and_sex_the_sides_have_their_shares_but_for_luck(real_data: Path) -> None:
    with (real_data / "ham10000/HAM10000_metadata.csv").open() as file:
        lesions = {row["lesion_id"]: row for row in csv.DictReader(file)}
    for column in ("dx", "sex"):
        totals = Counter(row[column] for row in lesions.values())
        found = Counter((row[column], side(lesion)) for lesion, row in lesions.items())
        for (word, count), (name, share) in product(totals.items(), SHARES.items()):
            low, high = binom.ppf([1e-4, 1 - 1e-4], count, share)
            assert low <= found[word, name] <= high, (word, name)


@given(st.text(min_size=1), st.dictionaries(st.text(min_size=1), st.sampled_from(SIDES)), st.sampled_from(SIDES))
def test_a_side_that_is_kept_stays_and_nothing_else_that_is_kept_matters(
    lesion: str, others: dict[str, str], kept: str
) -> None:
    rest = {name: one for name, one in others.items() if name != lesion}
    assert side_of(lesion, {**rest, lesion: kept}) == kept and side_of(lesion, rest) == side(lesion)


@given(st.sets(st.integers(0, 199)), st.randoms(use_true_random=False))
def test_the_identity_of_the_holdout_stays_while_the_other_sides_come_and_go(
    gone: set[int], chance: random.Random
) -> None:
    left = [record for n, record in enumerate(RECORDS) if n not in gone or record in HELD_OUT]
    assert holdout_digest(chance.sample(left, len(left)), {}) == holdout_digest(RECORDS, {})
    moved = {record.labels.lesion_id: "train" for record in HELD_OUT[:3]}
    assert holdout_digest(RECORDS, moved) == holdout_digest(HELD_OUT[3:], {})


@given(st.randoms(use_true_random=False))
def test_the_identity_of_the_holdout_does_not_depend_on_the_order(chance: random.Random) -> None:
    assert holdout_digest(chance.sample(RECORDS, len(RECORDS)), {}) == holdout_digest(RECORDS, {})


def test_the_identity_of_the_holdout_ignores_the_other_sides() -> None:
    assert 20 < len(HELD_OUT) < 60
    assert holdout_digest(HELD_OUT, {}) == holdout_digest(RECORDS, {})


def test_the_identity_of_the_holdout_changes_with_each_of_its_images_and_labels() -> None:
    first, *rest = HELD_OUT
    others = [
        dataclasses.replace(first, digest="0" * 64),
        *(
            dataclasses.replace(first, labels=dataclasses.replace(first.labels, **change))
            for change in ({"age": 51.0}, {"age": None}, {"sex": "male"}, {"diagnosis": "mel", "localization": "x"})
        ),
    ]
    digests = {holdout_digest([other, *rest], {}) for other in others}
    assert len(digests | {holdout_digest(HELD_OUT, {}), holdout_digest(rest, {})}) == len(others) + 2
