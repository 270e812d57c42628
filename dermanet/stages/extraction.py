"""The stage of features: what a frozen backbone makes of a snapshot's images, kept before a training asks for it."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.stages.lateness import lose_rows
from dermanet.stages.parts import parts_of, records_in
from dermanet.stages.rooms import Progress, chosen_experiment, features_root, fill_pixels, frozen_snapshot

if TYPE_CHECKING:
    from dermanet.experiment import Experiment
    from dermanet.learning.features import FeatureCache
    from dermanet.records import Record, Snapshot
    from dermanet.settings import Settings

FEATURES_COST = 32
"""Images whose features a core computes, by the four backbones of `probe`, while a task begins: two seconds, as it needs no Keras."""


def feature_parts(snapshot_id: str, experiment_text: str) -> list[dict[str, int]]:
    """The parts in which `extract_part` computes a snapshot's features side by side; one where the experiment needs none.

    Exports the backbones, so that those who compute need not, each for itself.
    """
    here = settings.read()
    chosen, frozen = chosen_experiment(here, experiment_text), frozen_snapshot(here, snapshot_id)
    if chosen.method == "scratch":
        return parts_of(0, FEATURES_COST)
    cache = _cache(here, chosen)
    new = len(cache.missing([record.digest for record in _learned_from(frozen)]))
    if new:
        cache.export()
    return parts_of(new, FEATURES_COST)


def extract(
    snapshot_id: str, experiment_text: str, part: Mapping[str, int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Computes the features of a snapshot that an experiment's heads are fitted to, or a part of them; only what is new.

    Pixels that are missing are prepared. Returns the counts: images, and rows (an image, one backbone, one orientation) computed and
    reused; all 0 where the experiment needs no features. Killed, it goes on from its last whole shard.
    Raises DermaNetError where the disk is full or weights are missing.
    """
    here = settings.read()
    chosen, frozen = chosen_experiment(here, experiment_text), frozen_snapshot(here, snapshot_id)
    start = time.monotonic()
    told: dict[str, Any] = {"snapshot": snapshot_id, "images": 0, "computed": 0, "reused": 0, "damaged": []}
    if chosen.method != "scratch":
        records = records_in(part or {"part": 0, "parts": 1}, _learned_from(frozen))
        pixels = fill_pixels(here, chosen.recipe, records)[0]
        digests = [record.digest for record in records]
        done = _cache(here, chosen).fill(digests, pixels, progress)
        lose_rows(here, features_root(here), digests)
        told |= {
            "images": len(records),
            "computed": done.computed,
            "reused": done.reused,
            "damaged": list(done.damaged),
        }
    return {**told, "seconds": round(time.monotonic() - start, 2)}


def extract_part(
    snapshot_id: str, experiment_text: str, part: Mapping[str, int], progress: Progress = lambda line: print(line, flush=True)
) -> dict[str, Any]:  # fmt: skip
    """One of `feature_parts`, with a line now and then."""
    return extract(snapshot_id, experiment_text, part, _counted(progress))


def _counted(progress: Progress) -> Callable[[int, int], None]:
    """A line at the first count, and then after every shard's worth."""
    due = [0]

    def count(done: int, total: int) -> None:
        if done >= due[0]:
            due[0] = done + max(1, total // 20)
            progress(f"{done} of {total} features")

    return count


def _learned_from(frozen: "Snapshot") -> "list[Record]":
    """The images whose features heads are fitted to or chosen by; the holdout's are never asked for."""
    return [*frozen.train, *frozen.validation]


def _cache(here: "Settings", chosen: "Experiment") -> "FeatureCache":
    from dermanet.learning.features import FeatureCache
    from dermanet.pixels.preprocess import recipe

    return FeatureCache(features_root(here), recipe(chosen.recipe), chosen)
