"""One job of a search: it takes a trial, trains it, judges it on the validation side, and takes the next. The holdout stays unseen."""

import gc
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dermanet import __version__, memory, settings
from dermanet.errors import Diverged
from dermanet.experiment import text_of
from dermanet.settings import Settings
from dermanet.stages import lineage
from dermanet.stages.rooms import (
    Progress,
    features_root,
    fill_pixels,
    frozen_snapshot,
    search_tracking,
    studies_of,
)

if TYPE_CHECKING:
    from dermanet.learning.train import Fitted, Sides
    from dermanet.learning.watching import Epoch
    from dermanet.pixels.prepared import PreparedPixels
    from dermanet.records import Answers, Snapshot
    from dermanet.registry.tracking import Tracking
    from dermanet.searching.study import Study, Taken


def train_trials(study_id: str, asked: int, parent: str, progress: Progress) -> None:
    """Works on a study until `asked` of its trials are begun; each is a run in MLflow, nested in the run `parent`.

    A trial whose loss stops being a number has failed, and counts. Anything else that goes wrong raises, and leaves the trial
    to be taken up by the next call.
    """
    here = settings.read()
    study = studies_of(here).find(study_id)
    work = _Work(here, study, frozen_snapshot(here, study.plan.snapshot), search_tracking(here), parent, progress)
    while taken := study.take(asked):
        with taken:
            work.settle(taken)
        _forget_networks()


def _forget_networks() -> None:
    """What Keras and TensorFlow keep of a trial's networks goes: 20 MB of the smallest ones, which a job would add up."""
    from dermanet.learning import distribution

    distribution.clear_session()
    gc.collect()
    memory.give_back()


def work_of(study: "Study", number: int) -> str:
    """Names a trial's training: the tag of its run, and its folder."""
    return hashlib.sha256(f"{study.id}\n{number}".encode()).hexdigest()[:24]


def training_folder(here: Settings, study: "Study", number: int) -> Path:
    """Where a trial is trained; gone when the trial has ended."""
    return here.home / "training" / work_of(study, number)


@dataclass(frozen=True)
class _Work:
    """What the trials of a job have in common."""

    here: Settings
    study: "Study"
    frozen: "Snapshot"
    tracking: "Tracking"
    parent: str
    progress: Progress

    def settle(self, taken: "Taken") -> None:
        """Brings a trial to its end. MLflow is told first and the study last, so that whatever a kill left out is done again."""
        from dermanet.searching.study import Pruned

        text = text_of(taken.experiment)
        run_id = self._run(taken, text)
        taken.note(run_id=run_id)
        self.progress(f"trial {taken.number}: {text}")
        try:
            value = self._value(taken, run_id)
        except Pruned as reason:
            self._end(run_id, taken, "pruned", "KILLED", str(reason))
            taken.prune()
        except Diverged as reason:
            self._end(run_id, taken, "failed", "FAILED", str(reason))
            taken.fail(str(reason))
        else:
            self.tracking.log_figures(run_id, {"objective": value})
            self._end(run_id, taken, "finished", "FINISHED", f"{self.study.plan.objective} {value:.4g}")
            taken.finish(value)
        shutil.rmtree(training_folder(self.here, self.study, taken.number), ignore_errors=True)

    def _run(self, taken: "Taken", text: str) -> str:
        tags = {
            "mlflow.parentRunId": self.parent, "dermanet.study": self.study.id, "dermanet.snapshot": self.frozen.id,
            "dermanet.version": __version__, "dermanet.experiment": text,
        }  # fmt: skip
        run_id = self.tracking.run_for(work_of(self.study, taken.number), f"trial {taken.number}", tags).info.run_id
        self.tracking.end(run_id, "RUNNING")
        self.tracking.log_params(run_id, {**taken.experiment.as_dict(), "snapshot": self.frozen.id})
        return str(run_id)

    def _end(self, run_id: str, taken: "Taken", state: str, status: str, reason: str) -> None:
        self.progress(f"trial {taken.number} {state}: {reason}")
        self.tracking.tag(run_id, state=state, reason=reason)
        self.tracking.end(run_id, status)

    def _value(self, taken: "Taken", run_id: str) -> float:
        """The trial's objective on the validation side."""
        if taken.twin:
            number, value = taken.twin
            self.tracking.tag(run_id, same_as=f"trial {number}")
            return value
        pixels = fill_pixels(self.here, taken.experiment.recipe, self.frozen.train + self.frozen.validation)[0]
        fitted = self._fitted(taken, run_id, pixels)
        figures = self._figures(fitted.validation, pixels)
        self.tracking.log_figures(run_id, {f"validation_{name}": figure for name, figure in figures.items()})
        self.tracking.log_params(run_id, {"best_epoch": ", ".join(map(str, fitted.best_epochs))})
        return figures[self.study.plan.objective]

    def _fitted(self, taken: "Taken", run_id: str, pixels: "PreparedPixels") -> "Fitted":
        from dermanet.learning.train import fitted
        from dermanet.learning.watching import Watch

        def report(history: "list[Epoch]") -> None:
            self.tracking.log_history(run_id, history)
            if history:
                self.progress(f"trial {taken.number}, epoch {len(history)}: loss {history[-1]['val_loss']:.4f}")
            taken.report([epoch["val_loss"] for epoch in history])

        folder = training_folder(self.here, self.study, taken.number)
        lineage.begin(self.here, self.tracking, run_id, taken.experiment, self.frozen, folder, self.progress)
        watch = Watch(report, say=self.progress)
        return fitted(taken.experiment, self._sides(pixels), folder, features_root(self.here), watch)

    def _sides(self, pixels: "PreparedPixels") -> "Sides":
        from dermanet.learning.train import Sides

        return Sides(self.frozen.taxonomy.codes, self.frozen.train, self.frozen.validation, pixels)

    def _figures(self, answers: "Answers", pixels: "PreparedPixels") -> dict[str, float]:
        """The figures of answers for the validation side, and the loss by the base experiment's weights."""
        from dermanet.judging import metrics
        from dermanet.learning import yardstick

        sides = self._sides(pixels)
        taught, wanted = sides.targets()
        loss = yardstick.loss(answers, wanted, taught, sides.scale, self.study.plan.base)
        return {"loss": loss, **metrics.figures(sides.validation, answers, sides.codes)}
