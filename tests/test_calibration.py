"""Probabilities against what happened: bins and their error as scikit-learn has them, and by hand; the pictures of an evaluation."""

from typing import Any

import numpy as np
import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve

from dermanet.judging import calibration, metrics, plots
from dermanet.judging.report import pictures
from dermanet.records import SEXES, Answers, Record

CODES = samples.CODES


def said(confidences: list[float], width: int = 4) -> NDArray[np.float64]:
    """Probabilities (n, width) whose first answer has the given probability, and the rest what is left, evenly."""
    found = np.repeat((1 - np.array(confidences))[:, None] / (width - 1), width, axis=1)
    found[:, 0] = confidences
    return found


def test_the_calibration_error_by_hand() -> None:
    """Four answers with 0.9, three of them right; two with 0.5, one right: 4/6 of 0.15 and nothing of the others."""
    bins = calibration.binned(said([0.9] * 4 + [0.5] * 2), np.array([0, 0, 0, 1, 0, 2]))
    assert bins.count.tolist() == [2, 4]
    assert bins.confidence == pytest.approx([0.5, 0.9]) and bins.accuracy == pytest.approx([0.5, 0.75])
    assert calibration.expected_error(bins) == pytest.approx(4 / 6 * 0.15)


def test_an_answer_on_a_bound_lies_in_the_lower_bin_and_certainty_in_the_last() -> None:
    bound = float(np.linspace(0, 1, calibration.BINS + 1)[9])
    bins = calibration.binned(said([bound - 0.01, bound, bound + 1e-6, 1.0]), np.zeros(4, int))
    assert bins.count.tolist() == [2, 1, 1]
    assert calibration.binned(said([1.0] * 3), np.zeros(3, int)).count.tolist() == [3]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0.51, 1), st.booleans()), min_size=1))
def test_any_bins_are_those_of_scikit_learn(drawn: list[tuple[float, bool]]) -> None:
    confidence, right = (list(column) for column in zip(*drawn, strict=True))
    found = calibration.binned(said(confidence), np.array([0 if hit else 1 for hit in right]))
    shares, means = calibration_curve(right, confidence, n_bins=calibration.BINS, strategy="uniform")
    assert found.accuracy == pytest.approx(shares) and found.confidence == pytest.approx(means)
    assert found.count.sum() == len(drawn) and 0 <= calibration.expected_error(found) <= 1


@pytest.mark.parametrize("width", [2, 3, 7])
def test_a_reader_who_is_sure_and_right_has_no_error_and_one_who_is_sure_and_wrong_has_all(width: int) -> None:
    truth = np.arange(20) % width
    right, wrong = (np.eye(width, dtype=np.float32)[(truth + shift) % width] for shift in (0, 1))
    assert metrics.probability_figures("x", right, truth) == pytest.approx({"x_ece": 0, "x_brier": 0, "x_log_loss": 0})
    found = metrics.probability_figures("x", wrong, truth)
    assert (found["x_ece"], found["x_brier"]) == (1, 2) and 36 < found["x_log_loss"] < 36.1


def test_the_brier_score_and_the_log_loss_by_hand() -> None:
    found = metrics.probability_figures("x", np.array([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]), np.array([0, 1]))
    assert found["x_brier"] == pytest.approx((0.09 + 0.04 + 0.01 + 0.25 + 0.5625 + 0.0625) / 2)
    assert found["x_log_loss"] == pytest.approx(-(np.log(0.7) + np.log(0.25)) / 2)


def evaluated(count: int, ages: bool = True) -> tuple[list[Record], Answers]:
    """`count` images, two a lesion, and what a reader with some luck answers."""
    chance = np.random.default_rng(count)
    records = [
        samples.record(n, lesion_id=f"L{n // 2}", age=5.0 * int(chance.integers(2, 18)) if ages else None)
        for n in range(count)
    ]
    odds = chance.dirichlet(np.ones(len(CODES)), count).astype(np.float32)
    sexes = chance.dirichlet(np.ones(len(SEXES)), count).astype(np.float32)
    return records, Answers(chance.normal(50, 12, count).astype(np.float32), sexes, odds)


def texts(figure: Figure) -> list[str]:
    """All that is written on a picture."""
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_every_picture_says_on_how_much_it_stands() -> None:
    records, answers = evaluated(60)
    drawn = pictures(records, answers, CODES, {"age_mae": (9.5, 15.25)})
    assert set(drawn) == {
        "confusion_matrix.png",
        "reliability_sex.png",
        "reliability_diagnosis.png",
        "age_scatter.png",
        "roc.png",
    }
    for figure in drawn.values():
        assert any("60 images of 30 lesions" in text for text in texts(figure))
    error = metrics.figures(records, answers, CODES)["age_mae"]
    assert any(
        f"mean absolute error {error:.1f} years (95 % CI 9.5 to 15.2)" in t for t in texts(drawn["age_scatter.png"])
    )
    written = texts(drawn["reliability_diagnosis.png"])
    figures = metrics.figures(records, answers, CODES)
    assert any(f"{figures['diagnosis_ece']:.3f}, Brier score {figures['diagnosis_brier']:.3f}" in t for t in written)


def test_pictures_that_a_holdout_cannot_give_are_left_out() -> None:
    ageless, answers = evaluated(6, ages=False)
    assert "age_scatter.png" not in pictures(ageless, answers, CODES, {})
    nothing = Answers(*(np.zeros((0, *rest), np.float32) for rest in ((), (3,), (7,))))
    assert set(pictures([], nothing, CODES, {})) == {"confusion_matrix.png"}


def bars(figure: Figure) -> list[Any]:
    """The heights of the bars in the lower panel of a reliability picture."""
    return [patch.get_height() for patch in figure.axes[1].patches]


def test_a_reliability_picture_has_a_bar_for_every_bin_and_intervals_inside_the_frame() -> None:
    bins = calibration.binned(said([0.3] * 2 + [0.9] * 4 + [1.0]), np.array([1, 1, 0, 0, 0, 1, 0]))
    figure = plots.reliability("sex", bins, "7 images of 7 lesions", 0.5)
    assert bars(figure) == [2, 4, 1]
    (segments,) = [lines.get_segments() for lines in figure.axes[0].collections]
    assert all(0 <= low <= high <= 1 for (_, low), (_, high) in segments)


def test_a_scatter_keeps_every_answer_inside_the_frame_and_moves_no_point_by_more_than_two_years() -> None:
    true, answered = [20.0, 50.0, 85.0] * 5, [25.0, 140.0, 0.0] * 5
    axes = plots.age_scatter(true, answered, "15 images", None).axes[0]
    points = axes.collections[0].get_offsets()
    assert points[:, 1].tolist() == answered and np.abs(points[:, 0] - true).max() < 2
    assert axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 140 and "95 %" not in axes.get_title(loc="left")
