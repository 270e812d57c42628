"""The split: by lesion, for ever, in the stated shares; and the holdout's identity."""

import dataclasses
import random
from collections import Counter

import samples
from hypothesis import given
from hypothesis import strategies as st

from dermanet.records import SIDES
from dermanet.split import BOUNDS, holdout_digest, side

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
    shares = [high - low for low, high in zip((0, *BOUNDS), BOUNDS, strict=False)]
    for name, share in zip(SIDES, shares, strict=True):
        assert abs(found[name] / 20_000 - share) < 0.01, name


def test_neighbouring_names_fall_on_independent_sides() -> None:
    pairs = Counter((side(f"L{number}"), side(f"L{number + 1}")) for number in range(20_000))
    assert abs(pairs["holdout", "holdout"] / 20_000 - 0.2**2) < 0.006


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
