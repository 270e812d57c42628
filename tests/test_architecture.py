"""The rooms: who may import whom, read from the source; and what importing the stages does not bring along."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dermanet

PACKAGE = Path(dermanet.__file__).parent
ROOT = PACKAGE.parent
WORDS = {
    "taxonomy", "errors", "records", "settings", "experiment", "storage", "transfer", "imagefile", "imagekind",
    "imagequality", "yamlfile", "yamlentries", "distances", "contactsheet", "webpage", "svgplots", "split", "revision",
    "memory", "figures", "hold",
}  # fmt: skip
ROOMS = {
    "database", "intake", "ledger", "validating", "pixels", "judging", "registry", "learning", "searching", "monitoring",
    "serving", "backup",
}  # fmt: skip
MAY = {
    **dict.fromkeys(WORDS, WORDS),
    "database": WORDS,
    "intake": WORDS | {"database"},
    "ledger": WORDS | {"database"},
    "monitoring": WORDS | {"database"},
    "backup": WORDS,
    "pixels": WORDS,
    "validating": WORDS,
    "judging": WORDS,
    "registry": WORDS,
    "searching": WORDS,
    "learning": WORDS | {"pixels"},
    "serving": WORDS | {"pixels", "registry", "monitoring"},
    "stages": WORDS | ROOMS,
    "cli": {"stages", "settings", "errors"},
    "runnotes": {"stages", "errors", "deadlines"},
    "deadlines": set(),
    "retries": set(),
    "doctor": WORDS | {"stages"},
    "embedded": WORDS | {"stages"},
    "__main__": {"cli"},
    "__init__": set(),
}
LAZILY = {"cli": {"serving.server", "doctor"}}
"""What may be imported besides, inside a function alone. The command line also starts all of `embedded`."""

HEAVY = {
    "tensorflow", "keras", "mlflow", "cv2", "pandas", "sklearn", "boto3", "sqlalchemy", "numpy", "onnxruntime", "matplotlib",
    "airflow", "pandera", "scipy", "jinja2", "optuna",
}  # fmt: skip
DAGS = sorted((ROOT / "dags").rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    """Every module of the package that a piece of source imports, by its dotted name without the package's."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {_target(node.module or "", alias.name) for alias in node.names}
    return {name.removeprefix("dermanet.") for name in found if name.startswith("dermanet.")}


def _target(module: str, name: str) -> str:
    # `from dermanet.pixels import preprocess` means a module, `from dermanet.errors import BadInput` what one holds.
    path = ROOT / Path(*f"{module}.{name}".split("."))
    return f"{module}.{name}" if path.with_suffix(".py").exists() or (path / "__init__.py").exists() else module


def at_the_top(tree: ast.Module) -> ast.Module:
    """The source without the bodies of its functions: what an import of the module runs."""
    return ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)], [])


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_module_belongs_to_a_room_with_a_rule() -> None:
    assert {room(path) for path in sources()} <= set(MAY)


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_what_lies_below_it(path: Path) -> None:
    tree, own = ast.parse(path.read_text()), room(path)
    allowed = MAY[own] | {own}
    beyond = {name for name in imported(tree) if name.partition(".")[0] not in allowed}
    if own == "cli":
        beyond = {name for name in beyond if name not in LAZILY[own] and name.partition(".")[0] != "embedded"}
    assert not beyond


def test_the_command_line_starts_applications_only_inside_its_commands() -> None:
    trees = [ast.parse(path.read_text()) for path in (PACKAGE / "cli").glob("*.py")]
    at_once = {name for tree in trees for name in imported(at_the_top(tree)) if not name.startswith("cli")}
    assert at_once <= {"stages", "settings", "errors"}
    assert any("serving.server" in imported(tree) for tree in trees)


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.name)
def test_a_dag_knows_the_stages_and_airflow_alone(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert imported(tree) <= {"stages", "settings", "deadlines", "retries"}
    others = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert others <= {"dermanet", "airflow", *sys.stdlib_module_names}


def test_the_import_rules_would_notice() -> None:
    source = "from dermanet.pixels import preprocess\ndef f():\n    from dermanet.registry.versions import Versions\n"
    tree = ast.parse(source)
    assert imported(tree) == {"pixels.preprocess", "registry.versions"}
    assert imported(at_the_top(tree)) == {"pixels.preprocess"}


@pytest.mark.parametrize("module", ["dermanet.stages", "dermanet.cli"])
def test_importing_the_stages_brings_nothing_heavy_along(module: str) -> None:
    script = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def importers(*libraries: str) -> set[tuple[str, str]]:
    """The modules of the package that import one of some libraries, and which."""
    return {
        (path.relative_to(PACKAGE).as_posix(), name.partition(".")[0])
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.partition(".")[0] in libraries
    }


def test_the_package_names_no_backend_of_keras_but_where_processes_join() -> None:
    assert importers("tensorflow", "jax", "torch") == {("learning/distribution.py", "jax")}


def test_keras_is_imported_where_its_start_is_silenced_alone() -> None:
    assert importers("keras") == {("learning/quiet.py", "keras")}


def test_the_scorer_needs_no_tensorflow() -> None:
    script = "import sys, dermanet.serving.network, dermanet.serving.golden; print({'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_no_file_of_the_project_is_a_drawer_for_everything() -> None:
    names = {path.stem for path in sources()}
    assert not names & {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def test_no_library_reports_on_its_use(tmp_path: Path) -> None:
    """ONNX Runtime keeps what it is about to send in the user's cache, unless told otherwise before it is imported."""
    own = {name: value for name, value in os.environ.items() if not name.endswith("_TELEMETRY")}
    script = (
        "import dermanet.serving.network, mlflow.telemetry.utils as t; raise SystemExit(not t.is_telemetry_disabled())"
    )
    done = subprocess.run([sys.executable, "-c", script], env={**own, "HOME": str(tmp_path)}, check=False)
    assert done.returncode == 0
    assert not list(tmp_path.rglob("*onnxruntime*"))
