"""Parts of a snapshot: every image in exactly one, about as many in each, and as many parts as are worth their beginnings."""

import hashlib
import math

import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from dermanet.errors import BadInput
from dermanet.records import Record
from dermanet.stages.parts import COUNTS, named_part, parts_of, records_in

RECORDS = [Record(hashlib.sha256(str(n).encode()).hexdigest(), f"I{n}", samples.record(n).labels) for n in range(3000)]


@given(st.integers(0, 3000), st.sampled_from(COUNTS))
def test_every_image_is_in_exactly_one_part_and_no_part_is_much_larger(images: int, parts: int) -> None:
    shared = [records_in({"part": part, "parts": parts}, RECORDS[:images]) for part in range(parts)]
    assert sorted(record.image_id for part in shared for record in part) == sorted(r.image_id for r in RECORDS[:images])
    assert max(map(len, shared)) - min(map(len, shared)) <= 1


def test_what_is_new_is_spread_over_all_parts_whatever_was_done_before() -> None:
    new = {record.digest for record in RECORDS[2000:]}
    shared = [records_in({"part": part, "parts": 8}, RECORDS) for part in range(8)]
    assert max(sum(record.digest in new for record in part) for part in shared) < 1.35 * len(new) / 8


def test_a_retry_gets_the_same_images_in_whatever_order_the_snapshot_has_them() -> None:
    part = {"part": 2, "parts": 6}
    assert records_in(part, RECORDS) == records_in(part, RECORDS[::-1])


@pytest.mark.parametrize(
    ("new", "parts"), [(0, 1), (500, 1), (1413, 2), (10_015, 4), (25_331, 8), (100_000, 12), (400_000, 24), (10**8, 24)]
)
def test_there_are_as_many_parts_as_are_worth_their_beginnings(new: int, parts: int) -> None:
    assert parts_of(new, 300) == [{"part": part, "parts": parts} for part in range(parts)]


@pytest.mark.parametrize("new", [10_015, 25_331, 100_000, 400_000])
def test_two_workers_need_about_half_the_time_that_one_needs_at_best_and_more_need_no_more(new: int) -> None:
    def images(parts: int, workers: int) -> float:
        """How long so many parts take, in images that a core prepares meanwhile."""
        return math.ceil(parts / workers) * (300 + new / parts)

    parts, alone = len(parts_of(new, 300)), images(1, 1)
    taken = [images(parts, workers) for workers in range(1, 9)]
    assert taken[0] <= 1.2 * alone and taken[1] <= 0.6 * alone
    assert taken == sorted(taken, reverse=True)


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/0", "-1/2", "1/2/3", "\u00b2/8"])
def test_a_part_that_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadInput, match="the second of eight"):
        named_part(text)
    assert named_part("2/8") == {"part": 1, "parts": 8}
