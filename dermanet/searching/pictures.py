"""Optuna's pictures of a study, drawn by matplotlib."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib import pyplot
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import TrialState
from optuna.visualization import matplotlib as drawing

from dermanet.searching.study import Study

LEAST = 4
"""Finished trials below which nothing is said of what matters."""


def draw(study: Study) -> dict[str, Figure]:
    """The history of the objective, and how much each field mattered, by file name; nothing before a trial has finished."""
    finished = study.kept.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not finished:
        return {}
    name = study.plan.objective
    wanted: dict[str, Callable[[], matplotlib.axes.Axes]] = {
        "optimization_history.png": lambda: drawing.plot_optimization_history(study.kept, target_name=name)
    }
    if len(finished) >= LEAST and len({trial.value for trial in finished}) > 1:
        judge = FanovaImportanceEvaluator(seed=study.plan.base.seed)
        wanted["param_importances.png"] = lambda: drawing.plot_param_importances(study.kept, judge, target_name=name)
    with _off_screen():
        return {file: _whole(draw_one()) for file, draw_one in wanted.items()}


def _whole(axes: matplotlib.axes.Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure
    figure.set_layout_engine("constrained")
    pyplot.close(figure)
    return figure


@contextmanager
def _off_screen() -> Iterator[None]:
    """Optuna draws by pyplot and sets its style for the whole process: no window, and the style as it was afterwards."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        pyplot.switch_backend("agg")
        yield
