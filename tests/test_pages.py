"""Every command that the documents show is run: here, word for word but for the names that the reader fills in,
or where pages.yaml says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import samples
import yaml
from commands import Commands
from installation import Installation, photo
from mlflowserver import free_port
from variants import older
from waiting import until

from benchmarks.__main__ import BENCHMARKS
from dermanet import experiment
from dermanet.learning.parts import parts
from dermanet.pixels.preprocess import recipe

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
PROGRAMS = (
    "make", "dermanet", "docker", "curl", "mlflow", "python", "python3", ".venv/bin/python", "git", "uv", "pip", "source", "export",
    "printf", "airflow", "kubectl", "promtool", "sh", "cd",
)  # fmt: skip
ASSIGNED = r"(?:[A-Z_]+=\S+ +)*"
SHELL = re.compile(
    rf"^    ({ASSIGNED}(?:{'|'.join(map(re.escape, PROGRAMS))}) .*|{ASSIGNED}dermanet .*)$", re.MULTILINE
)
NO_SHELL = re.compile(r"^docker/ |^dermanet/")
EXPERIMENT = re.compile(r"(?:-e|--experiment|--base) '?([a-z][a-z0-9]*(?::[\w@.,=+/-]+)?)(?=['\s`])")


def _said(line: str) -> str:
    """A line without what is said about it: after two blanks, or a `#`."""
    return re.split(r"\s{2,}|\s+#\s", line.strip())[0]


def _shown() -> dict[str, set[str]]:
    """Every command in a block of a page, and on which pages it stands."""
    found: dict[str, set[str]] = {}
    for page in PAGES:
        text = page.read_text().replace("\\\n", "") if page.name != "CHANGELOG.md" else ""
        for line in SHELL.findall(text):
            if not NO_SHELL.match(line):
                found.setdefault(_said(line), set()).add(page.name)
    return found


SHOWN = _shown()


@dataclass(frozen=True)
class Story:
    """Commands of the documents, one after another in one home. Each with the status that it must end with.

    `words`: what the reader fills in, as it stands on the page, and what a test fills in; `{name}` is made by the story.
    """

    lines: Mapping[str, int]
    words: Mapping[str, str]


CHAMPION = Story(
    {
        "dermanet predict photo.jpg": 0,
        "dermanet predict FOLDER --out results.csv": 0,
        "dermanet predict clinic/2026 --json": 0,
        "dermanet predict clinic --out results.csv": 0,
        "dermanet predict clinic --out results.jsonl --model models:/dermanet/3": 0,
        "dermanet export 1 DermaNet.h5": 0,
        "dermanet why": 0,
        "dermanet why 4": 0,
        'dermanet promote 4 --because "agreed in the tumour board of 3 May"': 0,
        'dermanet rollback --because "misses melanomas on legs"': 0,
        "dermanet holdout": 0,
        'dermanet holdout --renew --because "worn after a year of retrains" --yes': 2,
        "dermanet validate 3f0c9a7e1b2d4c55": 0,
        "dermanet validate 3f0c9a7e1b2d4c55 --open": 0,
        'dermanet validate 3f0c9a7e1b2d4c55 --accept "the new clinic sends melanomas only"': 0,
        "dermanet monitor": 0,
        "dermanet monitor --open": 0,
        "dermanet monitor --since 2026-11-01 --until 2026-11-14 --days 7 --dry-run": 0,
        "dermanet trials": 0,
        "dermanet cache": 0,
        "dermanet cache --check": 0,
        "dermanet cache --prune": 0,
        "dermanet cache --prune --yes": 0,
        "dermanet upkeep": 0,
        "dermanet upkeep --apply": 0,
        "DERMANET_KEEP_DAYS=30 dermanet upkeep": 0,
        "dermanet backup /backups": 0,
        "dermanet backup /backups --keep 7": 0,
        "dermanet backup /backups --verify": 0,
        "dermanet restore /backups": 2,
        "dermanet restore /backups --replace": 0,
    },
    {
        "FOLDER": "clinic", "models:/dermanet/3": "models:/dermanet/1", "why 4": "why 1", "promote 4": "promote 2",
        "3f0c9a7e1b2d4c55": "{snapshot}", "/backups": "{folder}/backups",
    },
)  # fmt: skip

IMAGES = Story(
    {
        "dermanet ingest NEW_LESIONS": 0,
        "dermanet ingest s3://clinic/inbox/2026-11": 0,
        "dermanet ingest inbox:s3://clinic/inbox": 0,
        'dermanet quarantine list [--reason "unknown sex"]': 0,
        "dermanet quarantine show ID": 0,
        "dermanet quarantine release ID --set sex=male": 0,
        "dermanet quarantine drop ID": 0,
        "dermanet quarantine drop --withdrawn": 0,
        "dermanet groups": 0,
        "dermanet groups sheet LESION": 0,
        "dermanet groups settle LESION": 0,
        "dermanet objects": 0,
        "dermanet objects --check": 0,
        "dermanet objects --prune": 0,
        "dermanet objects --prune --yes": 0,
        "dermanet forget --lesion HAM_0000118": 0,
        "dermanet forget --patient P0042": 0,
    },
    {
        "NEW_LESIONS": "{folder}/HAM10000", "s3://clinic/inbox": "{folder}/inbox", "[": "", "]": "", "drop ID": "drop {other}",
        "ID": "{refused}", "LESION": "HAM_0000001",
    },
)  # fmt: skip

ASKED = (
    "source .venv/bin/activate",
    "export MLFLOW_TRACKING_URI=http://127.0.0.1:5000",
    "curl -s -F image=@photo.jpg http://127.0.0.1:8000/predict",
    "curl -s -F image=@photo.jpg -F image=@other.png http://127.0.0.1:8000/predict",
    """printf '{"dataframe_split": {"columns": ["image"], "data": [["%s"]]}}' "$(base64 < photo.jpg | tr -d '\\n')" > request.json""",
    "curl -s http://127.0.0.1:8000/invocations -H 'Content-Type: application/json' -d @request.json",
)
"""Said in a shell beside a server; the first says where the programs are, which a test knows."""

TABLE: dict[str, dict[str, str]] = yaml.safe_load((ROOT / "tests" / "pages.yaml").read_text())
"""What is run elsewhere, by a target of the Makefile, or not at all, and why."""


def test_every_command_on_a_page_is_run_somewhere() -> None:
    known = {*CHAMPION.lines, *IMAGES.lines, *ASKED, *(line for kind in TABLE.values() for line in kind)}
    unknown = {line: pages for line, pages in SHOWN.items() if line not in known and "-m benchmarks." not in line}
    assert not unknown, "say what runs these: in this module's stories, or in pages.yaml"
    assert not known - SHOWN.keys(), "no page shows these any more"


def test_what_is_said_to_run_a_command_is_there() -> None:
    for where in TABLE["elsewhere"].values():
        file, _, name = where.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), where
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    assert set(TABLE["targets"].values()) <= targets


@pytest.mark.parametrize("line", [line for line in SHOWN if line.startswith("make ")])
def test_make_takes_its_words(line: str) -> None:
    """What it would do: that, and nothing else, is the Makefile's own."""
    quiet = line.replace("make ", f"make --dry-run --directory {ROOT} ", 1)
    done = subprocess.run(["bash", "-c", quiet], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for value in re.findall(r'=("[^"]+"|\S+)', line):
        if value not in ("1",):
            assert os.path.expanduser(value.strip('"').split()[-1]).removeprefix("~/") in done.stdout


@pytest.mark.parametrize("line", [line for line in SHOWN if "-m benchmarks." in line])
def test_a_benchmark_takes_its_words(line: str) -> None:
    """They measure for minutes, most of them on data that are not ours: `make bench` runs those that need none."""
    (module,) = re.findall(r"-m benchmarks\.(\w+)", line)
    source = (ROOT / "benchmarks" / f"{module}.py").read_text()
    assert all(f'"{option}"' in source for option in re.findall(r" (--[\w-]+)", line))


@pytest.mark.parametrize("text", sorted({one for page in PAGES for one in EXPERIMENT.findall(page.read_text())}))
def test_every_experiment_on_a_page_is_one_that_there_is(text: str) -> None:
    chosen = experiment.named(text)
    assert recipe(chosen.recipe) and parts(chosen.backbones)


@pytest.mark.parametrize("words", BENCHMARKS)
def test_what_make_bench_measures_is_there(words: str) -> None:
    module, *options = words.split()
    source = (ROOT / "benchmarks" / f"{module}.py").read_text()
    assert all(f'"{option}"' in source for option in options)
    # What a retrain costs when little is new is a promise, too.
    assert {"training", "training --probe"} <= set(BENCHMARKS)


def test_the_commands_about_a_champion(
    trained: Installation, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = trained.copy(tmp_path / "installation")
    installation.enter(monkeypatch)
    folder = installation.root
    older(installation, installation.home / "mlartifacts" / "older")
    (folder / "clinic" / "2026").mkdir(parents=True)
    photo(folder)
    shutil.copy(folder / "photo.jpg", folder / "clinic" / "2026" / "a.jpg")
    snapshot = next((installation.home / "snapshots").iterdir()).name
    _tell(CHAMPION, commands, installation, {"snapshot": snapshot, "folder": str(folder)})
    assert (folder / "DermaNet.h5").exists() and (folder / "results.csv").exists()


def test_the_commands_about_images(commands: Commands, tmp_path: Path) -> None:
    here = Installation(tmp_path)
    # Two lesions of one patient, two records that are refused, and those that the page names.
    rows: dict[int, dict[str, str]] = {number: {"patient_id": f"P{number:04d}"} for number in range(8)}
    rows[2]["patient_id"] = rows[1]["patient_id"]
    rows[3]["sex"], rows[4]["sex"] = "M", "F"
    rows[5]["lesion_id"], rows[6]["patient_id"] = "HAM_0000118", "P0042"
    samples.ham10000(tmp_path / "HAM10000", count=8, rows=rows)
    for name, seed in (("2026-11", 50), ("2026-12", 60)):
        _batch(tmp_path / "inbox" / name, seed)
    _tell(IMAGES, commands, here, {"folder": str(tmp_path)})


def _batch(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(samples.jpeg(seed))
    row = {"image": "a.jpg", "lesion_id": f"L{seed}", "age": "50", "sex": "male", "dx": "nv"}
    samples.write_csv(folder / "labels.csv", [row])


def _tell(story: Story, commands: Commands, here: Installation, made: dict[str, str]) -> None:
    environ = {**here.environment(), "BROWSER": "true"}
    for line, status in story.lines.items():
        if "quarantine show" in line:
            listed = commands.run(["quarantine", "list", "--json"], environ, here.root).stdout
            made["refused"], made["other"] = re.findall(r'"id": "?(\w+)', listed)[:2]
        for word, own in story.words.items():
            line = line.replace(word, own)
        if "--keep" in line:
            # Backups are named by their second.
            time.sleep(1)
        *assigned, _, words = re.split(rf"^({ASSIGNED})dermanet ", line.format(**made))
        own_environ = environ | dict(one.split("=", 1) for one in "".join(assigned).split())
        done = commands.run(shlex.split(words), own_environ, here.root)
        assert done.returncode == status, f"{line}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"
        if status:
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_what_is_asked_of_a_scorer(trained: Installation, tmp_path: Path) -> None:
    own, port = trained.copy(tmp_path / "own"), free_port()
    photo(tmp_path)
    (tmp_path / "other.png").write_bytes(samples.png(samples.pixels(5, 200, 150)))
    command = [sys.executable, "-m", "dermanet", "serve", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=own.environment(), cwd=tmp_path, stdout=log, stderr=log)
    try:
        until(lambda: _ready(port), 120)
        for line in ASKED[1:]:
            here = line.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            done = subprocess.run(["bash", "-c", here], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, line
            if line.startswith("curl"):
                rows = json.loads(done.stdout)["predictions"]
                assert [row["error"] for row in rows] == [None] * max(1, line.count("-F"))
    finally:
        server.terminate()
        server.wait(60)


def _ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/ready", timeout=5).ok
    except requests.RequestException:
        return False
