"""The stage that makes a version again, from its snapshot, its experiment and its seed, and says what came out otherwise."""

from collections.abc import Mapping
from typing import Any

from dermanet import experiment, settings
from dermanet.errors import BadInput
from dermanet.revision import revision
from dermanet.stages.lineage import STARTED_FROM, card_of
from dermanet.stages.pages import EVALUATION
from dermanet.stages.rooms import OnBatch, Progress, frozen_snapshot, say_nothing, tracking_of, versions_of
from dermanet.stages.training import train
from dermanet.stages.verdicts import evaluate

CLOSE = 1e-4
"""Figures that differ by no more are the same: sums in another order, on one machine."""


def replay(version: str, progress: Progress = say_nothing, on_batch: OnBatch | None = None) -> dict[str, Any]:
    """Trains and evaluates a version's work anew, in a run of its own that is found again. Registers nothing.

    Returns both runs, `same`, the figures that differ with both values, and what is different about the code. Raises BadInput where
    the snapshot, or the version whose weights it began with, is not there any more.
    """
    here = settings.read()
    tracking = tracking_of(here)
    run_id = versions_of(here, tracking).get(version).run_id or ""
    before, card = tracking.read_json(run_id, EVALUATION), card_of(here, version)
    frozen_snapshot(here, card["snapshot"])
    text = experiment.text_of(experiment.from_dict(card["experiment"]))
    other = _other_code(here, card)
    for line in other:
        progress(line)
    origin = tracking.run(run_id).data.tags.get(STARTED_FROM, "")
    again = train(card["snapshot"], text, f"replay of version {version}", progress, on_batch, origin)["run_id"]
    tracking.tag(again, replay_of=version)
    after = evaluate(again)
    if before["holdout"] != after["holdout"]:
        raise BadInput(
            f"version {version} was evaluated on holdout {before['holdout']}, its snapshot has {after['holdout']}"
        )
    differs = differing(before["candidate"], after["candidate"])
    return {
        "version": version,
        "run_id": run_id,
        "replay": again,
        "same": not differs,
        "differs": differs,
        "code": other,
    }


def differing(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, list[float | None]]:
    """The figures that are not the same, with both values; None where there is none."""
    names = dict.fromkeys([*before, *after])
    pairs = {name: [before.get(name), after.get(name)] for name in names}
    return {
        name: pair
        for name, pair in pairs.items()
        if None in pair or abs(float(pair[0] or 0) - float(pair[1] or 0)) > CLOSE
    }


def _other_code(here: settings.Settings, card: Mapping[str, Any]) -> list[str]:
    from dermanet import __version__

    now = {"dermanet": __version__, "revision": revision(here.revision)}
    return [
        f"{name} was {card.get(name) or 'not known'} and is {value or 'not known'}"
        for name, value in now.items()
        if card.get(name) != value
    ]
