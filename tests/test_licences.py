"""Licences: of every distribution that a lock names, known, written down, and none that binds code of one's own."""

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"

FREE = {
    "MIT", "MIT-0", "MIT-CMU", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC",
    "PSF-2.0", "Zlib", "CC0-1.0", "Unlicense", "ZPL-2.1",
}  # fmt: skip
"""Ask for no more than to be named."""

EXPLAINED = {"LGPL-3.0-only", "GPL-3.0-only", "MPL-2.0", "Artistic-1.0"}
"""Ask for more: every distribution under one stands on the page with why that is fine."""


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", ROOT / "docs" / "licences.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_locked_distribution_is_in_the_table_once(licences: ModuleType) -> None:
    rows = re.findall(r"(?m)^\| ([^|]+) \| ([^|]+) \|$", licences.TABLE.findall(PAGE.read_text())[0])
    named = [name for _, names in rows[1:] for name in names.split(", ")]
    assert sorted(named) == sorted(licences.locked()), "write the table anew: python docs/licences.py"


def test_the_table_says_what_distributions_say_themselves(licences: ModuleType) -> None:
    told, written = licences.told(), licences.written()
    here = told.keys() & written.keys()
    assert len(here) > 150
    assert {name: written[name] for name in here} == {name: told[name] for name in here}


def test_no_licence_binds_code_of_ones_own(licences: ModuleType) -> None:
    page = PAGE.read_text()
    asked = page.partition("### Those that ask for something in return")[2].partition("\n## ")[0]
    # What somebody has installed besides binds as much.
    for name, licence in {**licences.told(), **licences.written()}.items():
        # Of licences to choose from one must be free, of those that hold together all.
        free = any(part.strip() in FREE for part in licence.split(" OR ")) or set(licence.split(" AND ")) <= FREE
        named = f"`{name}`" in asked and set(licence.split(" AND ")) <= FREE | EXPLAINED
        assert free or named, f"{name}: {licence}"


def test_the_page_explains_nothing_that_is_gone(licences: ModuleType) -> None:
    asked = PAGE.read_text().partition("### Those that ask for something in return")[2].partition("\n## ")[0]
    named = re.findall(r"`([\w.-]+)`", "".join(re.findall(r"(?m)^\| (.+?) \|", asked)))
    assert named and set(named) <= licences.locked()


def test_every_image_that_the_stack_pulls_is_named_with_its_licence() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    page = PAGE.read_text().partition("## The stack's services")[2]
    pulled = {
        service["image"].partition(":")[0] for service in services if not service["image"].startswith("dermanet-")
    }
    assert pulled and all(f"`{name}`" in page for name in pulled)


def test_data_sets_are_named_with_licence_and_citation_and_none_lies_here() -> None:
    page = PAGE.read_text()
    for name in ("HAM10000", "ISIC 2018, Task 3", "DermaMNIST"):
        assert re.search(rf"(?m)^\| {name} \| .*CC BY-NC 4\.0.* \| .*(doi|arXiv)", page), name
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert not [name for name in listed if re.search(r"ISIC_\d+\.(jpg|png)$", name)]
