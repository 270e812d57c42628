"""The stage that searches: one study on one snapshot, many experiments, one of them the best on the validation side."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dermanet import __version__, settings
from dermanet.errors import BadInput
from dermanet.settings import Settings
from dermanet.stages import jobs as side_by_side
from dermanet.stages.members import require_backend
from dermanet.stages.rooms import (
    Progress,
    chosen_experiment,
    fill_pixels,
    frozen_snapshot,
    say_nothing,
    search_tracking,
    studies_of,
)
from dermanet.stages.trial import train_trials, training_folder
from dermanet.stages.validation import require_not_anomalous
from dermanet.stages.whole import gather

if TYPE_CHECKING:
    from dermanet.experiment import Experiment
    from dermanet.records import Snapshot
    from dermanet.registry.tracking import Tracking
    from dermanet.searching.space import Space
    from dermanet.searching.study import Study

COLUMNS = ("trial", "state", "value", "epochs", "seconds", "experiment", "run_id", "reason")


def search(
    snapshot_id: str, experiment_text: str, space_text: str = "", objective: str = "loss", trials: int = 20,
    jobs: int = 0, progress: Progress = say_nothing, sources: Sequence[str] = (), accept_data: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Trains `trials` experiments made from one by changing the fields of a space, and judges each on the validation side.

    `snapshot_id` empty: `sources` are taken in and a snapshot is frozen and validated. `jobs`: processes side by side; 0: as many
    as cores and memory hold. The study is named by snapshot, experiment, space and objective: called again it goes on where
    it stopped, and with more `trials` it adds to them. Returns the study, its run in MLflow, the best experiment and counts.
    Raises BadInput where the space, the objective or the snapshot is wrong, and DataRefused where its data were judged anomalous and
    nobody has accepted them, before anything is trained.
    """
    from dermanet.searching import space as spaces
    from dermanet.searching.study import Plan

    here = settings.read()
    require_backend()
    base = chosen_experiment(here, experiment_text)
    space = spaces.chosen(space_text, base)
    recipes = _recipes(base, space)
    _require_backbones(base, space)
    if snapshot_id and sources:
        raise BadInput("a search takes a snapshot or sources, not both; leave one out")
    frozen = frozen_snapshot(here, snapshot_id or gather(sources, progress, accept_data)["snapshot"])
    plan = Plan(frozen.id, base, space, objective)
    _require_objective(frozen, objective)
    require_not_anomalous(here, frozen.id)
    for recipe in recipes:
        fill_pixels(here, recipe, frozen.train + frozen.validation)
    study = studies_of(here).open(plan)
    run_id = _run(search_tracking(here), study)
    count = min(jobs or side_by_side.fitting(), trials)
    progress(f"study {study.id}: {study.begun()} of {trials} trials are begun; {count} side by side")
    try:
        _work(study, trials, count, run_id, progress)
    except KeyboardInterrupt:
        progress(f"interrupted; `dermanet trials {study.id}` lists what is there, and the same command goes on")
        raise
    finally:
        _publish(here, study, run_id)
    return {"run_id": run_id, **_told(study)}


def trials(study_id: str) -> dict[str, Any]:
    """A study and all its trials. Raises BadInput where there is none of this id."""
    study = studies_of(settings.read()).find(study_id)
    return {**_told(study), "all": study.trials()}


def searches() -> dict[str, Any]:
    """Every study, oldest first, each with its best experiment."""
    return {"studies": [_told(study) for study in studies_of(settings.read()).every()]}


def _recipes(base: "Experiment", space: "Space") -> list[str]:
    """Every recipe that a trial may ask for. Raises BadInput where there is none of that name."""
    from dermanet.pixels.preprocess import recipe
    from dermanet.searching import space as spaces

    found = spaces.words("recipe", base, space)
    for text in found:
        recipe(text)
    return found


def _require_backbones(base: "Experiment", space: "Space") -> None:
    from dermanet.learning.parts import parts
    from dermanet.searching import space as spaces

    for text in spaces.words("backbone", base, space):
        parts(text)


def _require_objective(frozen: "Snapshot", objective: str) -> None:
    from dermanet.judging import metrics
    from dermanet.searching.study import LOSS

    codes, validation = frozen.taxonomy.codes, frozen.validation
    trivial = metrics.trivial_answers(frozen.train, len(validation), codes) if frozen.train and validation else None
    there = [LOSS, *(metrics.figures(validation, trivial, codes) if trivial else ())]
    if objective not in there:
        raise BadInput(
            f"objective {objective!r}; on the validation side of snapshot {frozen.id} there are {', '.join(there)}"
        )


def _run(tracking: "Tracking", study: "Study") -> str:
    """The study's run, set running; made by one process only, were several to begin at once."""
    plan = study.plan
    name, tags = f"search {plan.base.name}-{plan.snapshot[:8]}", {"dermanet.version": __version__}
    with study.door():
        run_id = str(tracking.run_for(study.id, name, {**tags, "dermanet.snapshot": plan.snapshot}).info.run_id)
    tracking.end(run_id, "RUNNING")
    told = plan.as_dict()
    fields = {f"space.{dimension['field']}": dimension for dimension in told["space"]}
    tracking.log_params(
        run_id, {**told["experiment"], **fields, "snapshot": plan.snapshot, "objective": plan.objective}
    )
    return run_id


def _work(study: "Study", trials: int, count: int, run_id: str, progress: Progress) -> None:
    if count > 1:
        side_by_side.work_side_by_side(count, study.id, trials, run_id, progress)
    else:
        train_trials(study.id, trials, run_id, progress)


def _publish(here: Settings, study: "Study", run_id: str) -> None:
    """What the study has come to, into its run; and folders that a kill left behind after its trial had ended, away."""
    import shutil

    from dermanet.searching import pictures

    tracking, rows, told = search_tracking(here), study.trials(), _told(study)
    tracking.log_json(run_id, {**told, "all": rows}, "trials.json")
    tracking.log_text(run_id, _table(rows), "trials.csv")
    for name, picture in pictures.draw(study).items():
        tracking.log_picture(run_id, picture, name)
    if told["best"]:
        tracking.log_figures(run_id, {"objective": told["best"]["value"]})
        tracking.tag(run_id, best=told["best"]["experiment"], study=study.id)
        tracking.describe(run_id, f"Best so far, on the validation side:\n\n    {told['command']}\n")
    for row in rows:
        if row["state"] != "running":
            shutil.rmtree(training_folder(here, study, row["trial"]), ignore_errors=True)
    tracking.end(run_id, "KILLED" if any(row["state"] == "running" for row in rows) else "FINISHED")


def _told(study: "Study") -> dict[str, Any]:
    """A study in short."""
    best, plan = study.best(), study.plan
    return {
        "study": study.id, "snapshot": plan.snapshot, "objective": plan.objective,
        "direction": plan.direction, "trials": dict(Counter(row["state"] for row in study.trials())), "best": best,
        "command": f"dermanet retrain --experiment '{best['experiment']}'" if best and best["experiment"] else "",
    }  # fmt: skip


def _table(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
