"""What upkeep must leave alone, by who names it: a pure function of what there is, so that the rule can be tested on any installation.

A registered version, and so every alias and every dossier, names a run, a logged model and a snapshot. The ledger names runs, the last
verdict and the last sound snapshot are what the next ones are compared with. What was worked on or used of late is needed, too.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dermanet.registry.leavings import Registered, SeenModel, SeenRun


@dataclass(frozen=True, slots=True)
class Installation:
    """What there is. `decided`: runs that the ledger names. `compared`: snapshots that the next are compared with.

    `works`: trainings and studies that stay. `studied`: the snapshots of those studies. `snapshots`: when each was last used.
    """

    versions: "Collection[Registered]" = ()
    runs: "Collection[SeenRun]" = ()
    models: "Collection[SeenModel]" = ()
    decided: Collection[str] = ()
    compared: Collection[str] = ()
    works: Collection[str] = ()
    studied: Collection[str] = ()
    snapshots: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Needs:
    """What stays: MLflow's runs, logged models and snapshots, by id."""

    runs: frozenset[str]
    models: frozenset[str]
    snapshots: frozenset[str]


def needs(found: Installation, before: float) -> Needs:
    """What stays of an installation. `before`: what was used since that moment, in seconds since 1970, is used of late."""
    used = {run.run_id: run for run in found.runs if run.last >= before or (run.work and run.work in found.works)}
    models = {version.model_id for version in found.versions} | {
        model.model_id for model in found.models if model.last >= before or model.run_id in used
    }
    runs = {version.run_id for version in found.versions} | {*found.decided, *used}
    runs |= {model.run_id for model in found.models if model.model_id in models}
    snapshots = {version.snapshot for version in found.versions} | {*found.compared, *found.studied}
    snapshots |= {run.snapshot for run in used.values()}
    snapshots |= {name for name, last in found.snapshots.items() if last >= before}
    return Needs(_with_parents(runs, found), frozenset(models), frozenset(snapshots))


def _with_parents(runs: Collection[str], found: Installation) -> frozenset[str]:
    """Runs, those that they are nested in, and those in turn."""
    parents = {run.run_id: run.parent for run in found.runs if run.parent}
    whole, more = set(runs), set(runs)
    while more := {parents[run] for run in more if run in parents} - whole:
        whole |= more
    return frozenset(whole)
