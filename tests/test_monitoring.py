"""Monitoring as pure functions: what a sample is, what is called drift and what is chance, which windows are due, when they ask."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.monitoring import CHANGES, CODES, Population, draw, gathered, judged, sample
from dermanet import settings, svgplots
from dermanet.errors import BadInput, DermaNetError
from dermanet.monitoring import asking, drift, limits, plots, reference, report
from dermanet.monitoring.limits import Asks
from dermanet.monitoring.predictions import Prediction
from dermanet.monitoring.sample import Gathering, from_dict, gather, quantile

RULES = limits.load(settings.MONITORING)
NOW = datetime(2026, 11, 22, 1, 30, tzinfo=UTC)
DAY = timedelta(days=1)


# Samples


def test_a_sample_counts_each_image_once_and_every_request() -> None:
    some = draw(Population(), 10, 0)
    failed = [
        replace(some[0], digest="", error=kind, probabilities=None) for kind in ("truncated", "truncated", "not base64")
    ]
    found = gathered([*some, *some[:3], *failed])
    assert found.sample().images == 10 and sum(found.sample().mixes["diagnosis"].values()) == 10
    traffic = found.traffic()
    assert (traffic.requests, traffic.again, traffic.failed) == (16, 3, 3)
    assert traffic.errors == {"truncated": 2, "not base64": 1} and traffic.milliseconds == 12.0
    assert Gathering().traffic().milliseconds is None


def test_versions_are_told_apart() -> None:
    some = [*draw(Population(), 5, 0, "1"), *draw(Population(), 7, 1, "2"), *draw(Population(), 2, 2, "1")]
    assert {version: found.sample().images for version, found in gather(some).items()} == {"1": 7, "2": 7}


def test_a_sample_survives_json_and_holds_no_image_of_its_own() -> None:
    found = sample(Population(), 500, 0)
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert from_dict(json.loads(text)) == found
    assert len(text) < 40_000 and "digest" not in text
    thousands = json.dumps(sample(Population(), 5000, 0).as_dict())
    assert len(thousands) < 1.7 * len(text), "as short for many"


def test_what_is_not_known_is_left_out_and_odd_numbers_are(tmp_path: Path) -> None:
    bare = replace(
        draw(Population(), 1, 0)[0], novelty=None, brightness=None, detail=math.inf, sketch=None, quality=None
    )
    found = gathered([bare]).sample()
    assert set(found.spreads) == {"age", "certainty", "contrast"} and found.rates["remarked"] == (0, 0)


@given(
    st.lists(
        st.tuples(st.integers(-50, 50), st.integers(1, 9)), min_size=1, max_size=20, unique_by=lambda pair: pair[0]
    )
)
def test_a_quantile_is_the_smallest_value_that_covers_its_share(pairs: list[tuple[int, int]]) -> None:
    counts: list[tuple[float, int]] = sorted((float(value), count) for value, count in pairs)
    values = [value for value, count in counts for _ in range(count)]
    assert quantile(counts, 0.5) == values[math.ceil(len(values) / 2) - 1]
    assert quantile(counts, 1) == values[-1] and quantile([], 0.5) is None


# Drift


def test_nothing_has_changed_and_next_to_nothing_is_called_drift() -> None:
    beyond = words = 0
    for number in range(150):
        known = sample(Population(), 150, 2 * number)
        found = sample(Population(), 60, 2 * number + 1)
        beyond += min(drift.adjusted([one.chance for one in drift.readings(known, found)])) <= RULES.false_alarms
        words += drift.judge(RULES, known, found, gathered([]).traffic()).word == "drift"
    # 1.5 are expected at most; more than 7 would be seen once in 5,000 times.
    assert beyond <= 7 and words <= beyond


def test_lesions_that_are_alike_raise_no_alarm_where_they_are_known_to_be() -> None:
    alarms = 0
    for number in range(80):
        known = sample(Population(lesion=0.9), 300, 2 * number)
        alarms += judged(known, Population(), 200, 2 * number + 1).word == "drift"
    assert alarms <= 5


def test_photographs_of_one_lesion_in_a_window_raise_no_alarm_where_it_is_said_how_many_they_are() -> None:
    """Four photographs of each lesion that tell the same are four times what one tells."""
    rules = RULES.model_copy(update={"window": RULES.window.model_copy(update={"images_a_lesion": 4.0})})
    known, alarms = sample(Population(), 1000, 0), 0
    for number in range(1, 41):
        some = draw(Population(), 60, number)
        found = gathered([replace(one, digest=f"{one.digest}{copy}") for one in some for copy in range(4)]).sample()
        told = drift.witnessed(rules, known, found)
        assert (told.images, told.witnesses) == (240, 60)
        alarms += min(drift.adjusted([one.chance for one in drift.readings(known, told)])) <= RULES.false_alarms
    # As above: 0.4 are expected at most; taken for 240 witnesses, nearly all differ.
    assert alarms <= 3


def test_a_window_has_as_many_images_a_lesion_as_its_reference_where_nothing_is_said() -> None:
    found, half = sample(Population(), 90, 1), sample(Population(lesion=0.9), 300, 0)
    assert drift.witnessed(RULES, half, found).witnesses == 45
    assert drift.witnessed(RULES, None, found) == found == drift.witnessed(RULES, sample(Population(), 300, 0), found)
    few = drift.judge(RULES, half, drift.witnessed(RULES, half, found), gathered([]).traffic())
    assert few.word == "insufficient" and "90 images, taken to be of 45 lesions, are too few" in few.checks[0].reason


@pytest.mark.parametrize(
    ("change", "figures"),
    [
        ("brighter by a standard deviation", {"brightness", "sketch"}),
        ("detail halved", {"detail"}),
        ("ten years older", {"age"}),
        ("melanomas three times as many", {"diagnosis"}),
        ("less sure by 0.15", {"certainty", "referred"}),
    ],
)
def test_what_has_changed_is_found_and_named(change: str, figures: set[str]) -> None:
    known = sample(Population(), 1000, 0)
    verdict = judged(known, CHANGES[change], 300, 1)
    assert verdict.word == "drift"
    named = {check.figure for check in verdict.checks if check.outcome in ("drift", "warning")}
    assert named & figures
    assert all("before" in line and "now" in line for line in verdict.lines("drift"))


def test_too_few_are_never_drift_however_different() -> None:
    known, other = sample(Population(), 1000, 0), Population(light=5, years=40)
    assert judged(known, other, 49, 1).word == "insufficient"
    assert judged(known, other, 50, 1).word == "drift"
    assert judged(sample(Population(), 20, 0), other, 300, 1).word == "insufficient", "nor are few on the other side"
    assert {check.outcome for check in judged(known, other, 0, 1).checks if check.value is None} == {"too few"}


def test_a_version_without_a_reference_is_told_so_and_its_failures_all_the_same() -> None:
    some = draw(Population(), 60, 0)
    found = gathered([*some, *(replace(one, error="truncated") for one in some[:20])])
    verdict = drift.judge(RULES, None, found.sample(), found.traffic())
    assert verdict.word == "not known" and verdict.lines("warning") == ["failed 0.25, at most 0.05"]


def test_what_one_side_does_not_know_is_not_known_and_the_rest_is_judged() -> None:
    old = gathered([replace(one, sketch=None, brightness=None) for one in draw(Population(), 300, 0)]).sample()
    verdict = judged(old, Population(years=20), 100, 1)
    outcomes = {check.figure: check.outcome for check in verdict.checks}
    assert (outcomes["sketch"], outcomes["brightness"], outcomes["age"], verdict.word) == (
        "not known",
        "not known",
        "drift",
        "drift",
    )


def test_a_large_sample_of_a_small_difference_has_not_drifted() -> None:
    verdict = judged(sample(Population(), 5000, 0), Population(years=2), 5000, 1)
    age = next(check for check in verdict.checks if check.figure == "age")
    assert age.chance < 1e-6 and age.outcome == "pass" and verdict.word == "steady"


def test_a_verdict_survives_json() -> None:
    verdict = judged(sample(Population(), 300, 0), CHANGES["detail halved"], 100, 1)
    assert drift.from_dict(json.loads(json.dumps(verdict.as_dict(), allow_nan=False))) == verdict


@given(
    st.dictionaries(st.sampled_from(CODES), st.integers(0, 200)),
    st.dictionaries(st.sampled_from(CODES), st.integers(1, 200), min_size=1),
)
def test_pooling_loses_no_image(before: dict[str, int], now: dict[str, int]) -> None:
    pooled = drift.pooled(before, now)
    assert [sum(mix.values()) for mix in pooled] == [sum(before.values()), sum(now.values())]
    assert len({*pooled[0], *pooled[1]}) <= max(1, len({*before, *now}))


# Limits


def test_the_reviewed_limits_watch_every_figure() -> None:
    assert RULES.mode == "enforce"
    assert all(limits.bound(RULES.drift, figure) is not None for figure in limits.FIGURES)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("mode: loud", "line 1: mode is 'loud'"),
        ("mode: enforce\ndrift:\n  colour: {distance: 0.2}", "line 3: drift.colour is no word of the monitoring; allowed are"),
        ("drift:\n  age: {shift: 0.2}", "line 2: drift.age.shift is no word"),
        ("drift:\n  age: {distance: 1.2}", "line 2: drift.age.distance is 1.2"),
        ("drift:\n  failed: {most: 1}", "line 2: drift.failed is no word"),
        ("asks: {windows: 6, of: 5}", "line 1: asks wants 6 windows of the last 5"),
        ("drift:\n  sex: {distance: 0.1}\nwarning:\n  sex: {distance: 0.2}", "line 4: sex warns from 0.2"),
        ("window: {days: 0}", "line 1: window.days is 0"),
        ("window: {images_a_lesion: 0.5}", "line 1: window.images_a_lesion is 0.5"),
        ("false_alarms: yes", "line 1: false_alarms is True"),
        ("- 1", "line 1: the file is"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_line(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "monitoring.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=line) as caught:
        limits.load(path)
    assert "see docs/monitoring.md" in str(caught.value)


def test_off_may_be_written_bare_and_left_out_words_have_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "off.yaml").write_text("mode: off\n")
    found = limits.load(tmp_path / "off.yaml")
    assert (found.mode, found.window.days, found.asks) == ("off", 1, Asks())


# Windows


def test_windows_begin_at_midnight_and_weeks_on_mondays() -> None:
    assert asking.start_of(NOW, 1) == datetime(2026, 11, 22, tzinfo=UTC)
    assert (
        asking.start_of(NOW, 7) == datetime(2026, 11, 16, tzinfo=UTC)
        and asking.start_of(NOW, 7).strftime("%a") == "Mon"
    )


@given(st.integers(1, 40), st.integers(0, 100_000))
def test_there_is_always_a_last_complete_window(days: int, seconds: int) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=seconds)
    last = asking.latest(now, days)
    assert asking.start_of(last, days) == last
    assert last + days * DAY <= now - asking.SETTLED < last + 2 * days * DAY


@given(st.integers(1, 40), st.integers(0, 400), st.integers(0, 3000))
def test_due_windows_are_whole_follow_one_another_and_lie_within_the_log(days: int, hours: int, minutes: int) -> None:
    now = NOW + timedelta(minutes=minutes)
    first = now - timedelta(hours=24 * 90 - hours)
    found = asking.due(first, now, days, set(), 90)
    assert found and all(later - earlier == days * DAY for earlier, later in pairwise(found))
    assert found[-1] + days * DAY + asking.SETTLED <= now
    assert found[0] > first - days * DAY
    assert asking.due(first, now, days, set(found), 90) == []


def test_what_is_kept_or_partly_removed_is_not_due_and_an_empty_log_has_yesterday() -> None:
    midnight = datetime(2026, 11, 22, tzinfo=UTC)
    assert asking.due(None, NOW, 1, set(), 90) == [midnight - DAY]
    assert asking.due(None, NOW, 1, {midnight - DAY}, 90) == []
    assert asking.due(midnight - 2.5 * DAY, NOW, 1, {midnight - 2 * DAY}, 90) == [midnight - 3 * DAY, midnight - DAY]
    assert asking.due(midnight - 9.5 * DAY, NOW, 1, set(), 3) == [midnight - 2 * DAY, midnight - DAY]
    assert asking.due(midnight - 9.5 * DAY, midnight + timedelta(minutes=10), 1, set(), 3)[-1] == midnight - 2 * DAY, (
        "not settled"
    )


@pytest.mark.parametrize(
    ("words", "asks"),
    [
        ("dd.dd", True), ("..ddd", True), ("d.d.d", True), ("dd.d.", False), ("...dd", False), ("ddddd", True), ("ii.dd", False),
        ("ddd..", False), ("", False), ("d", False),
    ],
)  # fmt: skip
def test_k_of_the_last_n_windows_ask_with_the_latest_among_them(words: str, asks: bool) -> None:
    names: dict[str, drift.Word] = {"d": "drift", ".": "steady", "i": "insufficient"}
    latest = datetime(2026, 11, 21, tzinfo=UTC)
    given = [(latest - place * DAY, names[word]) for place, word in enumerate(reversed(words))]
    found = asking.asking(Asks(windows=3, of=5), given, latest, 1)
    assert bool(found) == asks and (not asks or found[-1] == latest)
    older = [(start - 7 * DAY, word) for start, word in given]
    assert asking.asking(Asks(windows=3, of=5), older, latest, 1) == [], "what is long ago"
    assert asking.asking(Asks(windows=3, of=5), given, latest, 1, since=latest - DAY) == [], "what has asked before"


# The reference, and the page


def test_a_reference_survives_its_file_and_another_revision_is_none(tmp_path: Path) -> None:
    path = tmp_path / reference.FILE
    reference.write(path, draw(Population(), 100, 0), 60)
    found = reference.load(path)
    assert found and (found.images, found.witnesses) == (100, 60)
    path.write_text(json.dumps({**json.loads(path.read_text()), "revision": 99}))
    assert reference.load(path) is None and reference.load(tmp_path / "none") is None
    path.write_text('{"revision": 1}')
    with pytest.raises(DermaNetError, match="reference of monitoring cannot be read"):
        reference.load(path)


def page(**changes: Any) -> report.Page:
    known = sample(Population(), 300, 0)
    found = gathered(draw(CHANGES["detail halved"], 100, 1))
    verdict = drift.judge(RULES, known, found.sample(), found.traffic())
    traffic = {"requests": 100, "again": 3, "errors": {"<b>odd": 2}, "milliseconds": 12.0}
    trend = [
        {"start": NOW - place * DAY, "verdict": "drift", "images": 9, "reach": 1.2, "referred": 0.1, "failed": None}
        for place in (2, 1, 0)
    ]
    first = report.Part("3", verdict, found.sample(), known, traffic)
    return replace(report.Page("2026-11-21", "now", "3", [first], trend, None, None, None), **changes)


def test_a_page_needs_nothing_and_takes_its_colours_from_its_style() -> None:
    text = report.html(page())
    assert "drift" in text and "not a medical device" in text and "&lt;b&gt;odd" in text and "<b>odd" not in text
    assert text.count("<svg") == 12 and not set(svgplots.VARIABLES) & set(text.split('"'))
    assert not [word for word in ("http://", "https://") if f'src="{word}' in text or f'href="{word}' in text]


def test_a_page_says_what_is_not_known() -> None:
    verdict = drift.judge(RULES, None, sample(Population(), 60, 0), gathered([]).traffic())
    bare = report.Part(
        "1", verdict, sample(Population(), 60, 0), None, {"requests": 60, "again": 0, "errors": {}, "milliseconds": 1}
    )
    assert "logged without a reference" in report.html(page(parts=[bare], trend=[]))
    nobody = report.Part(
        "", drift.judge(RULES, None, gathered([]).sample(), gathered([]).traffic()), gathered([]).sample(), None, {}
    )
    assert "No requests." in report.html(page(parts=[nobody], champion=""))


def test_curves_are_drawn_of_several_windows_alone() -> None:
    assert plots.trends(page().trend[:1]) == [] and len(plots.trends(page().trend)) == 3


def test_a_prediction_from_before_there_were_looks_is_read(tmp_path: Path) -> None:
    old = Prediction("a", NOW, "1", "d", 40.0, "male", "nv", None, "good", None, None, None, 1.0)
    assert gathered([old]).sample().images == 1
