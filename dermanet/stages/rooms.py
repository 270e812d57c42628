"""How the stages enter the rooms: each function opens one thing of an installation, by its settings."""

import getpass
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dermanet import errors, experiment
from dermanet.errors import GateRefused, StoreFault
from dermanet.settings import Settings
from dermanet.stages.lateness import lose_rows
from dermanet.storage import Folder, place

if TYPE_CHECKING:
    from dermanet.judging.gates import Gates
    from dermanet.ledger.decisions import Ledger
    from dermanet.pixels.prepared import PreparedPixels
    from dermanet.pixels.shards import Preparation
    from dermanet.records import Answers, Record, Snapshot
    from dermanet.registry.tracking import Tracking
    from dermanet.registry.versions import Versions
    from dermanet.searching.study import Studies
    from dermanet.serving.network import Network
    from dermanet.taxonomy import Taxonomy

Progress = Callable[[str], None]
"""Takes one line for whoever watches."""


OnBatch = Callable[[int, int], None]
"""Takes how many batches of a training are done, and of how many at most, for whoever wants to see it move."""


def looked_at(here: Settings, run_id: str) -> Path:
    """Where copies of a run's pages lie that people have opened; all go whenever something is forgotten."""
    return here.home / "pages" / run_id


REMOVALS = "removals"
"""Whose turn it is to remove for good: upkeep, forgetting; or a backup, so that nothing leaves that it has come for."""


def say_nothing(line: str) -> None:
    """The progress of a caller who does not watch."""


def with_room(here: Settings, what: str) -> AbstractContextManager[None]:
    """Says in one line that a disk is full, whoever of MLflow's parts it was that could not write `what`."""
    lies = f"{here.home}, unless MLFLOW_TRACKING_URI says otherwise"
    line = f"no space left for {what} in MLflow; make room where its database and files lie ({lies})"
    return errors.with_room(here.home, line, "and run this again")


def chosen_experiment(here: Settings, text: str) -> experiment.Experiment:
    """The experiment asked for, or the configured one where `text` is empty. Raises BadInput, also for its recipe and backbones."""
    from dermanet.learning.parts import parts
    from dermanet.pixels.preprocess import recipe

    chosen = experiment.named(text or here.experiment)
    recipe(chosen.recipe)
    parts(chosen.backbones)
    return chosen


def snapshot_place(here: Settings) -> Folder:
    """Where snapshots are kept."""
    return Folder(here.home / "snapshots")


def prepared_root(here: Settings) -> Path:
    """Where prepared pixels are kept."""
    return here.home / "prepared"


def features_root(here: Settings) -> Path:
    """Where features of frozen backbones are kept."""
    return here.home / "features"


def gates_of(here: Settings, diagnoses: "Taxonomy | None" = None) -> "Gates":
    """The gates, for a list of diagnoses: the configured one, unless another is given. Raises BadInput where their file is wrong."""
    from dermanet import taxonomy
    from dermanet.judging import gates, mistakes

    known = diagnoses or taxonomy.load(here.taxonomy)
    return gates.load(here.gates, known.codes, mistakes.malignant_codes(known))


def frozen_snapshot(here: Settings, snapshot_id: str) -> "Snapshot":
    """A snapshot by its id, which is in use from now on. Raises BadInput where there is none."""
    from dermanet.intake import snapshots

    snapshots.mark_used(snapshot_id, snapshot_place(here))
    return snapshots.read(snapshot_id, snapshot_place(here))


def tracking_of(here: Settings) -> "Tracking":
    """MLflow's runs. Raises DermaNetError where its server does not answer a person; so do the others."""
    return _tracking(here)


def snapshot_tracking(here: Settings) -> "Tracking":
    """MLflow's runs of snapshots: one each, with the report on its data, in an experiment of their own."""
    return _tracking(here, f"{here.model}-snapshots")


def monitoring_tracking(here: Settings) -> "Tracking":
    """MLflow's runs of windows of the log of predictions: one each, with its report, in an experiment of their own."""
    return _tracking(here, f"{here.model}-monitoring")


def search_tracking(here: Settings) -> "Tracking":
    """MLflow's runs of searches and their trials, in an experiment of their own."""
    return _tracking(here, f"{here.model}-searches")


def _tracking(here: Settings, experiment: str = "") -> "Tracking":
    from dermanet.registry.lookup import require_answer

    if not here.dag_run:
        # A person is told at once; a task of Airflow's has the patience of MLflow's client, which is minutes.
        require_answer(here.tracking_uri)
    from dermanet.registry.tracking import EXPERIMENT, Tracking

    return Tracking(here.tracking_uri, here.artifacts, experiment or EXPERIMENT, here.mlflow_pages)


def studies_of(here: Settings) -> "Studies":
    """The studies that searches work on."""
    from dermanet.searching.study import Studies

    return Studies(here.home / "searches")


def versions_of(here: Settings, tracking: "Tracking") -> "Versions":
    """The versions of the registered model."""
    from dermanet.registry.versions import Versions

    return Versions(tracking.client, here.model)


def ledger_of(here: Settings) -> "Ledger":
    """The decisions of this installation."""
    from dermanet.ledger.decisions import Ledger

    return Ledger(here.catalogue)


@contextmanager
def removing(here: Settings) -> Iterator[None]:
    """The turn of whoever removes for good, or copies what must not go meanwhile. Raises DermaNetError where another has it long."""
    from dermanet.database.turns import turn

    with turn(ledger_of(here).engine, REMOVALS):
        yield


def whoever_asks() -> str:
    """The user of this machine in whose name something is decided."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "a user without a name"


def fill_pixels(
    here: Settings, recipe_text: str, records: "Sequence[Record]", progress: Callable[[int], None] = lambda done: None
) -> "tuple[PreparedPixels, Preparation]":
    """The prepared pixels of records, and what had to be computed for it.

    Raises StoreFault where stored images are damaged or missing, and BadInput where the catalogue knows them no more.
    """
    from dermanet.intake import stored
    from dermanet.intake.catalogue import Catalogue
    from dermanet.pixels.prepared import PreparedPixels
    from dermanet.pixels.preprocess import recipe

    objects = place(here.objects)
    pixels = PreparedPixels(prepared_root(here), recipe(recipe_text))
    digests = [record.digest for record in records]
    try:
        done = pixels.fill(digests, partial(stored.read, objects), progress)
    except StoreFault:
        lose_rows(here, prepared_root(here), digests)
        # All that are left are looked at, so that one run names every one that is wrong.
        left = [digest for digest in digests if digest not in pixels]
        raise stored.trouble(stored.faults(left, Catalogue(here.catalogue), objects)) from None
    gone = lose_rows(here, prepared_root(here), digests)
    if gone:
        raise stored.trouble(stored.faults(gone, Catalogue(here.catalogue), objects))
    return pixels, done


def network_in(files: Path) -> "Network":
    """The network among a model's files, proved on its golden images. Raises DermaNetError where it fails there."""
    from dermanet.serving import golden
    from dermanet.serving.network import CARD, load

    network = load(files / "model.onnx", files / CARD)
    golden.check(files / golden.FILE, network)
    return network


def holdout_answers(here: Settings, network: "Network", frozen: "Snapshot") -> "Answers":
    """A network's answers on the holdout, by pixels of its own recipe. Raises GateRefused where one of them is no number."""
    import numpy as np

    text = f"{network.recipe.name}@{network.recipe.size}"
    pixels = fill_pixels(here, text, frozen.holdout)[0]
    digests = [record.digest for record in frozen.holdout]
    found = network.answer_in_batches(
        [pixels.batch(digests[start : start + 32]) for start in range(0, len(digests), 32)]
    )
    numbers = np.isfinite(np.column_stack([found.age, found.sex, found.diagnosis])).all(axis=1)
    lost = [frozen.holdout[place].image_id for place in np.flatnonzero(~numbers)]
    if lost:
        raise GateRefused(
            f"the network of run {network.card['run_id']} answers {len(lost)} of the holdout's {len(digests)} images with what is no "
            f"number ({', '.join(lost[:3])}, …): there is nothing to judge"
        )
    return found
