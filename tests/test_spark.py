"""Images in bulk by `mlflow.pyfunc.spark_udf`, as the documents show it: the same rows. Run by `make test-spark`."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import samples
from installation import Installation

from dermanet.serving.reader import COLUMNS, Reader, refused

JAVA = shutil.which("java") or (Path(os.environ.get("JAVA_HOME", "/nowhere")) / "bin" / "java").exists()

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pyspark") is None or not JAVA, reason="needs PySpark and Java 17: make test-spark"
)


def shown() -> str:
    """The program that the section "In bulk" shows."""
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
    section = page.partition("## In bulk\n")[2].partition("\n## ")[0]
    block = re.search(r"(?:^(?: {4}.*)?\n)*^ {4}.*spark_udf.*\n(?:^(?: {4}.*)?\n)*", section, re.MULTILINE)
    assert block
    return textwrap.dedent(block[0])


def plain(value: object) -> object:
    """A cell as it came from Parquet, as a reader's row has it."""
    if isinstance(value, list):
        return dict(value) if value and isinstance(value[0], tuple) else value
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_what_the_documents_show_gives_the_reader_s_rows(trained: Installation, tmp_path: Path) -> None:
    import mlflow

    from dermanet.registry.tracking import model_files

    clinic = tmp_path / "clinic"
    (clinic / "deep").mkdir(parents=True)
    for number in range(9):
        (clinic / ("deep" if number % 2 else "") / f"{number}.jpg").write_bytes(samples.jpeg(number, 200, 150))
    (clinic / "bad.jpg").write_bytes(b"GIF89a")
    (tmp_path / "program.py").write_text(shown())
    environ = {**trained.environment(), "MLFLOW_TRACKING_URI": trained.tracking_uri, "SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    mlflow.set_tracking_uri(trained.tracking_uri)
    reader = Reader.open(model_files("models:/dermanet/1"))
    answers = pd.read_parquet(tmp_path / "answers.parquet")
    assert len(answers) == 10
    for path, answer in zip(answers["path"], answers["answer"], strict=True):
        row = {name: plain(answer[name]) for name in COLUMNS}
        expected = reader.read(Path(path.removeprefix("file:")).read_bytes()).row
        if expected["error"]:
            assert row["error"] == expected["error"]
            row |= {name: dict(row[name]) for name in row if name.endswith("_probabilities")}
            expected = refused(expected["error"])
        assert row == expected
