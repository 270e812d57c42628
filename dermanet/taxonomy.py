"""The list of diagnoses: data, not code. HAM10000's seven are the default; any other list trains without a change here."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dermanet import yamlfile
from dermanet.errors import BadInput

DEFAULT = Path(__file__).with_name("taxonomy.yaml")
CODE = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One answer of the diagnosis head: its code, its name for people, other words that mean it, and whether it is malignant."""

    code: str
    name: str
    aliases: tuple[str, ...]
    malignant: bool


@dataclass(frozen=True)
class Taxonomy:
    """The diagnoses in the order of the head's probabilities."""

    diagnoses: tuple[Diagnosis, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes in order."""
        return tuple(diagnosis.code for diagnosis in self.diagnoses)

    @cached_property
    def _words(self) -> dict[str, str]:
        return {word.casefold(): d.code for d in self.diagnoses for word in (d.code, *d.aliases)}

    def resolve(self, word: str) -> str | None:
        """The code that a word stands for, its case aside; None where the list does not know the word."""
        return self._words.get(word.casefold())

    def as_list(self) -> list[dict[str, Any]]:
        """The list as plain JSON, as every model version records it."""
        return [asdict(diagnosis) for diagnosis in self.diagnoses]

    @cached_property
    def digest(self) -> str:
        """Names the list by its content: 12 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.as_list(), sort_keys=True).encode()).hexdigest()[:12]


def load(path: Path = DEFAULT) -> Taxonomy:
    """Reads a `taxonomy.yaml`. Raises BadInput with the entry that is wrong."""
    data = yamlfile.load(path, "taxonomy", "DERMANET_TAXONOMY")
    entries = data.get("diagnoses") if isinstance(data, dict) else None
    if not isinstance(entries, list) or len(entries) < 2:
        raise BadInput(f"taxonomy {path}: needs a list `diagnoses` of at least two entries")
    return parse(entries, str(path))


def parse(entries: list[dict[str, Any]], origin: str) -> Taxonomy:
    """Checks entries of the form of `as_list`; `origin` is named in the message of the BadInput it may raise."""
    diagnoses = tuple(_diagnosis(entry, number, origin) for number, entry in enumerate(entries, start=1))
    words = [
        word.casefold() for d in diagnoses for word in {d.code.casefold(), *(alias.casefold() for alias in d.aliases)}
    ]
    twice = sorted({word for word in words if words.count(word) > 1})
    if twice:
        raise BadInput(f"taxonomy {origin}: {twice} names more than one diagnosis; a code or alias may stand once")
    return Taxonomy(diagnoses)


def _diagnosis(entry: Any, number: int, origin: str) -> Diagnosis:
    known = {"code", "name", "aliases", "malignant"}
    if not isinstance(entry, dict) or "code" not in entry or not set(entry) <= known:
        raise BadInput(
            f"taxonomy {origin}: entry {number} is {entry!r}; allowed keys are {sorted(known)}, `code` is required"
        )
    code = entry["code"]
    if not isinstance(code, str) or not CODE.fullmatch(code):
        raise BadInput(f"taxonomy {origin}: entry {number} has code {code!r}; a code is a-z, 0-9 and _, a letter first")
    if not isinstance(entry.get("malignant", False), bool):
        raise BadInput(f"taxonomy {origin}: {code}: malignant is {entry['malignant']!r}; allowed are true and false")
    aliases = entry.get("aliases", ())
    if not isinstance(aliases, list | tuple) or not all(isinstance(alias, str) and alias for alias in aliases):
        raise BadInput(
            f"taxonomy {origin}: {code}: aliases is {aliases!r}; needed is a list of words, as in [naevus, nevus]"
        )
    return Diagnosis(code, str(entry.get("name", code)), tuple(aliases), entry.get("malignant", False))
