"""Studies: what is searched, and its trials, kept by Optuna in one SQLite database.

A trial is held by a lock on a file of its own, which ends with the process that holds it, however that ends: whoever comes next takes
up the same trial. (Optuna's own way, a heartbeat and a new trial in place of the dead one, would wait for minutes, count the dead
one, and lose the epochs that were trained.) One more lock, the door, lets one process at a time ask for a trial or write; so
there are never more trials than were asked for, and SQLite has one writer.

What is drawn for a field depends on the base experiment's seed, the number of the trial, the field, and the trials finished before,
not on the process: one job draws the same whether it was interrupted or not.
"""

import fcntl
import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, Trial, TrialState

from dermanet import experiment
from dermanet.errors import BadInput
from dermanet.experiment import Experiment
from dermanet.figures import LESS_IS_BETTER
from dermanet.searching import space as spaces
from dermanet.searching.space import Choices, Dimension, Space, Value

LOSS = "loss"
"""The objective that is there without being named: the validation loss of the finished network, by the base experiment's weights."""

FIRST = 4
"""Finished trials before any is pruned."""

WARM_UP = 0.2
"""The share of a training's epochs in which it is not pruned."""

IN_VAIN = 100
"""Draws that are refused one after the other before a space is."""

REFUSED = "refused"
"""A trial that was never begun: its values exclude one another. It does not count among the trials that were asked for."""

STATES = {
    TrialState.RUNNING: "running", TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
}  # fmt: skip

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Pruned(Exception):
    """A trial is worse than the median of the others at the same epoch and shall end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is searched, where and for what: it names the study, so that the same search finds it again."""

    snapshot: str
    base: Experiment
    space: Space
    objective: str

    @property
    def digest(self) -> str:
        """The study's id: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def greater_is_better(self) -> bool:
        """Whether the objective is to become great."""
        return self.objective != LOSS and not LESS_IS_BETTER.fullmatch(self.objective)

    @property
    def direction(self) -> str:
        """The same in Optuna's words."""
        return "maximize" if self.greater_is_better else "minimize"

    @property
    def prunes(self) -> bool:
        """Whether the epochs' losses of trials can be compared."""
        return not any(dimension.field in spaces.YARDSTICK for dimension in self.space)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain JSON."""
        return {
            "snapshot": self.snapshot, "experiment": self.base.as_dict(), "space": spaces.as_list(self.space),
            "objective": self.objective, "direction": self.direction,
        }  # fmt: skip


def plan_from(record: dict[str, Any]) -> Plan:
    """The plan that `as_dict` recorded."""
    base, space = experiment.from_dict(record["experiment"]), spaces.from_list(record["space"])
    return Plan(record["snapshot"], base, space, record["objective"])


class Studies:
    """The studies of an installation. Several processes may work on one at once, on one machine."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        with self.door():
            options = {"connect_args": {"timeout": 60}}
            self.storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'studies.db'}", engine_kwargs=options)

    def open(self, plan: Plan) -> "Study":
        """The study of a plan, made at the first call."""
        with self.door():
            made = optuna.create_study(
                storage=self.storage, study_name=plan.digest, direction=plan.direction, load_if_exists=True
            )
            if "plan" not in made.user_attrs:
                made.set_user_attr("plan", plan.as_dict())
        return Study(self, plan.digest, plan)

    def find(self, study_id: str) -> "Study":
        """A study by its id. Raises BadInput where there is none."""
        plans = self._plans()
        if study_id not in plans:
            raise BadInput(f"no study {study_id!r}; there are {', '.join(plans) or 'none: dermanet search makes one'}")
        return Study(self, study_id, plans[study_id])

    def every(self) -> list["Study"]:
        """All studies, oldest first."""
        return [Study(self, study_id, plan) for study_id, plan in self._plans().items()]

    def drop(self, study: "Study", before: float) -> bool:
        """Removes a study with its trials, if it is still idle; whether it was."""
        with self.door():
            idle = study.idle(before)
            if idle:
                optuna.delete_study(study_name=study.id, storage=self.storage)
                for file in self.folder.glob(f"{study.id}-*"):
                    file.unlink(missing_ok=True)
        return idle

    @contextmanager
    def door(self) -> Iterator[None]:
        """Held by whoever writes; the others wait."""
        with (self.folder / "door").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _plans(self) -> dict[str, Plan]:
        """By the names they were kept under: a plan of an older version would have another digest today."""
        found = {}
        for one in optuna.get_all_study_summaries(self.storage, include_best_trial=False):
            # One whose experiment is none in this version must not hide all others.
            with suppress(BadInput, KeyError):
                found[one.study_name] = plan_from(one.user_attrs["plan"])
        return found


class Study:
    """One study: gives out its trials, and tells them."""

    def __init__(self, studies: Studies, study_id: str, plan: Plan) -> None:
        self.id, self.plan, self._studies = study_id, plan, studies
        self.door = studies.door
        self.kept = optuna.load_study(study_name=study_id, storage=studies.storage, pruner=_pruner(plan))

    def take(self, asked: int) -> "Taken | None":
        """A trial to train: one that a process has left behind, or else a new one; None where `asked` are begun.

        Raises BadInput where hardly any combination of the space is one that experiments allow.
        """
        with self.door():
            while True:
                trials = self.kept.get_trials(deepcopy=False)
                found = self._left_behind(trials) or self._new(trials, asked)
                if not found:
                    return None
                try:
                    return self._taken(*found, trials)
                except BadInput as reason:
                    self._refuse(*found, str(reason))

    def idle(self, before: float) -> bool:
        """Whether nobody holds a trial of it, and none was begun or ended since a moment, in seconds since 1970."""
        trials = self.kept.get_trials(deepcopy=False)
        moments = [moment.timestamp() for t in trials for moment in (t.datetime_start, t.datetime_complete) if moment]
        held = any(self._held(trial.number) for trial in trials if trial.state == TrialState.RUNNING)
        return not held and bool(moments) and max(moments) < before

    def begun(self) -> int:
        """How many trials are begun or have ended, without those that were refused."""
        return _begun(self.kept.get_trials(deepcopy=False))

    def trials(self) -> list[dict[str, Any]]:
        """Every trial by its number: state, value (None without one), epochs, seconds, notes, and the experiment as text."""
        return [self._told(trial) for trial in self.kept.get_trials(deepcopy=False)]

    def best(self) -> dict[str, Any] | None:
        """The best finished trial, the earlier of equals; None before there is one."""
        finished = [trial for trial in self.trials() if trial["state"] == "finished"]
        sign = -1 if self.plan.greater_is_better else 1
        return min(finished, key=lambda trial: (sign * trial["value"], trial["trial"]), default=None)

    def _left_behind(self, trials: Sequence[FrozenTrial]) -> tuple[Trial, IO[str]] | None:
        for left in (trial for trial in trials if trial.state == TrialState.RUNNING):
            if hold := self._hold(left.number):
                return Trial(self.kept, left._trial_id), hold
        return None

    def _new(self, trials: Sequence[FrozenTrial], asked: int) -> tuple[Trial, IO[str]] | None:
        if _begun(trials) >= asked:
            return None
        if len(trials) >= IN_VAIN and all(map(_was_refused, trials[-IN_VAIN:])):
            raise BadInput(
                f"space: of {IN_VAIN} combinations drawn one after the other none is allowed ({trials[-1].user_attrs['reason']}); "
                "leave out what excludes one another"
            )
        trial = self.kept.ask()
        hold = self._hold(trial.number)
        assert hold, "a number that was just given belongs to nobody"
        return trial, hold

    def _refuse(self, trial: Trial, hold: IO[str], reason: str) -> None:
        trial.set_user_attr("reason", reason)
        trial.set_user_attr(REFUSED, True)
        self.kept.tell(trial, state=TrialState.FAIL)
        _let_go(hold)

    def _told(self, trial: FrozenTrial) -> dict[str, Any]:
        notes = {name: note for name, note in trial.user_attrs.items() if name != REFUSED}
        return {
            "trial": trial.number, "state": REFUSED if _was_refused(trial) else STATES[trial.state],
            "value": trial.value if trial.state == TrialState.COMPLETE else None,
            "epochs": len(trial.intermediate_values), **notes, "experiment": self._experiment_of(trial),
        }  # fmt: skip

    def _experiment_of(self, trial: FrozenTrial) -> str:
        """The experiment as text; empty where there is none."""
        # A process that was killed while it drew has left a trial with some fields only.
        if set(trial.params) != {dimension.field for dimension in self.plan.space}:
            return ""
        try:
            return experiment.text_of(spaces.changed(self.plan.base, self.plan.space, trial.params))
        except BadInput:
            # Refused, or by an older version not: one trial's fault must not hide all others.
            return ""

    def _taken(self, trial: Trial, hold: IO[str], others: Sequence[FrozenTrial]) -> "Taken":
        for dimension in self.plan.space:
            self.kept.sampler = _sampler(self.plan.base.seed, trial.number, dimension.field)
            _suggest(trial, dimension)
        twins = [o for o in others if o.state == TrialState.COMPLETE and o.params == trial.params]
        return Taken(self, trial, hold, twins[0] if twins else None)

    def _held(self, number: int) -> bool:
        hold = self._hold(number)
        if hold:
            hold.close()
        return hold is None

    def _hold(self, number: int) -> IO[str] | None:
        file = (self._studies.folder / f"{self.id}-{number}").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file


class Taken:
    """A trial that this process holds until it leaves the `with` block; one that was not told by then can be taken up again."""

    def __init__(self, study: Study, trial: Trial, hold: IO[str], twin: FrozenTrial | None) -> None:
        self._study, self._trial, self._hold = study, trial, hold
        self._known = len(trial.storage.get_trial(trial._trial_id).intermediate_values)
        self._start = time.monotonic()
        self.number = trial.number
        self.experiment = spaces.changed(study.plan.base, study.plan.space, trial.params)
        self.twin = (twin.number, float(twin.value)) if twin and twin.value is not None else None
        """Number and value of a finished trial of the same experiment: training it again would find the same."""

    def __enter__(self) -> "Taken":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hold.close()

    def report(self, losses: Sequence[float]) -> None:
        """Takes the validation losses of all epochs so far, of earlier processes too. Raises Pruned."""
        if not losses:
            return
        sign = -1.0 if self._study.plan.greater_is_better else 1.0
        with self._study.door():
            for epoch in range(self._known + 1, len(losses) + 1):
                self._trial.report(sign * losses[epoch - 1], epoch)
            self._known = max(self._known, len(losses))
            if self._trial.should_prune():
                raise Pruned(f"worse than the median of the others at epoch {len(losses)}")

    def note(self, **values: Any) -> None:
        """Keeps values beside the trial."""
        with self._study.door():
            for name, value in values.items():
                self._trial.set_user_attr(name, value)

    def finish(self, value: float) -> None:
        """The trial was trained whole and is worth `value`."""
        self._tell(TrialState.COMPLETE, value)

    def prune(self) -> None:
        """The trial was ended early."""
        self._tell(TrialState.PRUNED)

    def fail(self, reason: str) -> None:
        """The trial's own settings made its training impossible; it counts, and is not tried again."""
        self.note(reason=reason)
        self._tell(TrialState.FAIL)

    def _tell(self, state: TrialState, value: float | None = None) -> None:
        self.note(seconds=round(time.monotonic() - self._start, 1))
        with self._study.door():
            self._study.kept.tell(self._trial, value, state)
            _let_go(self._hold)


def _begun(trials: Sequence[FrozenTrial]) -> int:
    return sum(not _was_refused(trial) for trial in trials)


def _was_refused(trial: FrozenTrial) -> bool:
    return REFUSED in trial.user_attrs


def _let_go(hold: IO[str]) -> None:
    Path(hold.name).unlink(missing_ok=True)
    hold.close()


def _pruner(plan: Plan) -> optuna.pruners.BasePruner:
    if not plan.prunes:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=FIRST, n_warmup_steps=int(plan.base.most_epochs * WARM_UP) + 1)


def _sampler(seed: int, number: int, field: str) -> optuna.samplers.BaseSampler:
    own = int(hashlib.sha256(f"{seed} {number} {field}".encode()).hexdigest()[:8], 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Trials under way count as bad ones, so that jobs side by side do not all try the same.
        return optuna.samplers.TPESampler(seed=own, constant_liar=True)


def _suggest(trial: Trial, dimension: Dimension) -> Value:
    if isinstance(dimension, Choices):
        return trial.suggest_categorical(dimension.field, dimension.values)
    low, high, log = dimension.low, dimension.high, dimension.log
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(dimension.field, low, high, log=log)
    return trial.suggest_float(dimension.field, low, high, log=log)
