"""Documents are held to the code: what exists is named, and what is named exists."""

import dataclasses
import re
import runpy
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
import typer
import yaml

from dermanet import cli, experiment, settings, taxonomy
from dermanet.judging import gates
from dermanet.judging.slices import AXES
from dermanet.monitoring import limits as watching
from dermanet.monitoring.drift import Word
from dermanet.pixels.preprocess import RECIPES
from dermanet.validating import limits

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]


def _text(name: str) -> str:
    return (ROOT / name).read_text()


def test_every_setting_is_explained() -> None:
    page = _text("docs/settings.md")
    for field in dataclasses.fields(settings.Settings):
        others = {
            "tracking_uri": "MLFLOW_TRACKING_URI", "dag_run": "AIRFLOW_CTX_DAG_RUN_ID",
            "backend_store": "MLFLOW_BACKEND_STORE_URI", "artifact_store": "MLFLOW_ARTIFACTS_DESTINATION",
            "airflow_logs": "AIRFLOW__LOGGING__BASE_LOG_FOLDER",
        }  # fmt: skip
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


def test_every_word_of_the_limits_of_monitoring_is_explained() -> None:
    page = _text("docs/monitoring.md")
    kinds = (
        watching.Limits,
        watching.Warns,
        watching.Window,
        watching.Asks,
        watching.Distance,
        watching.Change,
        watching.Most,
    )
    assert all(f"`{word}`" in page for kind in kinds for word in kind.model_fields)
    assert all(f"`{mode}`" in page for mode in get_args(watching.Mode))
    assert all(f"*{word}*" in page for word in get_args(Word))
    assert set(watching.FIGURES) <= set(watching.load(settings.MONITORING).drift.model_fields_set)


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
    targets = set(re.findall(r"^([a-z-]+):", _text("Makefile"), re.MULTILINE))
    for page in PAGES:
        for word in re.findall(r"(?:^ +|`)make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert word in targets, f"{page.name}: make {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text()) + re.findall(r'<img src="([^"]+)"', page.read_text())
    for link in links:
        name, _, anchor = link.partition("#")
        if "://" not in link:
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not anchor or anchor in _anchors(target.read_text()), link


def _anchors(text: str) -> set[str]:
    """How GitHub names the headings of a page, in links to them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"(?m)^    .*$", "", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_picture_says_what_it_shows_and_is_small() -> None:
    texts = [page.read_text() for page in PAGES]
    shown = {found for text in texts for found in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text)}
    shown |= {(alt, link) for text in texts for link, alt in re.findall(r'<img src="([^"]+)".*? alt="([^"]*)"', text)}
    kept = [path for path in (ROOT / "docs" / "pictures").iterdir() if path.suffix in (".png", ".jpg", ".svg")]
    assert {Path(link).name for _, link in shown} == {path.name for path in kept}
    assert all(len(alt) > 20 for alt, _ in shown)
    assert all(path.stat().st_size < 200_000 for path in kept)


@pytest.mark.parametrize("name", ["way", "stack"])
def test_drawings_are_as_they_are_drawn_in_light_and_dark_and_ask_nobody(name: str) -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "pictures" / "draw.py"))[name]()
    assert drawing == _text(f"docs/pictures/{name}.svg"), "draw them anew: python docs/pictures/draw.py"
    ElementTree.fromstring(drawing)
    assert "prefers-color-scheme: dark" in drawing
    assert not re.search(r"href|url\((?!#)|@import|http(?!://www\.w3\.org/2000/svg)", drawing)


def test_the_drawing_of_the_stack_shows_every_service_that_stays() -> None:
    services = yaml.safe_load(_text("docker-compose.yml"))["services"]
    drawn = _text("docs/pictures/stack.svg").lower()
    words = {"airflow-api-server": "airflow&#x27;s api", "airflow-dag-processor": "dag processor"}
    for name, service in services.items():
        if service["restart"] != "no":
            assert words.get(name, name.removeprefix("airflow-")) in drawn, name


def test_every_dag_is_in_the_operations_page() -> None:
    page = _text("docs/operations.md")
    for path in (ROOT / "dags").glob("*.py"):
        assert f"`{path.stem}`" in page


def test_every_decision_says_its_status_and_none_is_missing() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in pages] == list(range(1, len(pages) + 1))
    for number, path in enumerate(pages, 1):
        assert path.read_text().startswith(f"# {number}. ")
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
        "dermanet/monitoring/report.html",
    ):
        assert "not a medical device" in _text(name)


def test_the_lock_holds_every_requirement_with_hashes_and_no_address() -> None:
    for name in (
        "requirements.lock",
        "requirements-jax.lock",
        "requirements-spark.lock",
        "requirements-kubernetes.lock",
        "bootstrap.lock",
    ):
        text = _text(name)
        assert "http" not in re.sub(r"(?m)^ *(# via|[a-z0-9._-]+==).*$|#   .*$|httpx?[a-z0-9-]*", "", text)
        pins = re.findall(r"(?m)^[a-zA-Z0-9._\[\]-]+==[^\n]*\n(?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text)
        assert len(pins) == len(re.findall(r"(?m)^[a-zA-Z0-9._\[\]-]+==", text))
