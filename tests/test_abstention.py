"""When a model abstains: what its limits are by rule, what they make of images, and that they come with every model."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st
from installation import Installation
from numpy.typing import NDArray

from dermanet import imagefile, imagequality
from dermanet.errors import DermaNetError
from dermanet.imagequality import Quality
from dermanet.intake.synthetic import SyntheticSource
from dermanet.learning import abstention as limits
from dermanet.pixels import familiar
from dermanet.pixels.familiar import Familiarity, describe
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import apply, prepare, recipe
from dermanet.records import OLDEST, Answers, Record
from dermanet.registry.tracking import model_files
from dermanet.serving import abstention as serving
from dermanet.serving.abstention import Abstention, load
from dermanet.serving.reader import WITHOUT_LIMITS, answered

RECIPE = recipe("square@64")
FINE = Quality(150, 120, 80)
SURE = {"mel": 0.9, "nv": 0.1}


def lesions(count: int, seed: int = 7) -> list[bytes]:
    """The files of so many drawn lesions."""
    source = SyntheticSource(lesions=count, seed=seed)
    return [source.read(str(row.image)) for row in list(source.rows())[:count]]


def strange() -> dict[str, NDArray[np.uint8]]:
    """Pictures of no lesion, RGB (300, 400, 3)."""
    rng, (rows, columns) = np.random.default_rng(0), np.mgrid[0:300, 0:400]
    page = np.full((300, 400, 3), 255, np.uint8)
    for line in range(10):
        cv2.putText(page, "the quick brown fox", (5, 25 + 28 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (0, 0, 0), 2)
    sky = np.where(rows[..., None] < 150, (90, 150, 230), (60, 120, 40)) + rng.normal(0, 12, (300, 400, 1))
    return {
        "noise": rng.integers(0, 256, (300, 400, 3), dtype=np.uint8),
        "black": np.zeros((300, 400, 3), np.uint8),
        "white": np.full((300, 400, 3), 255, np.uint8),
        "page": page,
        "landscape": np.clip(sky, 0, 255).astype(np.uint8),
        "board": np.repeat(((rows // 40 + columns // 40) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2),
        "gradient": np.repeat((columns / 400 * 255).astype(np.uint8)[..., None], 3, axis=2),
    }


class Side:
    """Prepared pixels of drawn lesions under the digests of records, as a training has them."""

    def __init__(self, root: Path, count: int) -> None:
        files = lesions(count)
        self.records = [samples.record(number) for number in range(count)]
        self.pixels = PreparedPixels(root, RECIPE)
        self.pixels.fill([one.digest for one in self.records], dict(zip(self.digests, files, strict=True)).__getitem__)

    @property
    def digests(self) -> list[str]:
        return [record.digest for record in self.records]


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Side:
    return Side(tmp_path_factory.mktemp("pixels"), 160)


@pytest.fixture(scope="module")
def known(side: Side) -> Familiarity:
    found = limits.familiarity(side.pixels, side.records[:120], side.records[120:])
    assert found
    return found


def abstaining(**changes: Any) -> Abstention:
    usual = {"brightness": (80.0, 220.0), "contrast": (40.0, 200.0), "detail": (15.0, 300.0)}
    return replace(Abstention(None, 0.5, (-20.0, 25.0), usual), **changes)


# Familiarity


def test_a_description_does_not_change_when_the_image_is_mirrored_or_turned() -> None:
    image = prepare(lesions(1)[0], recipe("square@112"))
    views = [np.ascontiguousarray(view[::down, ::across]) for view in (image, image.transpose(1, 0, 2))
             for down in (1, -1) for across in (1, -1)]  # fmt: skip
    found = describe(np.stack(views))
    assert found.shape == (8, familiar.FIGURES) and np.abs(found - found[0]).max() < 1e-3


@pytest.mark.parametrize("size", [16, 32, 64, 100, 256])
def test_images_of_every_size_are_described_by_numbers(size: int) -> None:
    images = np.stack([apply(image, 1, recipe(f"plain@{size}")) for image in strange().values()])
    assert np.isfinite(describe(images)).all()
    assert describe(images[:0]).shape == (0, familiar.FIGURES)


def test_images_like_those_learned_from_are_familiar_and_others_are_not(known: Familiarity) -> None:
    alike = np.stack([prepare(data, RECIPE) for data in lesions(60, seed=8)])
    assert np.mean(known.novelty(alike) > 1) <= 0.05
    for name, image in strange().items():
        assert known.novelty(apply(image, 1, RECIPE)[None])[0] > 1.5, name


def test_novelty_grows_as_noise_covers_an_image(known: Familiarity) -> None:
    image = prepare(lesions(1, seed=8)[0], RECIPE).astype(float)
    noise = np.random.default_rng(0).integers(0, 256, image.shape)
    found = known.novelty(
        np.stack([image * (1 - share) + noise * share for share in (0, 0.3, 0.6, 1)]).astype(np.uint8)
    )
    assert (np.diff(found) > 0).all() and found[0] < 1 < found[-1]


def test_familiarity_survives_its_json(known: Familiarity) -> None:
    again = familiar.from_dict(json.loads(json.dumps(known.as_dict())))
    images = np.stack([prepare(data, RECIPE) for data in lesions(5, seed=9)])
    assert again.novelty(images).tolist() == known.novelty(images).tolist()
    with pytest.raises(DermaNetError, match="revision 99"):
        familiar.from_dict({**known.as_dict(), "revision": 99})


def test_the_limit_of_novelty_is_kept_to_by_the_images_it_was_set_on(side: Side, known: Familiarity) -> None:
    found = known.novelty(side.pixels.batch(side.digests[120:]))
    assert np.mean(found > 1) <= 0.05


def test_few_images_say_nothing_of_what_is_familiar_and_some_say_something(side: Side) -> None:
    assert limits.familiarity(side.pixels, side.records[:8], side.records[8:10]) is None
    some = limits.familiarity(side.pixels, side.records[:25], side.records[25:28])
    assert some
    # Fewer images, a wider limit; noise is beyond it nevertheless.
    assert np.mean(some.novelty(side.pixels.batch(side.digests[40:])) > 1) < 0.05
    assert some.novelty(apply(strange()["noise"], 1, RECIPE)[None])[0] > 1


def test_images_that_are_all_alike_are_no_trouble(tmp_path: Path) -> None:
    records = [samples.record(number) for number in range(30)]
    pixels = PreparedPixels(tmp_path, RECIPE)
    pixels.fill([one.digest for one in records], lambda digest: samples.jpeg(1, 96, 96))
    found = limits.familiarity(pixels, records[:25], records[25:])
    assert found and np.isfinite(found.novelty(pixels.batch([records[0].digest]))).all() and found.limit > 0
    one_lesion = [replace(one, labels=replace(one.labels, lesion_id="L")) for one in records]
    again = limits.familiarity(pixels, one_lesion[:25], one_lesion[25:])
    assert again and again.limit > 0


# Limits by rank


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=400), st.sampled_from([0.01, 0.05, 0.1]))
def test_a_limit_is_exceeded_by_no_more_than_its_share_of_the_values_it_was_set_by(
    values: list[float], share: float
) -> None:
    limit = limits.exceeded_by(np.array(values), share)
    assert np.mean(np.array(values) > limit) <= share and limit >= min(values)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=150), st.floats(1, 10))
def test_larger_values_give_no_smaller_limit(values: list[float], factor: float) -> None:
    found = np.array(values)
    assert limits.exceeded_by(found * factor, 0.01) >= limits.exceeded_by(found, 0.01) * (1 - 1e-9)


@pytest.mark.parametrize("count", [12, 60, 99, 250])
def test_new_values_exceed_a_limit_as_rarely_as_it_says(count: int) -> None:
    drawn = np.random.default_rng(0).lognormal(0, 0.3, (2000, count + 1))
    beyond = [row[-1] > limits.exceeded_by(row[:-1], 0.01) for row in drawn]
    assert np.mean(beyond) < 0.016


def test_a_tenth_of_validation_lies_below_the_least_certainty() -> None:
    top = np.linspace(0.4, 0.98, 59)
    found = limits.least_certainty(np.stack([top, 1 - top], axis=1).max(axis=1)[:, None])
    assert np.sum(np.maximum(top, 1 - top) < found) == 5
    assert limits.least_certainty(np.array([[0.5, 0.5]] * 10)) == 0


def aged(truth: Sequence[float | None], given_ages: Sequence[float]) -> tuple[Answers, list[Record]]:
    records = [samples.record(number, age=age) for number, age in enumerate(truth)]
    nothing = np.zeros((len(truth), 3), np.float32)
    return Answers(np.array(given_ages, np.float32), nothing, nothing), records


def test_nine_of_ten_new_ages_lie_in_their_interval() -> None:
    rng, inside, width = np.random.default_rng(1), [], []
    for _ in range(200):
        answers = rng.uniform(25, 80, 160)
        # Skewed, so that one width for both sides would be wider.
        truth = np.clip(answers + rng.gamma(2, 8, 160) - 12, 1, OLDEST)
        error = limits.age_error(*aged(truth[:110].tolist(), answers[:110].tolist()))
        assert error
        ends = [abstaining(age_error=error).interval(age) for age in answers[110:]]
        inside += [low <= age <= high for (low, high), age in zip(filter(None, ends), truth[110:], strict=True)]
        width.append(error[1] - error[0])
    assert 0.89 <= np.mean(inside) <= 0.925
    assert np.mean(width) < 45


def test_without_enough_known_ages_there_is_no_interval() -> None:
    assert limits.age_error(*aged([None] * 50, [50.0] * 50)) is None
    assert limits.age_error(*aged([0.0] * 50, [50.0] * 50)) is None
    assert limits.age_error(*aged([60.0] * 19 + [None] * 40, [50.0] * 59)) is None
    assert limits.age_error(*aged([60.0] * 20 + [None], [50.0] * 21)) == (10.0, 10.0)
    assert abstaining(age_error=None).interval(50) is None


@pytest.mark.parametrize(("said", "told"), [(-3.2, 0.0), (44.44, 44.4), (131.0, 120.0)])
def test_an_answered_age_lies_where_ages_can(said: float, told: float) -> None:
    answers = Answers(np.array([said]), np.full((1, 3), 1 / 3), np.array([[0.9, 0.1]]))
    quality = Quality(120.0, 80.0, 40.0)
    row = answered(answers, ("nv", "mel"), WITHOUT_LIMITS, quality, None)
    assert row["age"] == told


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(-60, 60), st.floats(0, 60))
def test_an_interval_is_in_order_and_within_what_people_reach(age: float, low: float, width: float) -> None:
    found = abstaining(age_error=(low, low + width)).interval(age)
    assert (found is None) == (not math.isfinite(age))
    assert found is None or 0 <= found[0] <= found[1] <= OLDEST


def test_what_is_usual_is_what_all_but_few_photographs_are() -> None:
    found = limits.usual([Quality(100 + n, 50 + n, 20 + n) for n in range(101)])
    assert found["brightness"] == (101, 199) and found["contrast"] == (51, 149) and found["detail"] == (21, 119)
    assert limits.usual([FINE] * 19) == {}


# What is said


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        (FINE, "good"),
        (Quality(70, 120, 80), "dark"),
        (Quality(230, 120, 80), "bright"),
        (Quality(150, 120, 12), "soft"),
        (Quality(150, 30, 2), "blurred; low contrast"),
        (Quality(150, 4, 0), "blank"),
        (Quality(3, 4, 0), "dark; blank"),
    ],
)
def test_a_note_names_what_is_unusual(quality: Quality, said: str) -> None:
    assert abstaining().note(quality) == said


def test_without_ranges_a_note_names_the_blank_and_the_blurred_alone() -> None:
    bare = abstaining(usual={})
    said = [bare.note(quality) for quality in (Quality(3, 120, 80), Quality(150, 5, 80), Quality(150, 50, 1))]
    assert said == ["good", "blank", "blurred"]


def test_reasons_are_lines_that_say_what_was_seen_and_what_is_needed() -> None:
    found = abstaining(least_certainty=0.52)
    assert found.reasons(FINE, 0.9, SURE) == ()
    assert found.reasons(FINE, None, SURE) == ()
    assert found.reasons(FINE, 2.25, SURE) == ("unlike the images the model was trained on (2.3 times the limit)",)
    assert found.reasons(FINE, 0.9, {"nv": 0.35, "mel": 0.38, "bkl": 0.27}) == (
        "not sure: mel 0.38, nv 0.35; answers below 0.52 are referred",
    )
    assert found.reasons(Quality(150, 4, 0), 1, SURE)[0].startswith("blank: its grey levels span 4 of 255")
    assert found.reasons(Quality(150, 50, 1.2), 1, SURE)[0].startswith("blurred: its detail is 1.2; at least 3")
    assert len(found.reasons(Quality(150, 4, 0), 5, {"mel": 0.4, "nv": 0.3})) == 3


def test_what_is_just_beyond_a_limit_reads_so() -> None:
    found = abstaining(least_certainty=0.52)
    assert found.reasons(FINE, 1.001, SURE) == ("unlike the images the model was trained on (1.1 times the limit)",)
    assert found.reasons(FINE, 1, {"mel": 0.519, "nv": 0.481}) == (
        "not sure: mel 0.519, nv 0.481; answers below 0.520 are referred",
    )
    assert found.reasons(FINE, 1, {"mel": 0.52, "nv": 0.48}) == ()


@settings(max_examples=200)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=9),
    st.none() | st.floats(allow_nan=True, allow_infinity=True),
    st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 3),
)
def test_odd_numbers_are_referred_and_never_break_anything(
    probabilities: list[float], novelty: float | None, figures: tuple[float, float, float]
) -> None:
    quality, found = Quality(*figures), abstaining()
    said = found.reasons(quality, novelty, {str(place): value for place, value in enumerate(probabilities)})
    assert all(isinstance(line, str) and line and "\n" not in line for line in said)
    odd = [novelty or 0.0, quality.contrast, quality.detail, *(probabilities or [math.nan])]
    assert said or not any(map(math.isnan, odd))
    assert found.note(quality)


@given(st.floats(0, 5), st.floats(0, 5), st.floats(0.2, 1), st.floats(0.2, 1))
def test_more_unlike_or_less_sure_is_never_referred_less(near: float, far: float, less: float, more: float) -> None:
    near, far, less, more = min(near, far), max(near, far), min(less, more), max(less, more)
    found = abstaining()
    easy = found.reasons(FINE, near, {"mel": more, "nv": 0.1})
    assert len(found.reasons(FINE, far, {"mel": less, "nv": 0.1})) >= len(easy)


# With the model


def test_limits_survive_their_file(known: Familiarity, tmp_path: Path) -> None:
    for number, one in enumerate((abstaining(familiarity=known), Abstention(None, 0.0, None, {}))):
        path = tmp_path / f"{number}.json"
        one.write(path)
        again, image = load(path), prepare(lesions(1)[0], RECIPE)
        assert (again.least_certainty, again.age_error, again.usual) == (one.least_certainty, one.age_error, one.usual)
        assert again.novelty(image) == one.novelty(image)
        assert "NaN" not in path.read_text()
    assert (tmp_path / "0.json").stat().st_size < 20_000


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"familiarity": 3, "age_error": null}', "null"])
def test_limits_that_cannot_be_read_are_a_fault_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / serving.FILE).write_text(text)
    with pytest.raises(DermaNetError) as caught:
        load(tmp_path / serving.FILE)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


def test_every_model_brings_its_limits_and_they_fit_its_images(trained: Installation) -> None:
    import mlflow

    mlflow.set_tracking_uri(trained.tracking_uri)
    found, chosen = load(model_files("models:/dermanet/1") / serving.FILE), recipe("dermanet@32")
    own = [prepare(data, chosen) for data in lesions(30, seed=3)]
    novelties = [found.novelty(image) for image in own]
    assert np.mean([novelty is not None and novelty <= 1 for novelty in novelties]) > 0.9
    assert (found.novelty(apply(strange()["noise"], 1, chosen)) or 0) > 1
    blank = imagequality.measure(imagefile.decode(samples.png(strange()["white"])))
    assert found.reasons(blank, found.novelty(apply(strange()["white"], 1, chosen)), SURE)[0].startswith("blank")


def test_abstaining_needs_neither_tensorflow_nor_scikit_learn() -> None:
    script = (
        "import sys, dermanet.serving.abstention; print({'tensorflow', 'keras', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
