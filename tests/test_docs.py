"""Documents are held to the code: what exists is named, and what is named exists."""

import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest
import typer

from dermanet import cli, experiment, settings, taxonomy
from dermanet.judging import gates
from dermanet.judging.slices import AXES
from dermanet.pixels.preprocess import RECIPES
from dermanet.validating import limits

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]


def _text(name: str) -> str:
    return (ROOT / name).read_text()


def test_every_setting_is_explained() -> None:
    page = _text("docs/settings.md")
    for field in dataclasses.fields(settings.Settings):
        others = {"tracking_uri": "MLFLOW_TRACKING_URI", "dag_run": "AIRFLOW_CTX_DAG_RUN_ID"}
        name = others.get(field.name, f"DERMANET_{field.name.upper()}")
        assert f"`{name}`" in page


def test_no_setting_is_explained_that_nothing_reads() -> None:
    code = "".join(path.read_text() for path in (ROOT / "dermanet").rglob("*.py"))
    fields = {f"DERMANET_{field.name.upper()}" for field in dataclasses.fields(settings.Settings)}
    for name in set(re.findall(r"DERMANET_[A-Z]+", "".join(page.read_text() for page in PAGES))):
        assert name in fields or name in code, name


def test_every_experiment_field_and_recipe_is_explained() -> None:
    page = _text("docs/settings.md")
    for field in dataclasses.fields(experiment.Experiment):
        assert f"`{field.name}`" in page or field.name == "name"
    for name in (*experiment.EXPERIMENTS, *RECIPES):
        assert f"`{name}`" in page


def test_every_gate_file_loads_and_names_known_metrics() -> None:
    page = _text("docs/gates.md")
    for path in (settings.GATES, settings.DEMO_GATES):
        for metric in gates.load(path).checks:
            assert f"`{metric}`" in page or metric.rpartition("_")[2] in taxonomy.load().codes
    words = [
        *gates.Gates.model_fields,
        *gates.Limit.model_fields,
        *gates.Change.model_fields,
        *gates.SliceLimits.model_fields,
        *gates.HoldoutWear.model_fields,
    ]
    assert all(f"`{word}`" in page for word in words)
    assert all(
        f"`{word}`" in page
        for word in (*get_args(gates.Mode), *get_args(gates.Promotion), *get_args(gates.JudgedBy), *AXES)
    )


def test_every_figure_and_measure_that_data_are_limited_by_is_explained() -> None:
    page = _text("docs/validation.md")
    for figure, measures in limits.MEASURES.items():
        assert all(f"`{word}`" in page for word in (figure, *measures)), figure
    assert all(f"`{mode}`" in page for mode in limits.MODES)
    assert limits.load(settings.VALIDATION).mode == "enforce"


def test_the_demonstration_is_gated_below_the_ideal_reader() -> None:
    from dermanet.intake.synthetic import IDEAL

    for metric, limit in gates.load(settings.DEMO_GATES).checks.items():
        assert limit.threshold is not None
        better = limit.threshold < IDEAL[metric] if limit.greater_is_better else limit.threshold > IDEAL[metric]
        assert better, f"{metric}: nobody could pass"


def test_every_command_that_a_page_shows_exists() -> None:
    commands = set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    for page in PAGES:
        for word in re.findall(r"^ +dermanet (\w[\w-]*)|`dermanet (\w[\w-]*)", page.read_text(), re.MULTILINE):
            assert set(word) & commands, f"{page.name}: dermanet {word}"


def test_every_make_target_that_a_page_shows_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", _text("Makefile"), re.MULTILINE))
    for page in PAGES:
        for word in re.findall(r"(?:^ +|`)make ([a-z]+)", page.read_text(), re.MULTILINE):
            assert word in targets, f"{page.name}: make {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_every_dag_is_in_the_operations_page() -> None:
    page = _text("docs/operations.md")
    for path in (ROOT / "dags").glob("*.py"):
        assert f"`{path.stem}`" in page


def test_every_decision_says_its_status() -> None:
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert all(f"**{word}**" in path.read_text() for word in ("Status", "Context", "Decision", "Consequences"))


def test_research_use_is_stated_where_people_see_it() -> None:
    for name in (
        "README.md",
        "dermanet/cli/__init__.py",
        "dermanet/serving/app.py",
        "dermanet/serving/page.html",
        "dermanet/serving/scorer.py",
        "dermanet/judging/report.py",
        "dermanet/validating/report.html",
    ):
        assert "not a medical device" in _text(name)


def test_the_lock_holds_every_requirement_with_hashes_and_no_address() -> None:
    for name in ("requirements.lock", "requirements-jax.lock", "requirements-spark.lock", "bootstrap.lock"):
        text = _text(name)
        assert "http" not in re.sub(r"(?m)^ *(# via|[a-z0-9._-]+==).*$|#   .*$|httpx?[a-z0-9-]*", "", text)
        pins = re.findall(r"(?m)^[a-zA-Z0-9._\[\]-]+==[^\n]*\n(?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text)
        assert len(pins) == len(re.findall(r"(?m)^[a-zA-Z0-9._\[\]-]+==", text))
