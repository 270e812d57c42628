"""What a model is made with: the installed distributions, as a list and as a software bill of materials (CycloneDX 1.6)."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, distributions

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import InvalidRequirement, Requirement

LONGEST = 100
"""Characters of a licence's name; what is longer is its text, which some distributions put in its place."""


@dataclass(frozen=True, slots=True)
class Installed:
    """One distribution. `requires`: the normalized names of those that it needs here. `licence`: as it says itself, or empty."""

    name: str
    version: str
    licence: str
    requires: tuple[str, ...]


def installed() -> list[Installed]:
    """What this process can import, each once, by name."""
    # Whoever asks a distribution for its metadata has its file read anew.
    read = [one.metadata for one in distributions()]
    found = {normalized(told["Name"]): told for told in read if told["Name"]}
    return [
        Installed(told["Name"], told["Version"], _licence(told), tuple(sorted(set(_needs(told)) & found.keys())))
        for _, told in sorted(found.items())
    ]


def pinned(some: Iterable[Installed]) -> str:
    """They as lines of a file of requirements."""
    return "".join(f"{one.name}=={one.version}\n" for one in some)


def bill(name: str, graph_digest: str, needs: Sequence[str], some: Sequence[Installed]) -> str:
    """The bill of a model as CycloneDX JSON: the model, by its ONNX graph's SHA-256, and every distribution with what it needs.

    `needs`: the names of the distributions that it needs to answer.
    """
    licences = LicenseFactory()
    model = Component(
        name=name, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=f"model:{graph_digest}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=graph_digest)],
    )  # fmt: skip
    parts = {
        normalized(one.name): Component(
            name=one.name, version=one.version, type=ComponentType.LIBRARY, bom_ref=f"{one.name}=={one.version}",
            purl=PackageURL("pypi", name=normalized(one.name), version=one.version),
            licenses=[licences.make_from_string(one.licence)] if one.licence else [],
        )
        for one in some
    }  # fmt: skip
    bom = Bom(components=parts.values())
    bom.metadata.component = model
    bom.register_dependency(model, [parts[key] for key in map(normalized, needs) if key in parts])
    for one in some:
        bom.register_dependency(parts[normalized(one.name)], [parts[key] for key in one.requires if key in parts])
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)


def normalized(name: str) -> str:
    """A distribution's name as package indexes compare them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _needs(told: PackageMetadata) -> Iterator[str]:
    for text in told.get_all("Requires-Dist") or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield normalized(requirement.name)


def _licence(told: PackageMetadata) -> str:
    stated = next((told[field] for field in ("License-Expression", "License") if field in told), "")
    if stated and len(stated) <= LONGEST and "\n" not in stated and stated.upper() != "UNKNOWN":
        return stated
    lines = told.get_all("Classifier") or ()
    return " and ".join(line.rpartition("::")[2].strip() for line in lines if line.startswith("License"))[:LONGEST]
