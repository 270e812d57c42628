"""Slices: every record once an axis, bands as they are named, and nothing where an axis has one value."""

import samples
from hypothesis import given
from hypothesis import strategies as st

from dermanet.judging.slices import AGES, AXES, MOST_WORDS, NOT_RECORDED, OTHERS, Slice, slices
from dermanet.records import SEXES, Record

words = st.sampled_from(["", "unknown", "back", "face", "scalp"])
records_of = st.lists(
    st.builds(
        lambda n, age, sex, site, clinic: samples.record(n, age=age, sex=sex, localization=site, clinic=clinic),
        st.integers(0, 30), st.none() | st.floats(0, 120), st.sampled_from(SEXES), words, words,
    )
)  # fmt: skip
numbers = st.none() | st.floats(0, 1e4)
looks_of = st.dictionaries(
    st.integers(0, 30), st.fixed_dictionaries({"detail": numbers, "ita": st.none() | st.floats(-90, 90)})
)


def by_axis(found: list[Slice]) -> dict[str, dict[str, list[int]]]:
    """Places of the records by axis and value."""
    axes: dict[str, dict[str, list[int]]] = {}
    for one in found:
        axes.setdefault(one.axis, {})[one.value] = one.rows.nonzero()[0].tolist()
    return axes


@given(records_of, looks_of)
def test_the_slices_of_an_axis_hold_every_record_once(
    records: list[Record], looks: dict[int, dict[str, float | None]]
) -> None:
    found = by_axis(slices(records, {samples.record(n).digest: look for n, look in looks.items()}))
    assert set(found) <= set(AXES)
    for values in found.values():
        assert sorted(place for places in values.values() for place in places) == list(range(len(records)))
        assert len(values) > 1 and all(values.values())


def test_bands_of_age_begin_where_they_say() -> None:
    ages = [0.0, 29.0, 30.0, 44.5, 45.0, 75.0, 120.0, None]
    found = by_axis(slices([samples.record(n, age=age) for n, age in enumerate(ages)], {}))["age"]
    assert found == {"under 30": [0, 1], "30 to 44": [2, 3], "45 to 59": [4], "75 and over": [5, 6], NOT_RECORDED: [7]}
    assert AGES[0] == 30


def test_words_stand_by_their_number_and_what_is_not_recorded_last() -> None:
    sites = ["back", "face", "face", "", "unknown", "back", "face"]
    found = by_axis(slices([samples.record(n, localization=site) for n, site in enumerate(sites)], {}))["site"]
    assert list(found.items()) == [("face", [1, 2, 6]), ("back", [0, 5]), (NOT_RECORDED, [3, 4])]


def test_rare_words_are_one_slice_together() -> None:
    many = [samples.record(n, clinic=f"clinic {min(n, MOST_WORDS + 2):02}") for n in range(MOST_WORDS + 6)]
    found = by_axis(slices(many, {}))["clinic"]
    assert len(found) == MOST_WORDS + 1 and len(found[OTHERS]) == 3


def test_a_named_word_stands_alone_however_rare() -> None:
    many = [samples.record(n, clinic=f"clinic {min(n, MOST_WORDS + 2):02}") for n in range(MOST_WORDS + 6)]
    last = f"clinic {MOST_WORDS:02}"
    found = by_axis(slices(many, {}, {("clinic", last), ("site", "clinic 13"), ("clinic", "elsewhere")}))["clinic"]
    assert found[last] == [MOST_WORDS] and len(found[OTHERS]) == 2 and "elsewhere" not in found
    assert sorted(place for places in found.values() for place in places) == list(range(len(many)))


def test_quality_is_in_thirds_and_tones_in_their_bands() -> None:
    records = [samples.record(n) for n in range(7)]
    angles = [60.0, 55.0, 41.1, 28.0, 10.0, -30.0, -31.0]
    looks = {
        record.digest: {"detail": float(n), "ita": angle}
        for n, (record, angle) in enumerate(zip(records, angles, strict=True))
    }
    found = by_axis(slices(records, looks))
    assert [len(places) for places in found["quality"].values()] == [3, 2, 2] and found["quality"][
        "sharpest third"
    ] == [5, 6]
    assert found["skin tone"] == {
        "dark": [5, 6], "brown": [4], "tan": [3], "light": [1, 2], "very light": [0]
    }  # fmt: skip


def test_an_axis_of_which_all_have_the_same_is_no_axis() -> None:
    records = [samples.record(n, sex="male", age=50.0) for n in range(3)]
    assert slices(records, {}) == [] == slices([], {})
    assert by_axis(slices(records, {}, {("sex", "male"), ("age", "under 30")})) == {"sex": {"male": [0, 1, 2]}}
    assert slices([], {}, {("sex", "male")}) == []
