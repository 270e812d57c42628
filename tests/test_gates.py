"""The gates file: read whole, and refused in one line that names the line which is wrong and what is allowed there."""

from pathlib import Path

import numpy as np
import pytest
import samples

from dermanet import settings, taxonomy
from dermanet.errors import BadInput
from dermanet.judging import gates, metrics
from dermanet.judging.evaluation import Answered, evaluated
from dermanet.judging.gates import Change, Gates, Limit, SliceLimits
from dermanet.judging.mistakes import malignant_codes
from dermanet.judging.slices import AXES, Look, Slice, slices
from dermanet.judging.verdict import Verdict, judge
from dermanet.records import SEXES, Answers, Record

CODES = taxonomy.load().codes
MALIGNANT = malignant_codes(taxonomy.load())
WHOLE = """
mode: dry run
minimum_support: {images: 100, diagnosis_mel: 20}
checks:
  age_mae: {greater_is_better: false, threshold: 13}
  diagnosis_recall_mel:
    greater_is_better: true
    threshold: 0.4
    judged_by: worse end
    minimum_support: {diagnosis_mel: 30}
    too_few: not judged
    baseline: {min_absolute_change: 0.3}
    champion: {min_absolute_change: -0.05, judged_by: worse end}
slices:
  - axis: sex
    values: [female, male]
    minimum_support: {lesions: 40}
    checks:
      diagnosis_accuracy: {greater_is_better: true, threshold: 0.5}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "gates.yaml"
    path.write_text(text)
    return path


def test_every_word_of_a_file_arrives(tmp_path: Path) -> None:
    accuracy = Limit(greater_is_better=True, threshold=0.5)
    assert gates.load(written(tmp_path, WHOLE), CODES) == Gates(
        mode="dry run",
        minimum_support={"images": 100, "diagnosis_mel": 20},
        checks={
            "age_mae": Limit(greater_is_better=False, threshold=13.0),
            "diagnosis_recall_mel": Limit(
                greater_is_better=True, threshold=0.4, judged_by="worse end", minimum_support={"diagnosis_mel": 30},
                too_few="not judged",
                baseline=Change(min_absolute_change=0.3),
                champion=Change(min_absolute_change=-0.05, judged_by="worse end"),
            ),
        },
        slices=(
            SliceLimits(
                axis="sex", values=("female", "male"), minimum_support={"lesions": 40},
                checks={"diagnosis_accuracy": accuracy},
            ),
        ),
    )  # fmt: skip


def test_the_reviewed_gates_hold_every_head_to_a_limit_a_baseline_and_the_champion() -> None:
    found = gates.load(settings.GATES, CODES)
    assert found.mode == "enforce"
    for metric in ("age_mae", "sex_accuracy", "diagnosis_accuracy", "diagnosis_f1_weighted", "diagnosis_f1_macro"):
        limit = found.checks[metric]
        assert limit.threshold is not None and limit.baseline and limit.champion
    assert {code for code in MALIGNANT if found.checks[f"diagnosis_recall_{code}"].champion} == set(MALIGNANT)


PARTS = {
    "age": "60 to 74", "sex": "female", "site": "back", "clinic": "clinic 1", "confirmation": "follow_up",
    "quality": "least sharp third", "skin tone": "light",
}  # fmt: skip


def holdout(count: int = 300) -> tuple[list[Record], dict[str, Look], Answers]:
    """Images of which each axis has two or more slices, the same mix in each, and answers that are right of four in five."""
    rng = np.random.default_rng(3)
    truth, sexes = rng.integers(0, len(CODES), count), rng.integers(0, 2, count)
    records = [
        samples.record(
            n, diagnosis=CODES[truth[n]], sex=SEXES[sexes[n]], age=float(rng.choice([35, 65])),
            localization=str(rng.choice(["back", "face"])), clinic=f"clinic {rng.integers(2)}",
            confirmation=str(rng.choice(["histo", "follow_up"])),
        )
        for n in range(count)
    ]  # fmt: skip
    looks: dict[str, Look] = {
        one.digest: {"detail": float(rng.random()), "ita": float(rng.choice([50, 60]))} for one in records
    }
    said = np.where(rng.random(count) < 0.8, truth, (truth + 1) % len(CODES))
    ages = np.array([one.labels.age for one in records], np.float32) + rng.normal(0, 5, count).astype(np.float32)
    return records, looks, Answers(ages, np.eye(3, dtype=np.float32)[sexes], np.eye(7, dtype=np.float32)[said])


def against(candidate: Answers, champion: Answers | None, parts: list[Slice]) -> Verdict:
    """The reviewed gates' verdict on that holdout."""
    records, _, _ = holdout()
    answered = Answered(candidate, metrics.trivial_answers(records, len(records), CODES), champion)
    return judge(gates.load(settings.GATES, CODES), evaluated(records, answered, taxonomy.load(), parts, draws=200))


@pytest.mark.parametrize("axis", [*AXES, ""])
def test_by_the_reviewed_gates_no_slice_of_any_axis_pays_for_the_others(axis: str) -> None:
    """A candidate that is the champion, but of half the images of one slice says another diagnosis, sex and age."""
    records, looks, champion = holdout()
    parts = [one for one in slices(records, looks) if (one.axis, one.value) == (axis, PARTS.get(axis))]
    spoilt = np.zeros(len(records), bool)
    for part in parts:
        spoilt |= part.rows & (np.random.default_rng(4).random(len(records)) < 0.5)
    candidate = Answers(
        np.where(spoilt, champion.age + 20, champion.age).astype(np.float32),
        np.where(spoilt[:, None], np.roll(champion.sex, 1, axis=1), champion.sex),
        np.where(spoilt[:, None], np.roll(champion.diagnosis, 2, axis=1), champion.diagnosis),
    )
    verdict = against(candidate, champion, parts)
    failed = {check.metric for check in verdict.checks if check.outcome == "fail" and check.slice}
    assert failed == ({"diagnosis_accuracy", "sex_accuracy", "age_mae"} if axis else set())
    assert verdict.word == ("fail" if axis else "pass")


def test_a_named_slice_is_judged_though_all_images_are_in_it_or_twelve_others_are_larger() -> None:
    sites = [*(f"site {n % 12}" for n in range(120)), *["scalp"] * 8]
    records = [samples.record(n, diagnosis="nv", clinic="A", localization=site) for n, site in enumerate(sites)]
    accuracy = {"diagnosis_accuracy": Limit(greater_is_better=True, threshold=0.5)}
    wanted = (("clinic", "A"), ("site", "scalp"))
    limits = Gates(
        checks=accuracy,
        slices=tuple(SliceLimits(axis=axis, values=(value,), checks=accuracy) for axis, value in wanted),
    )
    assert limits.named == set(wanted)
    answers = metrics.trivial_answers(records, len(records), CODES)
    parts = slices(records, {}, limits.named)
    verdict = judge(limits, evaluated(records, Answered(answers, answers), taxonomy.load(), parts, draws=10))
    sliced = [(check.slice, check.outcome, check.n) for check in verdict.checks if check.slice]
    assert verdict.word == "pass" and sliced == [("clinic: A", "pass", 128), ("site: scalp", "pass", 8)]


def test_by_the_reviewed_gates_a_first_version_is_not_blind_in_a_slice_either() -> None:
    records, looks, good = holdout()
    (men,) = (one for one in slices(records, looks) if one.value == "male")
    blind = Answers(good.age, good.sex, np.where(men.rows[:, None], np.roll(good.diagnosis, 2, axis=1), good.diagnosis))
    assert against(good, None, [men]).word == "pass"
    failed = [check for check in against(blind, None, [men]).checks if check.outcome == "fail" and check.slice]
    assert [(check.metric, check.kind) for check in failed] == [("diagnosis_accuracy", "threshold")]


@pytest.mark.parametrize("path", sorted(settings.GATES.parent.glob("gates*.yaml")), ids=lambda path: path.name)
def test_every_gates_file_of_the_package_is_in_order(path: Path) -> None:
    assert gates.load(path, CODES).minimum_support["images"] >= 100


def test_entries_may_share_what_they_have_in_common(tmp_path: Path) -> None:
    text = (
        "checks:\n  sex_auc: &up {greater_is_better: true, threshold: 0.5}\n  sex_accuracy: {<<: *up, threshold: 0.4}\n"
    )
    assert gates.load(written(tmp_path, text)).checks["sex_accuracy"].threshold == 0.4
    with pytest.raises(BadInput, match=r"line 3: checks\.sex_accuracy\.threshold is 'x'"):
        gates.load(written(tmp_path, text.replace("0.4", "x")))


def test_a_bare_off_is_a_mode_and_needs_no_checks(tmp_path: Path) -> None:
    assert gates.load(written(tmp_path, "mode: off\nchecks: {}")).mode == "off"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "needed are entries by name"), ("- a", 1, "needed are entries by name"),
        ("mode: enforce", 1, "checks is missing"),
        ("checks:", 1, "checks is None"), ("checks: {}", 1, "checks is empty"),
        ("checks: [age_mae]", 1, "checks is ['age_mae']; entries by name are needed"),
        ("mode: strict\nchecks: {sex_auc: {UP, threshold: 1}}", 1, "mode is 'strict'"),
        ("checks:\n  sex_auc: 3", 2, "sex_auc is 3"),
        ("checks:\n  sex_auc:\n    threshold: 3", 2, "greater_is_better is missing"),
        ("checks:\n  sex_auc: {greater_is_better: yes please, threshold: 3}", 2, "greater_is_better is 'yes please'"),
        ("checks:\n  age_mae:\n    threshold: 3\n    greater_is_better: true", 4, "the wrong way round; it is false"),
        ("checks:\n  sex_auc:\n    threshold: 3\n    greater_is_better: false", 4, "the wrong way round; it is true"),
        ("checks:\n  sex_auc: {UP}", 2, "sex_auc has no limit"),
        ("checks:\n  sex_acc: {UP, threshold: 1}", 2, "sex_acc is no metric"),
        ("checks:\n  diagnosis_recall_acne: {UP, threshold: 1}", 2, "diagnoses are akiec, bcc"),
        ("checks:\n  sex_auc:\n    greater_is_better: true\n    treshold: 3", 4, "treshold is no word of the gates; allowed are"),
        ("checks:\n  sex_auc:\n    greater_is_better: true\n    threshold: high", 4, "threshold is 'high'"),
        ("checks: {sex_auc: {UP, threshold: true}}", 1, "threshold is True"),
        ("checks: {sex_auc: {UP, threshold: .nan}}", 1, "threshold is nan"),
        ("checks: {sex_auc: {UP, threshold: -.inf}}", 1, "threshold is -inf"),
        ("checks: {sex_auc: {UP, threshold: 1, judged_by: luck}}", 1, "judged_by is 'luck'; input should be 'figure', 'worse end' or"),
        ("checks: {sex_auc: {UP, champion: 0.1}}", 1, "champion is 0.1; needed are entries by name"),
        ("checks:\n  sex_auc:\n    greater_is_better: true\n    baseline:\n      min_change: 1", 5, "baseline.min_change is no word"),
        ("checks: {sex_auc: {UP, baseline: {min_absolute_change: x}}}", 1, "baseline.min_absolute_change is 'x'"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nminimum_suport: {images: 3}", 2, "minimum_suport is no word"),
        ("checks: {sex_auc: {UP, threshold: 1}}\n1: 2", 2, "1 is no word of the gates"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nminimum_support: 3", 2, "minimum_support is 3"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nminimum_support: {images: -1}", 2, "minimum_support.images is -1"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nminimum_support: {images: true}", 2, "minimum_support.images is True"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nminimum_support: {images: 1.5}", 2, "minimum_support.images is 1.5"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nminimum_support:\n  pictures: 1", 3, "pictures is nothing that is counted"),
        ("checks: {sex_auc: {UP, threshold: 1, minimum_support: {diagnosis_acne: 1}}}", 1, "diagnosis_acne is nothing that"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nslices:\n  - axis: sex", 3, "slices.0.checks is missing"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nslices:\n  - axis: hair\n    checks: {}", 3, "slices.0.axis is 'hair'"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nslices:\n  - axis: sex\n    checks:\n      age: {UP}", 5, "age is no metric"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nslices:\n  sex: 1", 2, "slices is {'sex': 1}; a list is needed"),
        ("mode: off\nchecks: {}\nslices:\n  - axis: site\n    values: back\n    checks: {}", 5, "'back'; a list is needed"),
        ("mode: off\nchecks: {}\nslices:\n  - axis: site\n    values: [back, unknown]\n    checks: {}", 5, "'unknown'; what rows"),
        ("mode: off\nchecks: {}\nslices:\n  - axis: clinic\n    values: ['']\n    checks: {}", 5, "is 'not recorded'"),
        ("mode: off\nchecks: {}\nslices:\n  - axis: sex\n    values: [unknown]\n    checks: {}", 5, "is 'not recorded'"),
        ("checks:\n  sex_auc:\n    greater_is_better: true\n    champion:\n      min_absolute_change: -5", 5, "no two are further"),
        ("checks: {sex_auc: {UP, baseline: {min_absolute_change: 2}}}", 1, "min_absolute_change is 2, and sex_auc is 0 to 1"),
        (
            "checks:\n  sex_auc:\n    greater_is_better: true\n    judged_by: worse end\n    champion: {min_absolute_change: 0}", 4,
            "judged_by is of the threshold, and there is none; put it under baseline or champion",
        ),
        ("checks: &it {sex_auc: *it}", 1, "checks.sex_auc"),
        ("promotion: ask\nchecks: {sex_auc: {UP, threshold: 1}}", 1, "promotion is 'ask'; input should be 'automatic' or 'approval'"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nholdout_wear: {warn_after: 0}", 2, "holdout_wear.warn_after is 0"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nholdout_wear: {warn_after: 60}", 2, "warns after 60 verdicts and refuses after 52"),
        ("checks:\n  sex_auc:\n    greater_is_better: true\n    threshold: 50", 4, "threshold is 50, and sex_auc is 0 to 1"),
        ("checks: {age_mae: {greater_is_better: false, threshold: -1}}", 1, "threshold is -1, and age_mae is 0 or more"),
        ("checks: {sex_ece: {greater_is_better: false, threshold: 1, judged_by: worse end}}", 1, "sex_ece has no interval here"),
        ("checks: {sex_ece: {greater_is_better: false, champion: {min_absolute_change: 0, judged_by: better end}}}", 1, "no interval"),
        ("checks: {sex_auc: {UP, threshold: 1}}\nslices:\n  - axis: sex\n    checks: {}", 4, "checks is empty"),
        (
            "checks: {sex_auc: {UP, threshold: 1}}\nslices:\n  - axis: sex\n    values:\n      - female\n      - mal\n"
            "    checks: {sex_f1: {UP, threshold: 1}}", 6, "sex has no slice 'mal'; there are female, male",
        ),
        (
            "checks: {sex_auc: {UP, threshold: 1}}\nslices:\n  - axis: site\n    values: [wherever]\n    checks:\n"
            "      diagnosis_auc_mel: {UP, threshold: 1, judged_by: worse end}", 6, "diagnosis_auc_mel has no interval here",
        ),
        ("checks: {diagnosis_sensitivity_nv_at_90: {UP, threshold: 0.3}}", 1, "nv is benign; diagnosis_recall_nv is one"),
        ("checks: {a: {", None, "not YAML"), ("checks: {}\nchecks: {}", None, "line 2: 'checks' stands in line 1 already"),
    ],
)  # fmt: skip
def test_a_wrong_gates_file_is_refused_in_one_line_with_its_line(
    tmp_path: Path, text: str, line: int | None, said: str
) -> None:
    path = written(tmp_path, text.replace("UP", "greater_is_better: true"))
    with pytest.raises(BadInput) as caught:
        gates.load(path, CODES, MALIGNANT)
    message = str(caught.value)
    assert said in message and "\n" not in message
    assert message.startswith(f"gates {path}, line {line}: " if line else f"gates {path}: ")


def test_a_check_of_the_default_list_may_stand_beside_another_list(tmp_path: Path) -> None:
    text = "checks: {diagnosis_recall_CODE: {greater_is_better: true, threshold: 0.1}}"
    for code in ("acne", "mel"):
        gates.load(written(tmp_path, text.replace("CODE", code)), ("acne", "psoriasis"))
    with pytest.raises(BadInput, match="diagnoses are acne, akiec, bcc, bkl, df, mel, nv, psoriasis, vasc"):
        gates.load(written(tmp_path, text.replace("CODE", "eczema")), ("acne", "psoriasis"))


def test_a_gates_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="set DERMANET_GATES"):
        gates.load(tmp_path / "none.yaml")
    with pytest.raises(BadInput, match="set DERMANET_GATES"):
        gates.load(tmp_path)
    (tmp_path / "gates.yaml").write_bytes(b"# gr\xfcn\nchecks: {a: 1}")
    with pytest.raises(BadInput, match="not YAML"):
        gates.load(tmp_path / "gates.yaml")
