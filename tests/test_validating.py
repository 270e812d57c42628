"""Validating data: identical tables never alarm, chance alone does not, and every way to spoil a set does."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from dermanet import distances, settings, svgplots, taxonomy
from dermanet.contactsheet import Tile
from dermanet.errors import BadInput
from dermanet.records import Snapshot
from dermanet.validating import drift, limits, plots, report, sheets
from dermanet.validating.schema import Breach, breaches
from dermanet.validating.statistics import MOST_WORDS, OTHERS, Statistics, alike, from_dict, quantile, statistics
from dermanet.validating.table import LOOKS, newcomers, table

LIST = taxonomy.load()
RULES = limits.load(settings.VALIDATION)
SITES = ("back", "trunk", "face", "abdomen")
COMMON = ("nv", "nv", "nv", "nv", "mel", "bkl", "bcc", "akiec", "df", "vasc")

Change = Callable[[pd.DataFrame], pd.DataFrame]


def people(count: int, seed: int = 0) -> pd.DataFrame:
    """A table of `count` images of as many lesions, drawn from one and the same population whatever the seed."""
    rng = np.random.default_rng(seed)
    records = [
        samples.record(
            1_000_000 * seed + number, diagnosis=COMMON[int(rng.integers(10))], sex=("male", "female")[int(rng.integers(2))],
            age=float(5 * rng.integers(2, 17)), localization=SITES[int(rng.integers(4))], confirmation="histo",
        )
        for number in range(count)
    ]  # fmt: skip
    looks = {
        record.digest: dict(
            zip(LOOKS, (600, 450, rng.normal(155, 25), rng.normal(120, 30), rng.lognormal(4.4, 0.7)), strict=True)
        )
        for record in records
    }
    third = count // 3
    frozen = Snapshot(
        "s", LIST, "h", tuple(records[:third]), tuple(records[third : 2 * third]), tuple(records[2 * third :])
    )
    return table(frozen, looks)


def counted(frame: pd.DataFrame) -> Statistics:
    return statistics(frame, LIST.codes, LIST.digest)


def verdict(before: pd.DataFrame, new: pd.DataFrame) -> drift.Verdict:
    scopes = {"whole": counted(pd.concat([before, new])), "new": counted(new)}
    return drift.judge(RULES, scopes, counted(before))


BEFORE = people(600)

SPOILT: dict[str, tuple[Change, str]] = {
    "one class": (lambda f: f.assign(diagnosis="nv"), "new diagnosis"),
    "ages nought": (lambda f: f.assign(age=0.0), "new age"),
    "ages too high": (lambda f: f.assign(age=f["age"] + 20), "new age"),
    "one sex": (lambda f: f.assign(sex="female"), "new sex"),
    "no sex": (lambda f: f.assign(sex="unknown"), "new missing_sex"),
    "half the sites": (
        lambda f: f.assign(localization=f["localization"].where(np.arange(len(f)) % 2 == 0, "")),
        "new missing_localization",
    ),
    "one site": (lambda f: f.assign(localization="face"), "new localization"),
    "no ages": (lambda f: f.assign(age=np.nan), "new missing_age"),
    "one grey": (lambda f: f.assign(contrast=12.0), "new contrast"),
    "half the light": (lambda f: f.assign(brightness=f["brightness"] / 2), "new brightness"),
    "blurred": (lambda f: f.assign(detail=f["detail"] / 5), "new detail"),
    "a quarter of the pixels": (lambda f: f.assign(width=300.0, height=225.0), "new megapixels"),
    "never looked at": (lambda f: f.assign(brightness=np.nan), "new missing_look"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_every_way_to_spoil_what_comes_anew_is_an_anomaly(name: str) -> None:
    spoil, figure = SPOILT[name]
    found = verdict(BEFORE, spoil(people(150, seed=1)))
    assert found.word == "anomalous"
    assert figure in {f"{check.scope} {check.figure}" for check in found.anomalies}
    assert all(math.isfinite(check.value) for check in found.checks)
    subjects = [(check.scope, check.figure, check.measure) for check in found.checks if check.outcome != "pass"]
    assert len(subjects) == len(set(subjects)), "an anomaly is not told again as a warning"


@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("count", [12, 45, 150])
def test_chance_alone_is_no_anomaly(count: int, seed: int) -> None:
    assert verdict(BEFORE, people(count, seed)).anomalies == ()


def test_a_few_images_are_never_compared() -> None:
    few = people(RULES.least_images - 1, seed=2)
    found = drift.judge(RULES, {"new": counted(few.assign(sex="male", age=0.0, diagnosis="mel"))}, counted(BEFORE))
    assert found.word == "passed"
    assert {check.outcome for check in found.checks if check.measure in ("distance", "most")} == {"too few"}


@given(st.integers(0, 5), st.integers(31, 120))
def test_an_identical_snapshot_is_no_anomaly(seed: int, count: int) -> None:
    same = counted(people(count, seed))
    found = drift.judge(RULES, {"whole": same, "new": same}, same)
    assert found.anomalies == ()
    values = [check.value for check in found.checks if check.measure in ("distance", "fall", "shift", "share", "rise")]
    assert values and max(values) == 0


def test_a_shrunken_snapshot_is_told() -> None:
    found = drift.judge(RULES, {"whole": counted(BEFORE[:300])}, counted(BEFORE))
    assert [check.figure for check in found.anomalies] == ["images"]


def test_another_list_of_diagnoses_is_not_compared() -> None:
    other = dataclasses.replace(counted(BEFORE), taxonomy="another")
    found = drift.judge(RULES, {"whole": counted(BEFORE)}, other)
    assert "diagnosis" not in {check.figure for check in found.checks if check.measure != "most"}


mixes = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 50), min_size=1).filter(
    lambda mix: sum(mix.values()) > 0
)
spreads = st.dictionaries(st.integers(0, 100).map(float), st.integers(1, 20), min_size=1, max_size=12).map(
    lambda counts: sorted(counts.items())
)


@given(mixes, mixes)
def test_the_distance_of_mixes_is_symmetrical_and_a_share(one: dict[str, int], other: dict[str, int]) -> None:
    found = distances.between_mixes(one, other)
    assert found == pytest.approx(distances.between_mixes(other, one))
    assert -1e-12 <= found <= 1 + 1e-12
    assert distances.between_mixes(one, one) == 0
    assert max(map(abs, distances.changes(one, other).values())) <= found + 1e-12
    assert 0 <= distances.chance_of_mixes(one, other, (1, 1)) <= 1


@given(spreads, spreads)
def test_the_distance_of_spreads_is_kolmogorov_s_and_smirnov_s(
    one: list[tuple[float, int]], other: list[tuple[float, int]]
) -> None:
    found = distances.between_spreads(one, other)
    samples_of = [np.repeat(*np.array(spread, float).T.astype(int)) for spread in (one, other)]
    assert found.value == pytest.approx(ks_2samp(*samples_of, method="exact").statistic)
    assert found.value == pytest.approx(distances.between_spreads(other, one).value)
    assert max(distances.fall(one, other).value, distances.fall(other, one).value) == pytest.approx(found.value)
    if len(samples_of[0]) * len(samples_of[1]) / len(np.concatenate(samples_of)) >= 1:
        assert found.chance == pytest.approx(ks_2samp(*samples_of, method="asymp").pvalue, abs=1e-6)


def test_images_of_few_lesions_weigh_as_those_lesions() -> None:
    one, other = {"a": 60, "b": 40}, {"a": 30, "b": 70}
    assert distances.chance_of_mixes(one, other, (1, 1)) < 1e-4 < distances.chance_of_mixes(one, other, (0.1, 0.1))


@given(spreads)
def test_quantiles_are_those_of_the_images(spread: list[tuple[float, int]]) -> None:
    values = np.repeat(*np.array(spread, float).T.astype(int))
    for share in (0.25, 0.5, 0.75):
        assert quantile(spread, share) == np.quantile(values, share, method="inverted_cdf")


def test_statistics_outlive_json() -> None:
    found = counted(BEFORE)
    assert from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_every_word_is_counted_by_name_up_to_thousands_and_unrecorded_ones_as_missing() -> None:
    frame = people(200).assign(localization=[f"site {number}" if number > 9 else "unknown" for number in range(200)])
    found = counted(frame)
    assert found.missing["localization"] == 10 and set(found.mixes["localization"].values()) == {1}
    many = pd.concat([frame] * 30).assign(localization=[f"site {number}" for number in range(6000)])
    assert counted(many).mixes["localization"][OTHERS] == 6000 - MOST_WORDS


def at_sites(count: int, sites: np.ndarray, seed: int) -> pd.DataFrame:
    """People whose lesions are at sites drawn from so many equally common ones."""
    drawn = np.random.default_rng(seed).choice(sites, count)
    return people(count, seed).assign(localization=[f"site {number:03}" for number in drawn])


def localization(before: Statistics, now: Statistics) -> drift.Reading:
    found = drift.read("localization", "distance", before, now)
    assert found
    return found


def test_a_mix_of_many_words_is_unchanged_where_it_is_and_changed_where_it_is() -> None:
    sites = np.arange(120)
    before, now = at_sites(3000, sites, 11), at_sites(300, sites, 12)
    found = localization(counted(before), counted(now))
    assert found.value < 0.35 and found.chance > RULES.significance
    # The rarer half of the sites gives way to others, each of them as rare.
    moved = now.assign(
        localization=[f"site {int(site[5:]) + (120 if site > 'site 059' else 0):03}" for site in now["localization"]]
    )
    found = localization(counted(before), counted(moved))
    assert found.value > 0.45 and found.chance < RULES.significance


def test_statistics_from_before_that_have_others_are_compared_by_the_words_that_both_can_tell() -> None:
    before, now = at_sites(3000, np.arange(120), 13), at_sites(300, np.arange(120), 14)
    full = counted(before)
    ranked = list(full.mixes["localization"].items())
    short = {**dict(ranked[:60]), OTHERS: sum(count for _, count in ranked[60:])}
    old = from_dict({**full.as_dict(), "mixes": {**full.mixes, "localization": short}})
    found = localization(old, counted(now))
    assert found.value < 0.3 and found.chance > RULES.significance
    assert localization(old, full).value == pytest.approx(0) and localization(full, old).value == pytest.approx(0)
    assert alike({"a": 5, "b": 1, OTHERS: 2}, {"a": 4, "c": 3}) == ({"a": 5, "b": 1, OTHERS: 2}, {"a": 4, OTHERS: 3})
    assert alike({"a": 5, "b": 1}, {"a": 4, "c": 3}) == ({"a": 5, "b": 1}, {"a": 4, "c": 3})


def test_chance_is_not_underrated_where_most_words_are_rare() -> None:
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, 121)
    drawn = [[rng.multinomial(size, shares / shares.sum()) for size in (5000, 30)] for _ in range(400)]
    chances = [
        distances.chance_of_mixes(*({str(word): int(count) for word, count in enumerate(one)} for one in pair), (1, 1))
        for pair in drawn
    ]
    # 4 are expected at one in a hundred; the plain test has 48.
    assert sum(chance <= 0.01 for chance in chances) <= 14
    assert distances.chance_of_mixes({str(word): 83 for word in range(120)}, {"new": 30}, (1, 1)) < 1e-9


def test_a_sound_table_breaks_no_rule() -> None:
    assert breaches(BEFORE.assign(contrast=100.0, brightness=100.0), LIST.codes) == ()


@pytest.mark.parametrize(
    ("rows", "rule", "cases"),
    [
        ({3: {"age": -4.0}}, "age: in_range(0, 120.0)", ("I3",)),
        ({3: {"age": 121.0}}, "age: in_range(0, 120.0)", ("I3",)),
        ({3: {"sex": "M"}}, "sex: isin", ("I3",)),
        ({3: {"diagnosis": "acne"}}, "diagnosis: isin", ("I3",)),
        ({3: {"brightness": 300.0}}, "brightness: in_range(0, 255)", ("I3",)),
        ({3: {"width": 5.0}}, "width: greater_than_or_equal_to(28)", ("I3",)),
        ({3: {"digest": "no digest"}}, "digest: str_matches", ("I3",)),
        ({3: {"lesion_id": "L99"}}, "a lesion on two sides", ("L99",)),
        ({3: {"patient_id": "P"}, 99: {"patient_id": "P"}}, "a patient on two sides", ("P",)),
        (
            {98: {"lesion_id": "L99", "diagnosis": "mel"}, 99: {"diagnosis": "nv"}},
            "a lesion with two diagnoses",
            ("L99",),
        ),
    ],
)
def test_every_breach_is_named_with_its_case(
    rows: dict[int, dict[str, Any]], rule: str, cases: tuple[str, ...]
) -> None:
    frame = people(120).assign(contrast=100.0, brightness=100.0)
    for number, cells in rows.items():
        for name, value in cells.items():
            frame.loc[number, name] = value
    found = {breach.rule: breach.cases for breach in breaches(frame, LIST.codes)}
    named = next(name for name in found if name.startswith(rule))
    assert found[named] == cases
    assert drift.judge(RULES, {}, None, [Breach(named, cases)]).word == "anomalous"


def test_all_breaches_are_told_at_once() -> None:
    frame = people(120).assign(contrast=100.0, brightness=100.0)
    frame.loc[0, "age"], frame.loc[1, "sex"], frame.loc[2, "digest"] = 900.0, "x", frame.loc[3, "digest"]
    assert len(breaches(frame, LIST.codes)) == 3


def test_lesions_of_two_synthetic_worlds_are_not_one() -> None:
    frame = people(120).assign(contrast=100.0, brightness=100.0)
    frame.loc[0, ["lesion_id", "diagnosis", "world"]] = ["L1", "mel", "synthetic:seed=1"]
    frame.loc[1, "diagnosis"] = "nv"
    assert breaches(frame, LIST.codes) == ()


def test_a_breach_that_was_accepted_is_a_reminder() -> None:
    breach = Breach("a lesion with two diagnoses", ("L1", "L2"))
    accepted = {(breach.rule, case) for case in breach.cases}
    assert drift.judge(RULES, {}, None, [breach], accepted).word == "passed"
    worse = Breach(breach.rule, ("L1", "L2", "L3"))
    (check,) = drift.judge(RULES, {}, None, [worse], accepted).anomalies
    assert "L3" in check.reason and "L1" not in check.reason


def test_newcomers_are_new_or_have_other_labels() -> None:
    records = [samples.record(number, age=None if number == 5 else 50.0) for number in range(9)]
    before = Snapshot("b", LIST, "h", tuple(records[:6]), (), ())
    corrected = dataclasses.replace(records[0], labels=dataclasses.replace(records[0].labels, sex="male"))
    frame = table(Snapshot("s", LIST, "h", (corrected, *records[1:8]), (), ()), {})
    assert list(newcomers(frame, before)["image_id"]) == ["I0", "I6", "I7"]


def test_the_sheets_show_what_stands_out_and_some_of_each_diagnosis() -> None:
    chosen = sheets.choose(BEFORE, LIST.codes)
    assert [sheet.title.split()[1].rstrip(":") for sheet in chosen[:3]] == ["darkest", "brightest", "softest"]
    darkest = BEFORE.sort_values("brightness")["digest"].head(sheets.STANDING_OUT)
    assert [digest for digest, _ in chosen[0].images] == list(darkest)
    assert {sheet.title.partition(":")[0] for sheet in chosen[3:]} == set(LIST.codes)
    many = [f"d{number}" for number in range(300)]
    frame = people(900).assign(diagnosis=[many[number % 300] for number in range(900)])
    assert sum(len(sheet.images) for sheet in sheets.choose(frame, many)) <= sheets.MOST_TILES


def test_the_smallest_images_have_a_sheet_where_there_are_some() -> None:
    small = BEFORE.assign(width=BEFORE["width"].where(BEFORE.index != 7, 100.0))
    (sheet,) = [one for one in sheets.choose(small, LIST.codes) if one.title == "The smallest (pixels)"]
    row = small.loc[7]
    assert sheet.images == ((row["digest"], f"{row['image_id']}\n{row['diagnosis']}, 45000"),)
    assert "smallest" not in " ".join(one.title for one in sheets.choose(BEFORE, LIST.codes))


def test_a_plot_takes_its_colours_from_the_page_and_is_the_same_every_time() -> None:
    groups = {"before": counted(BEFORE), "now": counted(people(90, 3))}
    for draw in (lambda: plots.mix(groups, "diagnosis"), lambda: plots.spread(groups, "detail", "variance")):
        drawn = draw()
        assert drawn == draw() and drawn.startswith("<svg")
        assert "var(--now)" in drawn and "var(--ink)" in drawn and "http-equiv" not in drawn
        assert not set(svgplots.VARIABLES) & set(drawn.split('"'))
    assert plots.mix(groups, "clinic") == ""


@pytest.mark.parametrize("word", ["<script>alert(1)</script>", "$\\frac{1$", "&amp; _x_ ^", "back " * 40, "背中"])
def test_whatever_a_label_file_says_is_text_on_the_page(word: str) -> None:
    stated = people(60).assign(localization=word, clinic=word)
    now = counted(stated)
    verdict = drift.judge(RULES, {"whole": now}, None, [Breach("a lesion on two sides", (word,))])
    tile = Tile(f"{word}\nnv", "data:image/jpeg;base64,AAAA")
    page = report.html(
        report.Page("s", 1, "", "accepted", f"accepted by Eve: {word}", verdict, {"now": now}, [("nv", [tile])])
    )
    assert "<script" not in page and page.count("<svg") == 10


def _written(folder: Path, text: str) -> Path:
    path = folder / "limits.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("mode: perhaps\n", "mode has 'perhaps'; allowed are enforce, dry run, off"),
        ("anomalies: {}\n", "'anomalies'; allowed are mode"),
        ("anomaly: {newest: {}}\n", "anomaly has 'newest'; allowed are new, whole"),
        ("anomaly: {new: {gender: {distance: 0.1}}}\n", "anomaly.new has 'gender'; allowed are diagnosis, sex"),
        ("anomaly: {new: {sex: {shift: 0.1}}}\n", "anomaly.new.sex has 'shift'; allowed are distance, share, most"),
        ("warning: {new: {sex: {distance: 1.1}}}\n", "warning.new.sex.distance has 1.1; a number from 0 to 1"),
        ("warning: {new: {sex: {distance: yes}}}\n", "warning.new.sex.distance has True"),
        ("warning: {new: {sex: 0.5}}\n", "warning.new.sex has 0.5; needed are entries by name"),
        ("least_images: 0\n", "least_images has 0; a whole number"),
        ("significance: often\n", "significance has 'often'"),
        ("- 1\n", "the file has [1]"),
        ("a: b: c\n", "not YAML"),
    ],
)
def test_a_wrong_limit_is_named_with_what_is_allowed(tmp_path: Path, text: str, seen: str) -> None:
    with pytest.raises(BadInput) as raised:
        limits.load(_written(tmp_path, text))
    assert seen in str(raised.value)


def test_a_missing_file_of_limits_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="set DERMANET_VALIDATION"):
        limits.load(tmp_path / "absent.yaml")


def test_a_bare_off_is_off(tmp_path: Path) -> None:
    assert limits.load(_written(tmp_path, "mode: off\n")).mode == "off"
